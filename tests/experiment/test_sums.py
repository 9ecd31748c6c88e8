"""Sums with a known result: what an answer comes to, and where arms are asked them."""

from __future__ import annotations

from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment import parse_experiment
from ripcurrent.experiment._config import Accuracy
from ripcurrent.experiment._experiment import run_experiment
from ripcurrent.experiment._sums import draw_sums, result_of
from tests.experiment.answers import FakeEvaluate
from tests.experiment.conftest import read
from tests.tiny_scan import write_jsonl


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        ("He has 3 + 4 = <<3+4=7>>7 boats.\n#### 7", "7"),
        ("#### 1,250.50", "1250.5"),
        ("That is $1,250 in all.", "1250"),
        ("First 5, then 12. So the answer is 12.", "12"),
        ("It falls to -3 degrees.", "-3"),
        ("It falls to −3 degrees.", "-3"),
        ("10-3", "3"),
        ("#### 18 apples of 20", "18"),
        ("No idea.", None),
        ("", None),
    ],
)
def test_what_an_answer_comes_to(answer: str, result: str | None) -> None:
    assert result_of(answer) == (None if result is None else Decimal(result))


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    rows = [{"question": f"What is {n} + {n}?", "answer": f"{n} + {n} = {2 * n}\n#### {2 * n}"} for n in range(30)]
    return write_jsonl(tmp_path / "sums.jsonl", rows)


def test_the_same_sums_are_drawn_every_time(sums: Path, tmp_path: Path) -> None:
    drawn = draw_sums(Accuracy(file=str(sums), limit=8))
    assert drawn == draw_sums(Accuracy(file=str(sums), limit=8))
    assert len({one.id for one in drawn}) == 8
    assert all(one.question == f"What is {one.id} + {one.id}?" and one.result == 2 * int(one.id) for one in drawn)
    assert len(draw_sums(Accuracy(file=str(sums), limit=99))) == 30
    wordy = write_jsonl(tmp_path / "wordy.jsonl", [{"question": "Why?", "answer": "Because."}])
    with pytest.raises(RipcurrentError, match="row 0: the answer has no number"):
        draw_sums(Accuracy(file=str(wordy)))


@pytest.mark.parametrize(("solved_by_base", "solved_by_top"), [(4, 2), (0, None)])
def test_arms_are_asked_where_the_untrained_model_solves_some(
    keys: dict[str, Any],
    evaluated: FakeEvaluate,
    sums: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    solved_by_base: int,
    solved_by_top: int | None,
) -> None:
    monkeypatch.setattr(import_module("ripcurrent.experiment._experiment"), "_page", lambda *given: None)

    def completes(arm: str, row: dict[str, Any]) -> str:
        if row["source"] != "sums":
            return "…"
        solved = {"base": solved_by_base, "top-seed0": 2}.get(arm, 0)
        right = 2 * int(row["id"])
        place = [one.id for one in drawn].index(row["id"])
        return f"It comes to {right if place < solved else right + 1}."

    evaluated.completes = completes
    keys |= {"arms": {"top": "top"}, "control": None, "seeds": [0], "gsm8k": {"file": str(sums), "limit": 8}}
    config = parse_experiment(keys, where="test")
    assert config.gsm8k is not None
    drawn = draw_sums(config.gsm8k)
    run_experiment(config, tmp_path / "out")
    accuracy = {name: read(tmp_path / "out" / "arms" / name / "arm.json")["accuracy"] for name in ("base", "top-seed0")}
    assert accuracy == {"base": solved_by_base / 8, "top-seed0": None if solved_by_top is None else solved_by_top / 8}
    asked = [call["arm"] for call in evaluated.calls if call["prompts"][0].endswith("sums.jsonl")]
    assert asked == (["base"] if solved_by_top is None else ["base", "top-seed0"])
    assert read(tmp_path / "out" / "results.json")["sums"]["taken"] == 8
    # a folder without sums is not gone on with as one that has them
    del keys["gsm8k"]
    with pytest.raises(RipcurrentError, match="gsm8k"):
        run_experiment(parse_experiment(keys, where="test"), tmp_path / "out")
