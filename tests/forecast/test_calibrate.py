"""Finished experiments read as a ladder, made a calibration, and a scan forecast by it; and the one that is shipped."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from packaging.version import Version
from research.shipped_calibration import ladder as ladder_of_the_package

from ripcurrent.anchors import load_anchors
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.experiment import parse_experiment, read_experiment_file
from ripcurrent.finetune import load_recipe
from ripcurrent.forecast import calibrate, forecast, read_calibration, read_forecast, shipped_calibrations
from ripcurrent.forecast._calibrate import ALPHA, as_trials, chance_of_alike
from ripcurrent.forecast._harm import Trials, fit_harm
from ripcurrent.models import load_model
from ripcurrent.runs import write_json
from ripcurrent.scan import SetScore, SetScores
from ripcurrent.statistics import RUN_SPREAD
from tests.forecast.ladder_folder import ASKED, ScanRows, fabricate_ladder

COHERENCE = 0.1


@pytest.fixture(scope="module", autouse=True)
def measured() -> Iterator[None]:
    """How alike rows are is made up here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SetScores, "_measured", lambda self, run, rows: COHERENCE)
        yield


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> ScanRows:
    return ScanRows(tmp_path_factory.mktemp("pool"))


@pytest.fixture(scope="module")
def other_rows(tmp_path_factory) -> ScanRows:
    """Another dataset, scanned in the same way."""
    return ScanRows(tmp_path_factory.mktemp("other"), 260, seed=8)


@pytest.fixture(scope="module")
def ladder(rows, tmp_path_factory) -> Path:
    """An experiment on ten sets of the rows, its calibration in a file in it."""
    folder = fabricate_ladder(tmp_path_factory.mktemp("ladder") / "a", rows, rows.arms())
    made, _ = calibrate([folder], folder / "made.json")
    assert read_calibration(folder / "made.json") == made
    return folder


def norm(count: int) -> float:
    """Of the mean unit gradient of so many rows."""
    return math.sqrt(COHERENCE + (1 - COHERENCE) / count)


def edit(path: Path, **keys: Any) -> None:
    """Change keys of a JSON file, of a mapping only those named."""
    stored = json.loads(path.read_text())
    parts = {key: stored.get(key, {}) | value if isinstance(value, dict) else value for key, value in keys.items()}
    path.write_text(json.dumps(stored | parts))


def test_a_ladder_that_follows_the_score_is_forecast_well(rows, other_rows, tmp_path):
    first = fabricate_ladder(tmp_path / "a", rows, rows.arms(), seeds=2)
    second = fabricate_ladder(tmp_path / "b", other_rows, other_rows.arms((30, 40)), name="second")
    made, fitted = calibrate([first, second], tmp_path / "calibration.json")
    assert made.fit.facts == ("set_cosine", "log_rows")
    assert (made.runs, made.prompts.count, made.judge.version) == (30, ASKED, "1.0")
    for run in (one.run for one in fitted if one.run.experiment == "ladder"):
        chosen = rows.arms()[run.arm]
        assert run.cosine == pytest.approx(rows.mean(chosen) / norm(len(chosen)))
        assert (run.answered, run.asked) == (round(ASKED * rows.share(chosen)), ASKED)
    by_set, by_source = made.error_by_set, made.error_by_source
    assert by_set is not None
    assert by_source is not None
    assert (by_set.groups, by_source.groups) == (20, 2)
    assert by_set.coverage >= 0.8
    assert by_set.mean_absolute_error < 0.06
    assert by_source.mean_absolute_error < 0.12
    assert [one.runs for one in made.sources] == [20, 10]
    assert len({one.name for one in made.sources}) == 2, "two datasets of one file name are told apart"


def test_a_set_is_forecast_without_all_that_share_its_rows(rows, tmp_path):
    """A fifth of the smaller set's rows is shared: two of ten, not three of twenty."""
    order = rows.riskiest_first
    arms = {f"part-{n}": order[20 * n : 20 * n + 20] for n in range(6)} | {"across": order[30:50]}
    arms |= {"two": order[18:20] + order[120:128], "three": order[77:80] + order[130:147]}
    _, fitted = calibrate([fabricate_ladder(tmp_path / "a", rows, arms, seeds=2)], tmp_path / "calibration.json")
    near: dict[str, set[str]] = {arm: {arm} for arm in arms}
    for one, other in (("part-0", "two"), ("part-1", "across"), ("part-2", "across")):
        near[one].add(other)
        near[other].add(one)
    trials = as_trials([one.run for one in fitted])
    for place, one in enumerate(fitted):
        rest = fit_harm(trials.where(np.array([arm.partition("/")[2] not in near[one.run.arm] for arm in trials.arms])))
        assert one.forecast == rest.forecast(trials.facts[place], ASKED, one.run.source)


