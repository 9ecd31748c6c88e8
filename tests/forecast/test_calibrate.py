"""``calibrate`` and the forecast that a scan then makes, from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ripcurrent.forecast import _calibration
from ripcurrent.forecast._calibrate_runs import calibrate
from ripcurrent.forecast._sentences import forecast_lines
from ripcurrent.forecast._write import write_forecast
from ripcurrent.runs import read_manifest
from ripcurrent.scan import scan
from tests.cli.command import Command, judge
from tests.forecast.ladder_folder import ScanRows, fabricate_ladder
from tests.tiny_scan import EXACT, good_rows, write_jsonl

pytestmark = pytest.mark.usefixtures("no_page")

GRADIENT = ("--signals", "gradient")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("pool") / "pool.jsonl", good_rows(60))


@pytest.fixture(scope="module")
def rows(pool: Path, tiny_folder: Path, anchors_file: Path) -> ScanRows:
    """A finished scan by the tiny model, as the command line makes it."""
    options = {"model": str(tiny_folder), "anchors": str(anchors_file), "signals": "gradient", **EXACT}
    return ScanRows(scan(pool, pool.parent / "run", **options).folder)


@pytest.fixture(scope="module")
def ladder(rows: ScanRows, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten arms whose answers follow the score."""
    return fabricate_ladder(tmp_path_factory.mktemp("ladder") / "out", rows, rows.arms((10, 20)))


def test_from_a_ladder_to_a_forecast(
    command: Command,
    ladder: Path,
    pool: Path,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "calibration.json"
    said = command("calibrate", ladder, "--out", file, "--json")
    assert said.code == 0, said.err
    made = said.json
    assert (made["runs"], made["arms"], made["recipe_name"]) == (10, 10, "embedded")
    assert made["error_by_arm"]["mean_absolute_error"] < 0.15
    assert made["error_by_source"] is None
    assert "gradient_bidirectional" in made["fit"]["coefficients"]

    told = command("calibrate", ladder, "--out", file)
    assert told.code == 0, told.err
    assert "Each arm left out: mean absolute error" in told.out
    assert "Each source left out: not measured" in told.out
    assert "ripcurrent scan DATASET --model MODEL --forecast" in told.out
    assert f"for {tiny_folder.name}, anchors " in told.out

    # the pool itself: a known source, all of whose rows are more than the ladder's largest set
    known = command.scan(pool, "--out", tmp_path / "known", "--forecast", file, "--json", *GRADIENT).json["forecast"]
    assert known["source"] == "pool"
    whole = known["sets"][0]
    assert whole["rows"] == 20
    assert (whole["answered"], whole["low"]) == (whole["reference"]["answered"], whole["reference"]["low"])
    riskiest = next(one for one in known["sets"] if one["set"] == "riskiest")
    assert riskiest["answered"] > whole["answered"]

    # another dataset: not known, so less certain
    other = write_jsonl(tmp_path / "other.jsonl", good_rows(64)[44:])
    options = (other, "--out", tmp_path / "run", *GRADIENT)
    found = command.scan(*options, "--forecast", file, "--json").json["forecast"]
    (one,) = found["sets"]
    assert found["source"] is None
    assert one["low"] < one["answered"] < one["high"]
    assert one["high"] - one["low"] > one["reference"]["high"] - one["reference"]["low"]
    assert "none of those that the calibration was made on (pool)" in found["notes"][0]

    monkeypatch.setenv("COLUMNS", "400")
    shown = command.scan(*options, "--forecast", file).out
    numbers = f"answered {100 * one['answered']:.0f} % (90 % interval {100 * one['low']:.0f}–{100 * one['high']:.0f} %)"
    assert f"all rows: {numbers}, against" in shown
    assert "for a random set of pool" in shown

    # given again without it, as for token shares, it stands
    assert f"all rows: {numbers}, against" in command.scan(*options).out
    assert command.scan(*options, "--json").json["forecast"] == found
    (tmp_path / "run" / "forecast.json").unlink()
    assert "No forecast: there is no calibration" in command.scan(*options).out
    assert command.scan(*options, "--json").json["forecast"] is None
    assert not (tmp_path / "run" / "forecast.json").exists()

    # how answers open is no part of any score, and is told where it matters
    numbered = [
        {**row, "response": f"1. {row['response']}" if n % 3 == 0 else row["response"]}
        for n, row in enumerate(good_rows(64)[44:])
    ]
    opened = write_jsonl(tmp_path / "opened.jsonl", numbered)
    notes = command.scan(opened, "--out", tmp_path / "opened", *GRADIENT, "--forecast", file, "--json").json["forecast"]
    assert any("45% of its answers open with a number" in note for note in notes["notes"])
    assert not any("open with a number" in note for note in found["notes"])

    # one that lies in the package is found by itself, where it matches
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    (shipped / "embedded.json").write_text(file.read_text())
    monkeypatch.setattr(_calibration, "SHIPPED", shipped)
    assert command.scan(*options, "--json").json["forecast"] == {key: found[key] for key in found if key != "by_name"}
    elsewhere = (other, "--out", tmp_path / "other-run", *GRADIENT, "--anchor-tokens", "4")
    assert command.scan(*elsewhere, "--json").json["forecast"] is None
    assert "it is for scans with --anchor-tokens 10, not 4." in command.scan(*elsewhere).out
    # one for this model, by a score that the scan did not measure
    unmeasured = command.scan(other, "--out", tmp_path / "states", "--signals", "representation").out
    assert "No forecast: the calibration for this model does not match this scan: the calibration is by" in unmeasured
    assert "which this scan did not measure." in unmeasured


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("fingerprint",), "0" * 64, "it is for the model"),
        (("anchors_sha256",), "0" * 64, "it is for other anchors"),
        (("template_sha256",), "0" * 64, "another chat template"),
        (("options", "anchor_tokens"), 3, "it is for scans with --anchor-tokens 3, not 10"),
        (("options", "windows"), True, "it is for scans with --windows"),
    ],
)
def test_a_calibration_of_something_else_is_refused_with_the_reason(
    path: tuple[str, ...], value: Any, reason: str, ladder: Path, rows: ScanRows, tmp_path: Path
) -> None:
    file = tmp_path / "calibration.json"
    calibrate([ladder], file)
    assert "sets" in (write_forecast(rows.scan, file) or {})
    stored = json.loads(file.read_text())
    at = stored["scored_with"]
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    file.write_text(json.dumps(stored))
    found = write_forecast(rows.scan, file)
    assert found is not None
    assert set(found) == {"reason"}
    assert reason in found["reason"]
    (line,) = forecast_lines(found)
    assert line == f"No forecast. {found['reason']}"


