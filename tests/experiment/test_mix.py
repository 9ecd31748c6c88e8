"""Mixtures of both ends of a ranking and of random rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment import MAIN, ScanTable, choose_rows, expand_arms, parse_experiment

SCORES = np.random.default_rng(5).permutation(40) / 40


def table() -> pa.Table:
    """Forty rows in random order of risk."""
    number = np.arange(40)
    columns = {"row": number, "id": [f"r{n}" for n in number], "status": ["ok"] * 40, "gradient_bidirectional": SCORES}
    said = {"default_ranking": "gradient_bidirectional", "direction_of_risk": {"gradient_bidirectional": "higher"}}
    return pa.table(columns).replace_schema_metadata({"ripcurrent": json.dumps(said)})


def chosen(mix: dict[str, Any], size: int, seed: int = 0) -> tuple[int, ...]:
    config = parse_experiment(
        {"name": "mixed", "data": "d", "arms": {"mixed": {"mix": mix, "size": size}}, "control": None},
        where="test",
    )
    (arm,) = expand_arms(config)
    selection = choose_rows(arm, seed, {MAIN: ScanTable(Path(), table(), "hash")}, {arm.name: arm})
    assert selection.scores in ((), tuple(SCORES[list(selection.indices)]))
    return selection.indices


def test_a_mixture_has_so_many_of_either_end_and_others_at_random() -> None:
    riskiest_first = np.argsort(-SCORES).tolist()
    rows = chosen({"top": 30, "bottom": 20}, 10)
    assert len(set(rows)) == 10
    assert set(riskiest_first[:3]) <= set(rows)
    assert set(riskiest_first[-2:]) <= set(rows)
    others = set(rows) - set(riskiest_first[:3]) - set(riskiest_first[-2:])
    assert len(others) == 5
    again = chosen({"top": 30, "bottom": 20}, 10)
    other_seed = chosen({"top": 30, "bottom": 20}, 10, seed=1)
    assert again == rows
    assert other_seed != rows


def test_the_ends_alone_are_top_and_bottom() -> None:
    order = np.argsort(-SCORES).tolist()
    assert set(chosen({"top": 100}, 7)) == set(order[:7])
    assert set(chosen({"bottom": 100}, 7)) == set(order[-7:])


@pytest.mark.parametrize(
    ("mix", "says"),
    [
        ({"top": 60, "bottom": 50}, "more than 100 % together"),
        ({"tops": 60}, "there is no key 'tops'. Did you mean top?"),
        ({"top": -1}, "top -1 is not possible"),
    ],
)
def test_what_cannot_be_mixed_is_named(mix: dict[str, Any], says: str) -> None:
    with pytest.raises(RipcurrentError, match=says):
        chosen(mix, 10)


def test_more_rows_than_there_are_is_an_error() -> None:
    with pytest.raises(RipcurrentError, match="41 rows cannot be mixed of 40 usable ones"):
        chosen({"top": 50}, 41)


def test_ends_that_would_overlap_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = SCORES.copy()
    scores[8:] = np.nan
    monkeypatch.setattr("tests.experiment.test_mix.SCORES", scores)
    with pytest.raises(
        RipcurrentError, match="6 riskiest and 4 most protective rows cannot be taken of the 8 that have"
    ):
        chosen({"top": 60, "bottom": 40}, 10)