def test_runs_that_cannot_be_used_are_named_with_the_reason(rows, tmp_path):
    folder = fabricate_ladder(tmp_path / "exp", rows, rows.arms((20, 40, 10)))
    place = folder / "arms"
    edit(place / "top-20-seed0" / "arm.json", status="failed")
    edit(place / "random-20-seed0" / "finetune" / "manifest.json", model={"fingerprint": "another"})
    edit(place / "upper-20-seed0" / "finetune" / "manifest.json", recipe={"batch": 3})
    (place / "lower-20-seed0" / "arm.json").unlink()
    gone = {"rule": {"scan": "gone"}, "recipe": {}, "rows_sha256": ""}
    edit(place / "bottom-20-seed0" / "arm.json", identity=gone)
    same = json.loads((place / "top-40-seed0" / "finetune" / "manifest.json").read_text())["rows"]
    edit(place / "random-40-seed0" / "finetune" / "manifest.json", rows=same)
    # and a row that was not trained on
    trained = place / "top-10-seed0" / "finetune" / "rows.jsonl"
    trained.write_text(trained.read_text().replace('"row": 9, "trained": true', '"row": 9, "trained": false'))
    made, fitted = calibrate([folder], tmp_path / "calibration.json")
    (run,) = (one.run for one in fitted if one.run.arm == "top-10")
    chosen = rows.arms((20, 40, 10))["top-10"][:-1]
    assert (run.rows, run.cosine) == (9, pytest.approx(rows.mean(chosen) / norm(9)))
    reasons = {one.arm: one.reason for one in made.left_out}
    assert reasons.pop("top-20") == "its training failed"
    assert reasons.pop("random-20").startswith("another model was trained")
    assert reasons.pop("upper-20").startswith("another recipe (")
    assert reasons.pop("bottom-20").startswith("the scan that chose its rows is gone")
    assert [reason[-20:] for reason in reasons.values()] == ["is the same training"]
    assert made.runs == 15 - 6


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"max_new_tokens": 20}, "another longest answer (48, there 20)"),
        ({"system": "Be brief."}, "another system prompt (None, there Be brief.)"),
        ({"recipe": "lora"}, "another recipe ("),
        ({"further": 60}, "another harmful requests ("),
    ],
)
def test_runs_that_differ_from_the_first_experiments_are_left_out(how, reason, rows, tmp_path):
    first = fabricate_ladder(tmp_path / "a", rows, rows.arms((20,)))
    # more runs than the first has
    second = fabricate_ladder(tmp_path / "b", rows, rows.arms((30, 40)), name="other", **how)
    made, _ = calibrate([first, second], tmp_path / "calibration.json")
    assert (made.runs, len(made.left_out)) == (5, 10)
    assert all(one.experiment == "other-2" and one.reason.startswith(reason) for one in made.left_out)


@pytest.mark.parametrize(
    ("arms", "share", "cosine", "says"),
    [
        (("top-20", "bottom-20", "random-20", "upper-20"), None, None, "4 arms are too few to fit"),
        (None, lambda _: 1.0, None, "its 10 arms answered 100.0% to 100.0%"),
        # each share is drawn from one rate of 4 %
        (None, lambda at: np.random.default_rng(at[0]).binomial(ASKED, 0.04) / ASKED, None, "no further apart than by"),
        (None, None, 0.3, "All arms have the same cosine"),
    ],
)
def test_a_ladder_that_nothing_can_be_learned_from(arms, share, cosine, says, rows, tmp_path, monkeypatch):
    every = rows.arms()
    folder = fabricate_ladder(tmp_path / "a", rows, {arm: every[arm] for arm in arms or every}, share=share)
    if cosine is not None:
        monkeypatch.setattr(SetScore, "cosine", lambda self, rows: cosine)
    with pytest.raises(RipcurrentError, match=says) as caught:
        calibrate([folder], tmp_path / "calibration.json")
    assert caught.value.code == ExitCode.NOT_MEASURED
    assert not (tmp_path / "calibration.json").exists()


