"""What two sets of rows have in common, told by sketches, and the forecast's error without such sets."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ripcurrent.forecast._calibrate import as_trials
from ripcurrent.forecast._calibrate_runs import calibrate
from ripcurrent.forecast._harm_fit import fit_harm
from ripcurrent.forecast._shared_rows import DIGITS, KEPT, neighbours, shared_rows, sketch_rows
from tests.forecast.ladder_folder import ScanRows, fabricate_ladder
from tests.forecast.test_ladder import calibrated, other_rows, rows

__all__ = ["other_rows", "rows"]


def hashes(rows: object) -> list[str]:
    return [hashlib.sha256(str(row).encode()).hexdigest() for row in rows]  # type: ignore[attr-defined]


@given(st.sets(st.integers(0, 300), max_size=KEPT - 1), st.sets(st.integers(0, 300), max_size=KEPT - 1))
def test_small_sets_are_compared_exactly(first: set[int], second: set[int]) -> None:
    smaller = min(len(first), len(second))
    exact = len(first & second) / smaller if smaller else 0.0
    a, b = sketch_rows(hashes(first)), sketch_rows(hashes(second))
    assert shared_rows(a, b) == shared_rows(b, a) == pytest.approx(exact)


@pytest.mark.parametrize(("first", "second"), [(1000, 1000), (1000, 400), (848, 1060)])
def test_large_sets_are_told_nearly(first: int, second: int) -> None:
    """The estimate is a share of the smaller set's rows below the cut: KEPT of them, or fewer of a much smaller set."""
    gaps = []
    below = KEPT * min(first, second) / max(first, second)
    for common in (0, second // 4, second // 2, second):
        for draw in range(10):
            a = [f"{draw} {row}" for row in range(first)]
            b = [f"{draw} {row}" for row in range(first - common, first - common + second)]
            exact = len({*a} & {*b}) / min(first, second)
            gaps.append(shared_rows(sketch_rows(hashes(a)), sketch_rows(hashes(b))) - exact)
    assert abs(np.mean(gaps)) < 0.5 / np.sqrt(below * len(gaps)) * 3
    assert np.std(gaps) < 0.5 / np.sqrt(below) * 1.3


def test_a_sketch_is_small_and_in_order() -> None:
    found = sketch_rows(hashes([*range(1000), *range(10)]))
    assert len(found) == KEPT
    assert list(found) == sorted(set(found))
    assert {len(one) for one in found} == {DIGITS}


def test_neighbours_are_those_with_a_fifth_in_common() -> None:
    sets = [range(100), range(10), range(80, 180), range(81, 181), range(500, 600)]
    found = neighbours([sketch_rows(hashes(one)) for one in sets], ["one"] * len(sets))
    by_hand = np.array([[len({*a} & {*b}) / min(len(a), len(b)) >= 0.2 for b in sets] for a in sets])
    assert np.array_equal(found, by_hand)
    # ten rows of a hundred are all of its rows
    assert found[0].tolist() == [True, True, True, False, False]


def test_of_a_small_set_beside_a_large_one_nothing_is_told() -> None:
    large, small, other = (sketch_rows(hashes(own)) for own in (range(1060), range(20), range(2000, 2020)))
    assert np.isnan(shared_rows(large, small))
    assert neighbours([large, small, other], ["one", "one", "two"]).tolist() == [
        [True, True, False],
        [True, True, False],
        [False, False, True],
    ]


def test_the_error_without_sets_that_share_rows(rows: ScanRows, tmp_path: Path) -> None:
    """Each arm is forecast by the fit without it and without every arm that shares a fifth of the smaller's rows."""
    order = rows.riskiest_first
    arms = {f"part-{n}": order[20 * n : 20 * n + 20] for n in range(6)}
    # ten rows of twenty, and rows of two
    arms |= {"within": order[:10], "across": order[30:50]}
    folder = fabricate_ladder(tmp_path / "exp", rows, arms, seeds=2)
    made = calibrated(tmp_path, folder)
    sets = {arm: set(indices) for arm, indices in arms.items()}
    gaps = []
    for arm, own in sets.items():
        near = {other for other, its in sets.items() if len(own & its) / min(len(own), len(its)) >= 0.2}
        assert (len(near) > 1) == (arm in ("part-0", "within", "part-1", "part-2", "across"))
        trials = as_trials(made.runs, made.columns)
        fit = fit_harm(trials.where(np.array([run.arm not in near for run in made.runs])))
        ones = [run for run in made.runs if run.arm == arm]
        facts = [trials.facts[place] for place, run in enumerate(made.runs) if run.arm == arm]
        told = [fit.forecast(fact, run.asked, run.source).answered for fact, run in zip(facts, ones, strict=True)]
        gaps.append(abs(np.mean(told) - np.mean([run.share for run in ones])))
    assert made.error_by_rows is not None
    assert made.error_by_rows.held_out == "rows"
    assert made.error_by_rows.groups == len(arms)
    assert made.error_by_rows.mean_absolute_error == pytest.approx(np.mean(gaps))
    assert made.error_by_rows.mean_absolute_error != made.error_by_arm.mean_absolute_error


def test_a_run_of_unknown_rows_may_share_any_of_its_source(
    rows: ScanRows, other_rows: ScanRows, tmp_path: Path
) -> None:
    order, others = rows.riskiest_first, other_rows.riskiest_first
    arms = {f"part-{n}": order[20 * n : 20 * n + 20] for n in range(6)}
    first = fabricate_ladder(tmp_path / "a", rows, arms)
    second = fabricate_ladder(tmp_path / "b", other_rows, {"other-1": others[:20], "other-2": others[-20:]})
    (first / "arms" / "part-0-seed0" / "finetune" / "rows.jsonl").unlink()
    made = calibrated(tmp_path, first, second)
    assert made.error_by_rows is not None
    assert (made.error_by_rows.groups, made.error_by_rows.runs, len(made.runs)) == (7, 7, 8)
    gaps = []
    for run in made.runs:
        if run.arm == "part-0":
            continue
        left = {run.arm} | ({"part-0"} if run.arm.startswith("part") else set())
        fit = fit_harm(as_trials([one for one in made.runs if one.arm not in left], made.columns))
        told = fit.forecast(as_trials([run], made.columns).facts[0], run.asked, run.source).answered
        gaps.append(abs(told - run.share))
    assert made.error_by_rows.mean_absolute_error == pytest.approx(np.mean(gaps))
    for place in (first / "arms").glob("*/finetune/rows.jsonl"):
        place.unlink()
    alone = calibrate([first], tmp_path / "alone.json")
    assert alone.error_by_rows is None


def test_arms_that_share_nothing_have_one_error(rows: ScanRows, tmp_path: Path) -> None:
    order = rows.riskiest_first
    folder = fabricate_ladder(tmp_path / "exp", rows, {f"part-{n}": order[20 * n : 20 * n + 20] for n in range(8)})
    made = calibrated(tmp_path, folder)
    assert made.error_by_rows is not None
    assert made.error_by_rows.model_copy(update={"held_out": "arm"}) == made.error_by_arm
