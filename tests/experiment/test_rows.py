"""The rows of an arm, against plain loops over a made-up table of scores."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest

from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment import expand_arms, parse_experiment
from ripcurrent.experiment._file import MAIN
from ripcurrent.experiment._rows import choose_rows
from ripcurrent.scan import ScanRun
from tests.select.fabricate import fabricate

ROWS = 60


@cache
def scan(rows: int = ROWS, longer: int = 0) -> ScanRun:
    """Rows of which two are unusable and every third is a list; scores and lengths are unrelated."""
    random = np.random.default_rng(3)
    number = np.arange(rows)
    columns: dict[str, Any] = {
        "status": ["too_long" if n in (5, 17) else "ok" for n in number],
        "response_tokens": random.permutation(rows) + 5 + longer,
        "gradient_bidirectional": random.permutation(rows) / rows,
        **{f"is_{name}": number % 3 == 0 for name in ("list", "bullet", "numbered", "maths", "code", "short")},
        **{name: number < 0 for name in ("has_refusal", "opens_numbered")},
    }
    return fabricate(Path(mkdtemp()), rows, unscored=0, columns={k: list(v) for k, v in columns.items()})


def chosen(rule: Any, seed: int = 0, **others: Any) -> list[int]:
    """Row numbers of an arm by a rule, in ascending order."""
    keys = {"name": "x", "data": "d", "size": 12, "control": None, "arms": {"arm": rule, **others}}
    arms = {arm.name: arm for arm in expand_arms(parse_experiment(keys, where="x"))}
    found = choose_rows(arms["arm"], seed, {MAIN: scan()}, arms)
    assert found.name == "arm"
    return sorted(found.indices)


def usable() -> list[dict[str, Any]]:
    columns = ["row", "status", "response_tokens", "gradient_bidirectional", "is_list"]
    return [row for row in scan().take(range(ROWS), columns).to_pylist() if row["status"] == "ok"]


def test_a_share_is_the_share_asked_for_and_nested() -> None:
    lists = {row["row"] for row in usable() if row["is_list"]}
    by_percent = {p: chosen({"mix": {"of": "list", "percent": p}}) for p in (0, 25, 50, 100)}
    assert {p: len(lists & set(rows)) for p, rows in by_percent.items()} == {0: 0, 25: 3, 50: 6, 100: 12}
    assert lists & set(by_percent[25]) < lists & set(by_percent[50])


def test_a_mixture_has_the_riskiest_and_random_others() -> None:
    ranked = [row["row"] for row in sorted(usable(), key=lambda row: -row["gradient_bidirectional"])]
    mixed = chosen({"mix": {"of": "top", "percent": 50}})
    assert len(mixed) == 12
    assert set(ranked[:6]) <= set(mixed)
    assert chosen({"mix": {"of": "top", "percent": 50}}, seed=1) != mixed
    assert chosen({"mix": {"of": "top", "percent": 100}}) == sorted(ranked[:12])


def test_all_but_leaves_out_just_those() -> None:
    everything = chosen("all")
    assert len(everything) == 58
    riskiest = chosen({"select": "top", "size": "20%"})
    assert len(riskiest) == 12
    assert chosen({"all_but": {"select": "top", "size": "20%"}}) == sorted(set(everything) - set(riskiest))
    any_fifth = {"all_but": {"select": "random", "size": "20%"}}
    assert len(chosen(any_fifth)) == 46
    assert chosen(any_fifth, seed=0) != chosen(any_fifth, seed=1)


def test_controls_share_no_row_with_what_they_stand_beside() -> None:
    top = set(chosen("top"))
    for rule in ("length_matched", "format_matched"):
        found = chosen({rule: "top"}, top="top")
        assert len(found) == 12
        assert not top & set(found)


def test_seeds_draw_again() -> None:
    assert chosen("random", seed=0) != chosen("random", seed=1)
    assert chosen("top", seed=0) == chosen("top", seed=1)


def test_an_arm_without_rows_is_named() -> None:
    with pytest.raises(RipcurrentError, match="Arm arm: Column 'lsos' is not in these scores"):
        chosen({"select": "top", "by": "lsos"})
    with pytest.raises(RipcurrentError, match="Arm arm: Column 'response_tokens' does not rank risk"):
        chosen({"select": "top", "by": "response_tokens"})


def test_what_is_made_from_an_arm_of_another_scan_is_made_of_that_scans_rows() -> None:
    arms = {
        "random": "random",
        "top": {"select": "top", "scan": "second"},
        "same": {"length_matched": "top"},
        "again": {"format_matched": "top"},
        "rest": {"all_but": {"select": "top", "size": 3}, "scan": "second"},
    }
    scans = {"second": {"data": "e"}}
    keys = {"name": "x", "data": "d", "size": 6, "control": None, "arms": arms, "scans": scans}
    found = {arm.name: arm for arm in expand_arms(parse_experiment(keys, where="x"))}
    other = scan(30, longer=1000)
    tables = {MAIN: scan(), "second": other}
    lengths, ok = other.floats("response_tokens"), {*np.flatnonzero(other.scored).tolist()}
    top = choose_rows(found["top"], 0, tables, found)
    same = choose_rows(found["same"], 0, tables, found)
    assert not set(same.indices) & set(top.indices)
    assert abs(np.mean([lengths[n] for n in same.indices]) - np.mean([lengths[n] for n in top.indices])) < 100
    assert set(choose_rows(found["again"], 0, tables, found).indices) <= ok
    assert len(choose_rows(found["rest"], 0, tables, found).indices) == len(ok) - 3


def test_all_but_a_rule_without_a_size_leaves_out_as_many_rows_as_an_arm_has() -> None:
    riskiest = sorted(usable(), key=lambda row: -row["gradient_bidirectional"])[:12]
    assert chosen({"all_but": {"select": "top"}}) == sorted(
        {row["row"] for row in usable()} - {r["row"] for r in riskiest}
    )
