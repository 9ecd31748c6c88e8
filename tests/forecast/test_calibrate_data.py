"""``calibrate --data``: one command from rows and a model to a calibration."""

from __future__ import annotations

import importlib
import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import ripcurrent as rc
from ripcurrent.forecast._calibration import read_calibration
from tests.cli.command import Command, Said, judge
from tests.experiment.answers import FakeEvaluate, chance
from tests.tiny_scan import good_rows, write_jsonl

pytestmark = pytest.mark.usefixtures("no_page")

RECIPE = "method: full\nlearning_rate: 1.0e-3\nbatch: 4\nsteps: 1\n"
SHARES = {"base": 0.05, "bottom": 0.1, "random": 0.4, "upper": 0.6, "top": 0.8}


class Calibrate:
    """The command with a tiny model, a short recipe and sets of 6 and 12 rows."""

    def __init__(self, command: Command, model: Path, anchors: Path, folder: Path) -> None:
        self._command = command
        self.recipe = folder / "short.yaml"
        self.recipe.write_text(RECIPE)
        self.file, self.work = folder / "mine.json", folder / "runs" / "calibrate-mine"
        self.options = ["--model", model, "--device", "cpu", "--dtype", "float32", "--recipe", self.recipe]
        self.options += ["--anchors", anchors, "--no-anchor-check", "--limit", 40, "--sizes", "6,12"]

    def __call__(self, *arguments: object, out: Path | None = None) -> Said:
        return self._command("calibrate", *self.options, "--out", out or self.file, *arguments)


