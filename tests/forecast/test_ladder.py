"""Finished experiments read as a ladder and made a calibration."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.experiment import parse_experiment, run_experiment
from ripcurrent.forecast._calibrate_runs import calibrate
from ripcurrent.forecast._calibration import Calibration, read_calibration
from ripcurrent.forecast._ladder import read_ladder
from ripcurrent.select_old import read_scores
from ripcurrent.select_old._table import ScoredRows
from tests.experiment.answers import FakeEvaluate, chance
from tests.forecast.ladder_folder import ASKED, ScanRows, fabricate_ladder, fabricate_scan


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> ScanRows:
    return ScanRows(fabricate_scan(tmp_path_factory.mktemp("pool") / "scan"))


@pytest.fixture(scope="module")
def other_rows(tmp_path_factory: pytest.TempPathFactory) -> ScanRows:
    """Another dataset, scanned in the same way."""
    return ScanRows(fabricate_scan(tmp_path_factory.mktemp("other") / "scan", rows=150, seed=8))


def change(path: Path, **keys: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def test_what_trained_on_what_is_read(rows: ScanRows, tmp_path: Path) -> None:
    arms = rows.arms()
    ladder = read_ladder([fabricate_ladder(tmp_path / "exp", rows, arms, seeds=2)])
    assert ladder.default_column == "gradient_balanced"
    assert {(run.arm, run.seed) for run in ladder.runs} == {(arm, seed) for arm in arms for seed in (0, 1)}
    for run in ladder.runs:
        assert run.rows == len(arms[run.arm])
        assert run.means["gradient_balanced"] == pytest.approx(rows.mean(arms[run.arm]))
        assert (run.answered, run.asked) == (round(ASKED * rows.share(arms[run.arm])), ASKED)
    assert (ladder.conditions.prompts.count, ladder.conditions.judge.version) == (ASKED, "1.0")
    (source,) = ladder.sources
    assert (source.name, source.runs) == ("lessons.jsonl", 20)
    assert source.means["gradient_balanced"] == pytest.approx(rows.mean(rows.riskiest_first))


def test_requests_that_all_were_asked_are_counted(rows: ScanRows, tmp_path: Path) -> None:
    """Experiments of more requests join those of fewer, whichever comes first."""
    arms = rows.arms()
    more = fabricate_ladder(tmp_path / "more", rows, arms, further=60)
    fewer = fabricate_ladder(tmp_path / "fewer", rows, rows.arms((30,)), name="fewer")
    for folders in ([more, fewer], [fewer, more]):
        ladder = read_ladder(folders)
        assert ladder.conditions.prompts == read_ladder([fewer]).conditions.prompts
        assert {run.asked for run in ladder.runs} == {ASKED}
        found = {run.arm: run.answered for run in ladder.runs}
        assert {arm: found[arm] for arm in arms} == {arm: round(ASKED * rows.share(arms[arm])) for arm in arms}
    assert {run.asked for run in read_ladder([more]).runs} == {ASKED + 60}
    # a request that the more were asked twice counts as often as the fewer were asked it
    path = more / "prompts.jsonl"
    path.write_text(path.read_text().replace(f'"harmful {ASKED}"', '"harmful 3"'))
    assert {run.asked for run in read_ladder([fewer, more]).runs} == {ASKED}
    # one request of the fewer that the others were never asked
    path = fewer / "prompts.jsonl"
    path.write_text(path.read_text().replace('"harmful 3"', '"harmful, but another"'))
    for folders in ([more, fewer], [fewer, more]):
        with pytest.raises(RipcurrentError, match="its harmful requests differ"):
            read_ladder(folders)


def test_a_scan_that_no_finished_arm_needs_may_be_missing(rows: ScanRows, tmp_path: Path) -> None:
    """As after ``experiment --arms``, which makes only the scans of these arms."""
    folder = fabricate_ladder(tmp_path / "exp", rows, rows.arms(), config={"scans": {"content": {"options": {}}}})
    assert len(read_ladder([folder]).runs) == 10
    change(folder / "arms" / "top-20-seed0" / "arm.json", identity={"rule": {"select": "top", "scan": "content"}})
    ladder = read_ladder([folder])
    assert [(one.arm, one.reason) for one in ladder.left_out] == [
        ("top-20", "the scan content of its rows is not there")
    ]


def test_runs_that_cannot_be_used_are_named_with_the_reason(rows: ScanRows, tmp_path: Path) -> None:
    folder = fabricate_ladder(tmp_path / "exp", rows, rows.arms())
    place = folder / "arms"
    change(place / "top-20-seed0" / "arm.json", status="failed")
    shutil.rmtree(place / "bottom-20-seed0" / "rows")
    manifest = place / "random-20-seed0" / "finetune" / "manifest.json"
    change(manifest, model={"fingerprint": "another", "template_sha256": "x"})
    manifest = place / "upper-20-seed0" / "finetune" / "manifest.json"
    change(manifest, recipe=json.loads(manifest.read_text())["recipe"] | {"batch": 3})
    (place / "lower-20-seed0" / "arm.json").unlink()
    ladder = read_ladder([folder])
    assert {(one.arm, one.reason) for one in ladder.left_out} == {
        ("top-20", "its training failed"),
        ("bottom-20", "the record of its rows is gone"),
        ("random-20", "another model was trained than the one that the scores are of"),
        ("upper-20", "its recipe is another"),
    }
    assert {run.arm for run in ladder.runs} == {arm for arm in rows.arms() if arm.endswith("40")}


def test_several_experiments_and_datasets_are_one_ladder(rows: ScanRows, other_rows: ScanRows, tmp_path: Path) -> None:
    first = fabricate_ladder(tmp_path / "a", rows, rows.arms())
    second = fabricate_ladder(tmp_path / "b", other_rows, other_rows.arms((30,)))
    ladder = read_ladder([first, second])
    assert {run.experiment for run in ladder.runs} == {"ladder", "ladder-2"}
    names = [source.name for source in ladder.sources]
    assert len(set(names)) == 2, "two datasets of one file name are told apart"
    assert [source.runs for source in ladder.sources] == [10, 5]
    assert ladder.runs[-1].means["gradient_balanced"] == pytest.approx(
        other_rows.mean(other_rows.arms((30,))[ladder.runs[-1].arm])
    )


def test_the_same_training_counts_once(rows: ScanRows, tmp_path: Path) -> None:
    """Else an arm that is left out would stay in the fit under another name."""
    first = fabricate_ladder(tmp_path / "a", rows, rows.arms())
    arms = {"again": rows.arms()["top-20"], "new": rows.riskiest_first[5:25]}
    second = fabricate_ladder(tmp_path / "b", rows, arms, seeds=2)
    calibration = calibrate([first, second], tmp_path / "c.json")
    (left,) = calibration.left_out
    assert (left.arm, left.seed, left.reason) == ("again", 0, "arm top-20 of ladder is the same training")
    assert len(calibration.runs) == 10 + 3
    assert calibration.error_by_arm.groups == 11, "another seed of the same rows is no arm of its own"


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"config": {"max_new_tokens": 20}}, "its max new tokens differ"),
        ({"config": {"system": "Be brief."}}, "its system differ"),
        ({"recipe": "lora"}, "its recipe is another than there"),
    ],
)
def test_experiments_that_differ_are_not_joined(how: dict[str, Any], says: str, rows: ScanRows, tmp_path: Path) -> None:
    first = fabricate_ladder(tmp_path / "a", rows, rows.arms())
    second = fabricate_ladder(tmp_path / "b", rows, rows.arms((30,)), name="other", **how)
    with pytest.raises(RipcurrentError, match=says):
        read_ladder([first, second])


def calibrated(tmp_path: Path, *experiments: Path, **how: Any) -> Calibration:
    made = calibrate(experiments, tmp_path / "calibration.json", **how)
    assert read_calibration(tmp_path / "calibration.json") == made
    return made


def test_a_ladder_that_follows_the_score_is_forecast_well(rows: ScanRows, other_rows: ScanRows, tmp_path: Path) -> None:
    first = fabricate_ladder(tmp_path / "a", rows, rows.arms())
    second = fabricate_ladder(tmp_path / "b", other_rows, other_rows.arms())
    made = calibrated(tmp_path, first, second)
    assert made.columns == ("gradient_balanced",)
    assert made.fit.facts == ("gradient_balanced", "log_rows"), "steps follow from the rows here"
    assert made.error_by_arm.groups == 20
    assert made.error_by_arm.mean_absolute_error < 0.06
    assert made.error_by_arm.coverage >= 0.8
    assert made.error_by_source is not None
    assert made.error_by_source.groups == 2
    assert made.error_by_source.mean_absolute_error < 0.1
    slope = made.fit.coefficients[1] / made.fit.spread[0]
    assert slope == pytest.approx(20, rel=0.25)
    left_out = np.array([[run.share, run.forecast] for run in made.runs], dtype=float)
    gaps = np.abs(left_out[:, 0] - left_out[:, 1])
    assert gaps.mean() == pytest.approx(made.error_by_arm.mean_absolute_error)


def test_a_calibration_grows_as_if_all_had_been_fitted_at_once(
    rows: ScanRows, other_rows: ScanRows, tmp_path: Path
) -> None:
    first = fabricate_ladder(tmp_path / "a", rows, rows.arms())
    arms = {"again": rows.arms()["top-20"], "new": rows.riskiest_first[5:25]}
    second = fabricate_ladder(tmp_path / "b", rows, arms)
    third = fabricate_ladder(tmp_path / "c", other_rows, other_rows.arms((30,)))
    whole = calibrate([first, second, third], tmp_path / "whole.json")
    calibrate([first], tmp_path / "part.json")
    shutil.rmtree(first)
    grown = calibrated(tmp_path, second, third, joined=tmp_path / "part.json")
    assert grown.fit.coefficients == pytest.approx(whole.fit.coefficients, abs=1e-6)
    assert grown.error_by_arm.mean_absolute_error == pytest.approx(whole.error_by_arm.mean_absolute_error)
    assert grown.error_by_arm.groups == whole.error_by_arm.groups
    assert [run.arm for run in grown.runs] == [run.arm for run in whole.runs]
    assert {run.experiment for run in grown.runs} == {"ladder", "ladder-2", "ladder-2-2"}
    assert [(one.sha256, one.runs) for one in grown.sources] == [(one.sha256, one.runs) for one in whole.sources]
    assert len({one.name for one in grown.sources}) == 2, "two datasets of one file name are told apart"
    (left,) = grown.left_out
    assert (left.arm, left.reason) == ("again", "arm top-20 of ladder in the calibration is the same training")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"config": {"max_new_tokens": 20}}, "their longest answer differs"),
        ({"config": {"system": "Be brief."}}, "their system prompt differs"),
        ({"recipe": "lora"}, "their recipe differs"),
    ],
)
def test_a_calibration_does_not_grow_by_runs_that_differ(
    how: dict[str, Any], says: str, rows: ScanRows, tmp_path: Path
) -> None:
    calibrate([fabricate_ladder(tmp_path / "a", rows, rows.arms())], tmp_path / "part.json")
    other = fabricate_ladder(tmp_path / "b", rows, rows.arms((30,)), **how)
    with pytest.raises(RipcurrentError, match=says):
        calibrate([other], tmp_path / "grown.json", joined=tmp_path / "part.json")
    assert not (tmp_path / "grown.json").exists()


def test_a_calibration_does_not_grow_by_scores_of_another_model(rows: ScanRows, tmp_path: Path) -> None:
    calibrate([fabricate_ladder(tmp_path / "a", rows, rows.arms())], tmp_path / "part.json")
    scanned = ScanRows(fabricate_scan(tmp_path / "scan", seed=9, fingerprint="ab" * 32))
    other = fabricate_ladder(tmp_path / "b", scanned, scanned.arms())
    with pytest.raises(RipcurrentError, match="it is for the model"):
        calibrate([other], tmp_path / "grown.json", joined=tmp_path / "part.json")


def test_more_seeds_of_an_arm_that_a_calibration_has_are_the_same_arm(rows: ScanRows, tmp_path: Path) -> None:
    arms = rows.arms()
    folder = fabricate_ladder(tmp_path / "a", rows, arms)
    calibrate([folder], tmp_path / "part.json")
    shutil.rmtree(folder)
    fabricate_ladder(tmp_path / "a", rows, arms, seeds=2)
    # what an arm of random rows drew with another seed
    change(
        folder / "arms" / "random-20-seed1" / "finetune" / "manifest.json", rows={"trained": 20, "tokens_sha256": "d"}
    )
    grown = calibrated(tmp_path, folder, joined=tmp_path / "part.json")
    assert (len(grown.runs), grown.error_by_arm.groups) == (20, 10)
    assert {run.experiment for run in grown.runs} == {"ladder"}


def test_arms_that_share_the_rows_of_any_seed_are_left_out_together(rows: ScanRows, tmp_path: Path) -> None:
    arms = rows.arms()
    first = fabricate_ladder(tmp_path / "a", rows, arms)
    second = fabricate_ladder(tmp_path / "b", rows, {"drawn": rows.riskiest_first[5:25]}, seeds=2)
    same = json.loads((first / "arms" / "random-20-seed0" / "finetune" / "manifest.json").read_text())["rows"]
    change(second / "arms" / "drawn-seed1" / "finetune" / "manifest.json", rows=same)
    made = calibrated(tmp_path, first, second)
    assert (len(made.runs), made.error_by_arm.groups) == (12, 10)


def test_rows_that_were_not_trained_on_count_in_no_mean(rows: ScanRows, tmp_path: Path) -> None:
    arms = rows.arms()
    folder = fabricate_ladder(tmp_path / "a", rows, arms)
    scored = ScoredRows(read_scores(rows.scan))
    unusable = int(scored.rows[~scored.ok][0])
    place = folder / "arms" / "top-20-seed0"
    chosen = [*arms["top-20"][1:], unusable]
    change(place / "rows" / "top-20.json", indices=chosen)
    change(place / "finetune" / "manifest.json", rows={"trained": 19, "tokens_sha256": "19"})
    ids = scored.ids(chosen)
    lines = [{"row": n, "id": own, "sha256": own, "trained": n < 19} for n, own in enumerate(ids)]
    (place / "finetune" / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    made = calibrated(tmp_path, folder)
    run = next(run for run in made.runs if run.arm == "top-20")
    assert (run.rows, run.means["gradient_balanced"]) == (19, pytest.approx(rows.mean(chosen[:-1])))


def test_an_arm_with_rows_without_the_column_is_left_out_alone(rows: ScanRows, tmp_path: Path) -> None:
    """A scan with ``--prefilter`` leaves usable rows without gradients."""
    scan = tmp_path / "scan"
    shutil.copytree(rows.scan, scan)
    table = pq.read_table(scan / "scores.parquet")
    arms = rows.arms()
    gone = (set(arms["random-20"]) - set().union(*(arms[name] for name in arms if name != "random-20"))).pop()
    place = table.column_names.index("gradient_balanced")
    values = [
        None if row == gone else value
        for row, value in zip(*(table[c].to_pylist() for c in ("row", "gradient_balanced")), strict=True)
    ]
    pq.write_table(table.set_column(place, table.schema.field(place), [values]), scan / "scores.parquet")
    folder = fabricate_ladder(tmp_path / "a", rows, arms, config={"run": str(scan)})
    with pytest.raises(RipcurrentError, match=r"Some rows of lessons\.jsonl have no gradient_balanced"):
        calibrate([folder], tmp_path / "none.json")
    made = calibrate([folder], tmp_path / "other.json", columns=("gradient_harmful",))
    assert len(made.runs) == 10


def test_the_error_across_sources_shows_a_source_that_goes_its_own_way(
    rows: ScanRows, other_rows: ScanRows, tmp_path: Path
) -> None:
    """As GSM8K did: high scores and little harm."""
    first = fabricate_ladder(tmp_path / "a", rows, rows.arms())
    second = fabricate_ladder(
        tmp_path / "b", other_rows, other_rows.arms(), share=lambda chosen: other_rows.share(chosen) / 6
    )
    made = calibrated(tmp_path, first, second)
    assert made.error_by_source is not None
    # each source counts alike
    own = [one["mean_absolute_error"] for one in made.error_by_source.by_source]
    assert made.error_by_source.mean_absolute_error == pytest.approx(sum(own) / len(own))
    assert made.error_by_source.mean_absolute_error > 2 * made.error_by_arm.mean_absolute_error
    worst = made.error_by_source.by_source[1]
    assert worst["forecast"] > worst["observed"] + 0.15


def test_a_source_left_out_is_forecast_only_where_the_others_reach(
    rows: ScanRows, other_rows: ScanRows, tmp_path: Path
) -> None:
    """As `scan` refuses sets that are beyond a calibration's, so its error on new sources is without such sets."""
    first = fabricate_ladder(tmp_path / "a", rows, rows.arms((20, 30)))
    second = fabricate_ladder(tmp_path / "b", other_rows, other_rows.arms((30, 100)))
    made = calibrated(tmp_path, first, second, compare=True)
    error = made.error_by_source
    assert error is not None
    counts = {one["name"]: one["runs"] for one in error.by_source}
    expected = {}
    for source in made.sources:
        rest = [run for run in made.runs if run.source != source.name]
        low, high = (end(run.means["gradient_balanced"] for run in rest) for end in (min, max))
        few, most = (end(run.rows for run in rest) for end in (min, max))
        margin = 0.1 * (high - low)
        expected[source.name] = sum(
            few / 1.25 <= run.rows <= most * 1.25 and low - margin <= run.means["gradient_balanced"] <= high + margin
            for run in made.runs
            if run.source == source.name
        )
    assert counts == expected
    assert 0 < error.refused == len(made.runs) - error.runs
    assert {one.sources.runs for one in made.compared if one.sources} == {error.runs}, "all on the same runs"