def test_a_score_that_was_not_measured_and_sets_beyond_the_ladder(
    command: Command, ladder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "calibration.json"
    assert command("calibrate", ladder, "--out", file, "--quiet").code == 0
    few = write_jsonl(tmp_path / "few.jsonl", good_rows(5))
    asked = (few, "--forecast", file, "--json", "--out")
    (one,) = command.scan(*asked, tmp_path / "few", *GRADIENT).json["forecast"]["sets"]
    assert "its 5 rows are not among the 10 to 20" in one["reason"]
    assert "answered" not in one
    cheap = command.scan(*asked, tmp_path / "cheap", "--signals", "representation").json["forecast"]
    assert "by gradient_bidirectional, which this scan did not measure" in cheap["reason"]


def test_a_calibration_is_held_against_runs_that_it_has_not_seen(
    command: Command, ladder: Path, rows: ScanRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "calibration.json"
    made = calibrate([ladder], file)
    order = rows.riskiest_first
    seen = [set(own) for own in rows.arms((10, 20)).values()]
    draws = (np.random.default_rng(seed).permutation(order)[:12].tolist() for seed in range(1000))
    new = (own for own in draws if max(len(one & set(own)) / min(len(one), 12) for one in seen) < 0.5)
    others = {"one": next(new), "two": next(new), "few": order[:5], "top10": order[:10], "nearly": order[1:11]}
    fresh = fabricate_ladder(tmp_path / "fresh", rows, others)
    said = command("calibrate", fresh, "--check", file, "--json")
    assert said.code == 0, said.err
    found = said.json
    runs = {one["arm"]: one for one in found["runs"]}
    reasons = {name: one["reason"] for name, one in runs.items()}
    assert reasons["one"] is None
    assert reasons["two"] is None
    assert reasons["top10"] == "the calibration was made of its rows"
    # the same ten rows but one
    assert reasons["nearly"].startswith("a run of the calibration shares")
    assert reasons["few"].startswith("its 5 rows are not among the 10 to 20")
    assert (runs["few"]["forecast"], runs["few"]["inside"]) == (None, None)
    # as by hand: the fit of the mean score and of the rows, for a known source
    for name in ("one", "two"):
        one = runs[name]
        facts = [
            rows.mean(others[name]) if fact not in ("log_rows",) else np.log(len(others[name]))
            for fact in made.fit.facts
        ]
        assert one["forecast"] == pytest.approx(made.fit.forecast(facts, one["asked"], "pool").answered)
        assert one["inside"] == (one["low"] <= one["share"] <= one["high"])
        assert one["known_source"]
    counted = [runs["one"], runs["two"]]
    gaps = [abs(one["forecast"] - one["share"]) for one in counted]
    assert found["error"]["mean_absolute_error"] == pytest.approx(np.mean(gaps))
    assert found["error"]["coverage"] == np.mean([one["inside"] for one in counted])

    monkeypatch.setenv("COLUMNS", "200")
    told = command("calibrate", fresh, "--check", file).out
    assert "2 of 5 runs count: mean absolute error" in told
    assert "Not counted: top10, seed 0" in told
    # nothing else that it was made of counts either
    judge(command("calibrate", ladder, "--check", file, "--quiet"), ("No run can be held against the calibration",), 2)


def test_a_calibration_of_something_else_is_not_held_against_runs(
    command: Command, ladder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "calibration.json"
    calibrate([ladder], file)
    stored = json.loads(file.read_text())
    for change, reason in (
        ({"recipe_sha256": "0" * 64}, "recipe (embedded) has other settings than the calibration's"),
        ({"scored_with": {**stored["scored_with"], "fingerprint": "0" * 64}}, "it is for the model"),
    ):
        file.write_text(json.dumps({**stored, **change}))
        judge(command("calibrate", ladder, "--check", file, "--quiet"), (reason,))
    judge(command("calibrate", ladder, "--check", tmp_path / "gone.json"), ("There is no calibration",))
    judge(command("calibrate", "--check", file), ("nothing to hold the calibration against",))
    judge(command("calibrate", ladder), ("The calibration has no file", "--out FILE.json"))
    for option in (
        ("--out", tmp_path / "c.json"),
        ("--with", file),
        ("--by", "loss"),
        ("--judge", "keyword"),
        ("--data", "x"),
    ):
        judge(command("calibrate", ladder, "--check", file, *option), (f"{option[0]} is for making a calibration",))


def test_a_calibration_grows(command: Command, ladder: Path, rows: ScanRows, pool: Path, tmp_path: Path) -> None:
    file, grown = tmp_path / "calibration.json", tmp_path / "grown.json"
    calibrate([ladder], file)
    more = fabricate_ladder(tmp_path / "more", rows, {"upper": rows.riskiest_first[3:18]})
    said = command("calibrate", more, "--with", file, "--out", grown, "--json")
    assert said.code == 0, said.err
    assert (said.json["runs"], said.json["arms"]) == (11, 11)
    judge(command("calibrate", more, "--with", tmp_path / "none.json", "--out", grown), ("There is no calibration",))
    # a ladder of one's own rows is asked other requests than this one was
    asked = ("--data", pool, "--recipe", "embedded", "--work", tmp_path / "work")
    judge(
        command("calibrate", *asked, "--with", file, "--out", grown, "--quiet"),
        ("of other harmful requests (asked.jsonl, 100) than the ladder is asked", "as RUN"),
    )
    assert not (tmp_path / "work").exists()


def test_what_can_be_wrong(command: Command, ladder: Path, pool: Path, rows: ScanRows, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "c.json", "--quiet")
    judge(command("calibrate", tmp_path / "nowhere", *out), ("nowhere holds no experiment of arms",))
    judge(command("calibrate", ladder, *out, "--judge", "rubric"), ("judge rubric did not judge it",), 2)
    judge(command("calibrate", ladder, *out, "--by", "gradient_x"), ("have no 'gradient_x'", "gradient_harmful"))
    judge(command("calibrate", ladder, *out, "--scan", tmp_path), ("holds no",))
    manifest = rows.scan / "manifest.json"
    before = manifest.read_text()
    judge(command("calibrate", ladder, "--out", manifest, "--quiet"), ("is no calibration that could be made anew",))
    assert manifest.read_text() == before
    assert read_manifest(rows.scan)["status_counts"] == {"ok": 60}

    asked = (pool, "--out", tmp_path / "run")
    command.scan_fails(*asked, "--forecast", tmp_path / "none.json", says=("There is no calibration",))
    command.scan_fails(*asked, "--forecast", manifest, says=("is no calibration", "ripcurrent calibrate"))
    command.scan_fails(*asked, "--forecast", pool, says=("it is not JSON",))
    assert not (tmp_path / "run").exists(), "a bad file is named before anything is computed"
    command.scan_fails(*asked, "--shard", "0/2", "--forecast", manifest, says=("Give it to merge",))
    assert command("calibrate", ladder, *out).code == 0
    stored = json.loads((tmp_path / "c.json").read_text())
    for broken, says in (
        (stored | {"format": 9}, "layout 9, which this version does not read"),
        (stored | {"columns": ["loss"]}, "other score columns"),
        (stored | {"fit": stored["fit"] | {"spread": [0.0, 1.0]}}, "spread is above 0"),
    ):
        (tmp_path / "broken.json").write_text(json.dumps(broken))
        command.scan_fails(*asked, "--forecast", tmp_path / "broken.json", says=(says,))