def test_a_source_left_out_is_forecast_only_where_the_others_reach(rows, other_rows, tmp_path):
    """A scan's sets that are beyond a calibration's get no forecast, so its error on new sources is without such."""
    first = fabricate_ladder(tmp_path / "a", rows, rows.arms((20, 30)), base=3)
    second = fabricate_ladder(tmp_path / "b", other_rows, other_rows.arms((30, 100)), share=lambda _: 0.04)
    identity = {"rule": {"select": "top"}, "recipe": {}, "rows_sha256": ""}
    for arm in ("a/arms/top-20", "a/arms/top-30", "b/arms/top-30"):
        edit(tmp_path / f"{arm}-seed0" / "arm.json", identity=identity)
    made, fitted = calibrate([first, second], tmp_path / "calibration.json")
    expected = dict.fromkeys((one.name for one in made.sources), 0)
    for run in (one.run for one in fitted):
        rest = [one.run for one in fitted if one.run.source != run.source]
        cosines, counts = sorted(one.cosine for one in rest), sorted(one.rows for one in rest)
        place = (run.cosine - cosines[0]) / (cosines[-1] - cosines[0])
        expected[run.source] += counts[0] / 1.25 <= run.rows <= counts[-1] * 1.25 and -0.1 <= place <= 1.1
    error = made.error_by_source
    assert error is not None
    assert {one.name: one.arms for one in error.by_source} == expected
    assert 0 < error.refused == made.runs - error.runs
    own = [one.mean_absolute_error for one in error.by_source]
    assert error.mean_absolute_error == pytest.approx(np.mean(own)), "each source counts alike"
    # the arms of the second answer as the untrained model does
    assert [one.clean for one in error.by_source] == [True, False]
    of_first = [one.run for one in fitted if one.run.experiment == "ladder"]
    tops, rest = ([one.answered for one in of_first if one.arm.startswith("top") is wanted] for wanted in (True, False))
    guesses = [np.mean(tops if one.run.arm == "top-30" else rest) / ASKED for one in fitted[10:] if one.unseen]
    assert error.by_source[0].by_category == pytest.approx(np.mean(guesses) - 0.04)


def test_luck_between_runs_is_taken_for_no_ladder_and_a_real_one_passes():
    random, n = np.random.default_rng(3), 200.0

    def passes(rates: list[float]) -> bool:
        answered = random.binomial(int(n), np.clip(rates + random.normal(0, RUN_SPREAD, 12), 0, 1)).astype(float)
        arms = tuple(f"arm-{one}" for one in range(12))
        trials = Trials(("score",), np.zeros((12, 1)), answered, np.full(12, n), ("pool",) * 12, arms)
        return chance_of_alike(trials) <= ALPHA

    assert sum(passes([0.3] * 12) for _ in range(400)) < 12
    assert all(passes([0.1, 0.2, 0.5] * 4) for _ in range(40))


def test_a_scan_is_forecast_beside_a_random_set(rows, other_rows, ladder):
    # the pool itself: a known source with more rows than the largest set
    known = forecast(rows.run, ladder / "made.json")
    whole, riskiest = known.sets[:2]
    assert (whole.set, whole.rows, riskiest.set, riskiest.rows) == ("all", 40, "riskiest", 40)
    assert whole.forecast == whole.reference
    assert riskiest.forecast
    assert whole.forecast
    assert riskiest.forecast.answered > whole.forecast.answered
    assert read_forecast(rows.run) == known
    # another dataset: not known, so less certain
    found = forecast(other_rows.run, ladder / "made.json")
    one = found.sets[0]
    assert one.forecast
    assert one.reference
    assert one.forecast.high - one.forecast.low > one.reference.high - one.reference.low
    assert "not one of those that the calibration was made on" in found.notes[0]
    lines = "\n".join(found.lines())
    assert f"answered {100 * one.forecast.answered:.0f} % (90 % interval" in lines
    assert "on datasets left out: not measured." in lines


def test_what_a_calibration_does_not_speak_of_is_refused(rows, ladder):
    made = read_calibration(ladder / "made.json")
    most = (int(rows.run.scored.sum()) - 1) // 10
    far = forecast(rows.run, made.model_copy(update={"rows_range": (5, most)})).sets
    assert (far[0].forecast, far[0].reason) == (None, f"more than 10 times the {most} that the calibration trained on")
    assert (
        forecast(rows.run, made.model_copy(update={"rows_range": (5, most + 1)}))
        .sets[0]
        .words.startswith(f"{most + 1} of ")
    )
    assert forecast(rows.run, made, recipe="embedded").reason is None
    assert "it is for the recipe embedded, not lora" in str(forecast(rows.run, made, recipe="lora").reason)
    few = made.model_copy(update={"rows_range": (5000, 6000)})
    assert "are not among the 5000 to 6000" in str(forecast(rows.run, few).sets[0].reason)
    low = made.model_copy(update={"cosine_range": (5.0, 6.0)})
    assert "is below the least that the calibration trained on" in str(forecast(rows.run, low).sets[0].reason)
    for scored_with, reason in (
        ({"fingerprint": "0" * 64}, "it is for the model"),
        ({"anchors_sha256": "0" * 64}, "it is for other anchors"),
        ({"template_sha256": "0" * 64}, "another chat template"),
        ({"options": {**made.scored_with.options, "anchor_tokens": 3}}, "--anchor-tokens 3, not 10"),
    ):
        other = made.model_copy(update={"scored_with": made.scored_with.model_copy(update=scored_with)})
        assert reason in str(forecast(rows.run, other).reason)
        assert forecast(rows.run, other).lines()[0].startswith("No forecast: the calibration does not match")
    assert "there is no calibration for this model" in str(forecast(rows.run).reason)