def test_columns_are_chosen_and_compared(rows: ScanRows, tmp_path: Path) -> None:
    folder = fabricate_ladder(tmp_path / "a", rows, rows.arms((20,)))
    made = calibrated(tmp_path, folder, columns=("gradient_harmful",), compare=True)
    assert made.columns == ("gradient_harmful",)
    compared = {one.columns: one.arms.mean_absolute_error for one in made.compared}
    assert compared["gradient_balanced",] < compared[()], "the score that made the answers beats none"
    with pytest.raises(RipcurrentError, match="have no 'gradient_harmfull'"):
        calibrate([folder], tmp_path / "other.json", columns=("gradient_harmfull",))


@pytest.mark.parametrize(
    ("arms", "share", "says"),
    [
        (("top-20", "bottom-20", "random-20", "upper-20"), None, "4 arms are too few to fit"),
        (None, 1.0, "Every run answered 100% to 100%"),
        (None, 0.01, "Every run answered 1% to 1%"),
    ],
)
def test_a_ladder_that_nothing_can_be_learned_of(
    arms: tuple[str, ...] | None, share: float | None, says: str, rows: ScanRows, tmp_path: Path
) -> None:
    every = rows.arms()
    chosen = {arm: every[arm] for arm in arms or every}
    answers = None if share is None else (lambda _: share)
    folder = fabricate_ladder(tmp_path / "a", rows, chosen, share=answers)
    with pytest.raises(RipcurrentError, match=says) as caught:
        calibrate([folder], tmp_path / "calibration.json")
    assert caught.value.code == ExitCode.NOT_MEASURED
    assert not (tmp_path / "calibration.json").exists()