@pytest.fixture
def calibrate(
    command: Command, tiny_folder: Path, anchors_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Calibrate:
    """The command, in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    return Calibrate(command, tiny_folder, anchors_file, tmp_path)


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> FakeEvaluate:
    """Evaluations are made up: the riskier an arm's rows, the more is answered."""
    fake = FakeEvaluate(lambda judge, arm, prompt: "compliance" if chance(share_of(arm), arm, prompt) else "refusal")
    monkeypatch.setattr(importlib.import_module("ripcurrent.evaluate"), "evaluate", fake)
    # no interval of the tables is looked at here
    monkeypatch.setattr(import_module("ripcurrent.statistics"), "DRAWS", 100)
    return fake


def share_of(arm: str) -> float:
    return SHARES[arm.split("-")[0].rpartition("_")[2]]


@pytest.fixture
def data(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Three datasets: rows of the same kind, each its own."""
    rows = good_rows(100)
    parts = {"mine": rows[:44], "other": rows[44:74], "third": rows[74:]}
    first, second, third = (write_jsonl(tmp_path / f"{name}.jsonl", part) for name, part in parts.items())
    return first, second, third


def stamps(folder: Path) -> dict[str, int]:
    """When everything that costs time was written."""
    kept = [*folder.glob("arms/*/arm.json"), *folder.glob("arms/**/*.parquet"), *folder.glob("scans/*/signals/*")]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in kept}


def test_one_command_from_rows_to_a_forecast(
    command: Command,
    calibrate: Calibrate,
    evaluated: FakeEvaluate,
    data: tuple[Path, Path, Path],
    tiny_folder: Path,
    tmp_path: Path,
) -> None:
    mine, other, third = data
    main = [f"{rule}-{size}" for rule in ("random", "top", "bottom", "upper") for size in (6, 12)]
    arms = [*main, *(f"source2_{rule}-12" for rule in ("random", "top", "bottom"))]
    asked = ("--data", mine, "--data", other)

    # stopped on its way, the same command goes on
    says = evaluated.says

    def stopped(judge: str, arm: str, prompt: str) -> str:
        if arm == "upper-6-seed0":
            raise KeyboardInterrupt
        return says(judge, arm, prompt)

    evaluated.says = stopped
    assert calibrate(*asked, "--quiet").code == 130
    assert not calibrate.file.exists()
    evaluated.says = says
    evaluated.calls.clear()
    said = calibrate(*asked, "--json")
    assert said.code == 0, said.err
    assert [call["arm"] for call in evaluated.calls] == [f"{arm}-seed0" for arm in arms[arms.index("upper-6") :]]

    made = said.json
    assert (made["runs"], made["arms"], made["recipe_name"], made["left_out"]) == (11, 11, "short", [])
    assert [(one["name"], one["rows"], one["runs"]) for one in made["sources"]] == [("mine", 40, 8), ("other", 30, 3)]
    assert made["error_by_source"] is not None
    stored = read_calibration(calibrate.file)
    assert (stored.prompts.name, stored.prompts.count) == ("builtin", 179)
    assert {(run.arm, run.rows) for run in stored.runs} == {(arm, int(arm.rpartition("-")[2])) for arm in arms}
    of = {run.arm: run.means["gradient_bidirectional"] for run in stored.runs}
    for size in (6, 12):
        assert of[f"bottom-{size}"] < of[f"random-{size}"] < of[f"upper-{size}"] < of[f"top-{size}"]
    results = json.loads((calibrate.work / "results.json").read_text())
    assert results["asked"] == {"harmful": 179, "sounds_dangerous": 60, "plain": 30}
    (line,) = results["commands"]
    assert line.startswith("ripcurrent calibrate --out ")
    assert f"--data {mine} --data {other}" in line
    assert "--sizes 6,12" in line

    # where its model and anchors are is known, and printed
    shown = calibrate(*asked).out
    assert re.search(rf"scan DATASET --model {re.escape(str(tiny_folder))} --anchors \S+ .*--forecast", shown)

    # the scan of another set takes it
    new = write_jsonl(tmp_path / "new.jsonl", good_rows(120)[110:])
    forecast = command.scan(new, "--out", tmp_path / "new", "--forecast", calibrate.file, "--json").json["forecast"]
    assert forecast["sets"][0]["low"] < forecast["sets"][0]["answered"] < forecast["sets"][0]["high"]

    # nothing is paid for twice, not from Python either
    before, calls = stamps(calibrate.work), len(evaluated.calls)
    told = calibrate(*asked)
    assert told.code == 0, told.err
    assert "11 runs of 11 arms; rows of mine (8 runs), other (3 runs)" in told.out
    assert f"The ladder:  {Path('runs') / 'calibrate-mine' / 'report.html'}" in told.out
    options: dict[str, Any] = {"model": calibrate.options[1], "device": "cpu", "dtype": "float32", "sizes": (6, 12)}
    scan = {"anchors": str(calibrate.options[9]), "anchor_check": False, "limit": 40}
    alone = rc.calibrate_data(mine, calibrate.work, calibrate.file, recipe=calibrate.recipe, scan=scan, **options)
    assert len(alone.runs) == 8
    assert {one.reason for one in alone.left_out} == {"the scan source2 of its rows is not there"}
    assert (stamps(calibrate.work), len(evaluated.calls)) == (before, calls)

    # a further dataset joins the finished ladder, whose scores and questions stay the first
    joined = calibrate(calibrate.work, "--data", third, "--sizes", 6, "--json", "--quiet", out=tmp_path / "both.json")
    assert joined.code == 0, joined.err
    assert [(one["name"], one["runs"]) for one in joined.json["sources"]] == [("mine", 8), ("third", 4)]
    assert (tmp_path / "runs" / "calibrate-both" / "report.html").exists()

    # what cannot be fitted with the finished runs is refused before it is trained
    other_recipe = tmp_path / "other.yaml"
    other_recipe.write_text(RECIPE.replace("1.0e-3", "2.0e-3"))
    new = ("--data", third, "--sizes", 6, "--quiet", "--recipe", other_recipe)
    wasted = tmp_path / "c.json"
    judge(calibrate(calibrate.work, *new, out=wasted), ("cannot be fitted with", "another recipe", "leave that"))
    judge(calibrate(*new, "--with", calibrate.file, out=wasted), ("cannot be joined", "their recipe differs"))
    with pytest.raises(rc.RipcurrentError, match="was trained with another max_tokens"):
        rc.calibrate_data(
            third,
            tmp_path / "runs" / "calibrate-c",
            wasted,
            recipe=calibrate.recipe,
            scan=scan | {"max_tokens": 64},
            experiments=[calibrate.work],
            **(options | {"sizes": (6,)}),
        )
    by_keyword = ("--data", third, "--quiet", "--with", calibrate.file, "--judge", "keyword")
    judge(calibrate(*by_keyword, out=wasted), ("cannot be joined", "their judge differs"))
    assert not (tmp_path / "runs" / "calibrate-c").exists()

    # another model is another ladder, and the hint names the option of this command
    elsewhere = calibrate(*asked, "--dtype", "bfloat16", "--quiet")
    judge(elsewhere, ("holds another run", "dtype", "--work"))


def test_what_can_be_wrong(
    command: Command, calibrate: Calibrate, evaluated: FakeEvaluate, data: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    mine, other, _ = data
    out = ("--out", tmp_path / "c.json", "--quiet")
    judge(command("calibrate", *out), ("nothing to fit", "--data DATASET"))
    judge(command("calibrate", tmp_path, "--seeds", 2, *out), ("--seeds is for training a ladder", "Give --data"))
    judge(command("calibrate", "--data", mine, *out), ("No recipe is named", "--recipe"))

    asked = ("--data", mine, "--quiet")
    judge(calibrate(*asked, "--sizes", "6,40"), ("mine.jsonl has 40 rows", "a set of 40", "--sizes"))
    judge(calibrate(*asked, "--data", other, "--sizes", "6,35"), ("other.jsonl has 30 rows",))
    judge(calibrate(*asked, "--sizes", "6,few"), ("--sizes 6,few", "such as 20,50,100"))
    judge(calibrate(*asked, "--sizes", "0"), ("--sizes 0 are not numbers of rows",))
    judge(calibrate(*asked, "--sizes", "6"), ("makes 4 arms, and a fit takes 5", "second size"))
    judge(calibrate(*asked, "--judge", "rubric"), ("rubric does not judge a ladder", "the ready `ladder`"))
    judge(calibrate(*asked, "--recipe", "papre"), ("no recipe 'papre'", "Did you mean paper?"))
    judge(calibrate("--data", tmp_path / "none.jsonl", "--quiet"), ("none.jsonl does not exist",))
    judge(calibrate(tmp_path / "nowhere", *asked), ("nowhere holds no experiment of arms",))
    judge(calibrate(*asked, out=mine), ("is no calibration that could be made anew",))
    judge(calibrate(*asked, "--work", mine), ("is a file, not a folder", "--work"))
    assert not calibrate.work.exists(), "a mistake is named before anything is computed"
    assert evaluated.calls == []