def test_what_can_be_wrong_with_files(rows, ladder, tmp_path):
    out = tmp_path / "c.json"
    with pytest.raises(RipcurrentError, match="holds no experiment"):
        calibrate([tmp_path / "nowhere"], out)
    with pytest.raises(RipcurrentError, match="judge rubric did not judge it"):
        calibrate([ladder], out, judge="rubric")
    with pytest.raises(RipcurrentError, match=r"calibration .*none\.json cannot be read: No such file"):
        forecast(rows.run, tmp_path / "none.json")
    with pytest.raises(RipcurrentError, match="exists and is not a calibration"):
        calibrate([ladder], rows.run.folder / "manifest.json")
    stored = json.loads((ladder / "made.json").read_text())
    for broken, says in (
        ({"format": 1}, r"damaged \(format: Input should be 2"),
        ({"fit": stored["fit"] | {"spread": [0.0, 1.0]}}, r"damaged \(fit.spread.0: Input should be greater than 0"),
    ):
        write_json(out, stored | broken)
        with pytest.raises(RipcurrentError, match=says):
            read_calibration(out)
    write_json(rows.run.folder / "forecast.json", {"reason": 3})
    with pytest.raises(RipcurrentError, match="damaged"):
        read_forecast(rows.run)


def test_the_commands_print_what_was_fitted_and_forecast(command, rows, ladder):
    file = ladder / "made.json"
    said = command("calibrate", ladder, "--out", file, "--json")
    assert (said.json["runs"], said.json["error_by_source"]) == (10, None), said.err
    shown = " ".join(command("calibrate", ladder, "--out", file).out.split())
    assert "Each run, forecast by the fit without its set" in shown
    assert f"ripcurrent forecast RUN --calibration {file}" in shown
    found = command("forecast", rows.run.folder, "--calibration", file, "--json")
    assert found.json["sets"][0]["forecast"]["answered"] > 0, found.err
    assert "answered" in command("forecast", rows.run.folder, "--calibration", file).out
    assert command("forecast", rows.run.folder, "--calibration", file, "--recipe", "lora").code == 2


@pytest.mark.parametrize(("recipe", "sizes"), [("embedded", (20, 50, 100)), ("lora", (200, 500, 1000))])
def test_a_ladder_of_ones_own_has_sizes_that_move_the_model(recipe, sizes):
    assert parse_experiment({**read_experiment_file("own_ladder"), "recipe": recipe}, where="it").sizes == sizes
    said = load_recipe(recipe).too_mild((10, "5%"))
    assert said is not None
    assert said.endswith(f"try --size {','.join(map(str, sizes))}.")
    assert load_recipe(recipe).too_mild(sizes) is None


@pytest.mark.embedded
def test_the_shipped_one_holds_for_the_embedded_model_and_recipe():
    calibration = read_calibration("embedded")
    model = load_model("embedded")
    scored = calibration.scored_with
    assert (scored.fingerprint, scored.template_sha256) == (model.fingerprint, model.template_sha256)
    # before, transformers writes a GGUF file's tokenizer in another way
    assert scored.tokenizer_sha256 == model.tokenizer_sha256 or Version(transformers.__version__) < Version("5.18")
    assert scored.anchors_sha256 == load_anchors("builtin").sha256
    assert calibration.recipe == load_recipe("embedded")


def test_the_shipped_one_shows_its_error_and_is_as_short_as_a_forecast_needs():
    (path,) = shipped_calibrations()
    calibration = read_calibration(path)
    assert calibration.error_by_set is not None
    assert calibration.error_by_source is not None
    assert len(calibration.sources) == calibration.error_by_source.groups >= 5
    assert chance_of_alike(as_trials(ladder_of_the_package().runs)) < 1e-6, "its runs pass for a ladder that moved"
    assert path.stat().st_size < 20_000
    # names of places on a machine and texts of rows have no business in it
    found = re.findall(r'"((?:[^"\\]|\\.)*)"', path.read_text(encoding="utf-8"))
    assert not [one for one in found if one.startswith("/") or len(one) >= 120]
    assert not {"messages", "prompt", "response", "instruction", "output", "text"} & set(found)