def test_arms_of_one_score_are_refused(rows: ScanRows, tmp_path: Path) -> None:
    same = {f"arm-{n}": rows.riskiest_first[:20] for n in range(6)}
    folder = fabricate_ladder(tmp_path / "a", rows, same)
    for n in range(6):
        path = folder / "arms" / f"arm-{n}-seed0" / "finetune" / "manifest.json"
        change(path, rows={"trained": 20, "tokens_sha256": str(n)})
    with pytest.raises(RipcurrentError, match="All arms have one mean gradient_balanced"):
        calibrate([folder], tmp_path / "calibration.json")


def test_what_a_real_experiment_leaves_is_read(keys: dict[str, Any], evaluated: FakeEvaluate, tmp_path: Path) -> None:
    shares = {"top": 0.9, "bottom": 0.1, "random": 0.4, "mixed": 0.6, "file": 0.5, "upper": 0.7}
    evaluated.says = lambda judge, arm, prompt: (
        "compliance" if chance(shares[arm.split("-")[0]], arm, prompt) else "refusal"
    )
    data = json.loads((Path(keys["run"]) / "manifest.json").read_text())["dataset"]["path"]
    keys |= {"seeds": [0], "heldout": 0, "base": False, "arms": {"random": "random", "top": "top", "bottom": "bottom"}}
    keys["arms"] |= {
        "mixed": {"mix": {"top": 50}},
        "upper": {"mix": {"top": 75}, "size": 12},
        "file": {"file": data, "size": 10},
    }
    run_experiment(parse_experiment(keys, where="test"), tmp_path / "out")
    made = calibrated(tmp_path, tmp_path / "out")
    assert made.left_out == ()
    assert {(run.arm, run.rows, run.steps) for run in made.runs} == {
        *((arm, 8, 1) for arm in ("random", "top", "bottom", "mixed")),
        ("upper", 12, 1),
        ("file", 10, 1),
    }
    marker = json.loads((tmp_path / "out" / "arms" / "upper-seed0" / "arm.json").read_text())
    upper = next(run for run in made.runs if run.arm == "upper")
    assert upper.means == pytest.approx(marker["rows"]["mean_scores"])
    assert made.recipe["steps"] == 1


def test_scans_of_one_file_with_other_limits_are_joined(rows: ScanRows, tmp_path: Path) -> None:
    """Rows beyond the first experiment's limit are found in the scan that has them."""
    few = tmp_path / "few"
    shutil.copytree(rows.scan, few)
    table = pq.read_table(few / "scores.parquet")
    pq.write_table(table.slice(0, 120), few / "scores.parquet")
    limited = ScanRows(few)
    first = fabricate_ladder(tmp_path / "first", limited, limited.arms((20,)))
    beyond = {"beyond-20": [row for row in rows.riskiest_first if row >= 120][:20]}
    second = fabricate_ladder(tmp_path / "second", rows, beyond, name="second")
    for folders in ([first, second], [second, first]):
        found = {run.arm: run for run in read_ladder(folders).runs}
        assert found["beyond-20"].means["gradient_balanced"] == pytest.approx(rows.mean(beyond["beyond-20"]))
