"""A forecast by a set's own cosine: measured for a ladder's sets and a scan's, kept, and told where it cannot be."""

from __future__ import annotations

import importlib
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ripcurrent.data import encode_rows, read_rows
from ripcurrent.errors import RipcurrentError
from ripcurrent.forecast import _coherence
from ripcurrent.forecast._calibration import read_calibration
from ripcurrent.forecast._coherence import FILE, coherence_of, kept_in, sample_of
from ripcurrent.gradients import GradientPass
from ripcurrent.models import load_model
from ripcurrent.scan._options import ScanOptions
from ripcurrent.select_old import read_scores
from ripcurrent.select_old._table import ScoredRows
from tests.cli.command import Command
from tests.experiment.answers import FakeEvaluate, chance
from tests.gradients.oracle import inner, row_gradient
from tests.tiny_scan import EXACT, good_rows, write_jsonl

pytestmark = pytest.mark.usefixtures("no_page")

SHARES = {"base": 0.05, "bottom": 0.1, "random": 0.4, "upper": 0.6, "top": 0.8}


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations are made up: the riskier an arm's rows, the more is answered."""

    def says(judge: str, arm: str, prompt: str) -> str:
        return "compliance" if chance(SHARES[arm.split("-")[0]], arm, prompt) else "refusal"

    monkeypatch.setattr(importlib.import_module("ripcurrent.evaluate"), "evaluate", FakeEvaluate(says))
    monkeypatch.setattr(import_module("ripcurrent.statistics"), "DRAWS", 100)


def test_a_ladder_is_measured_once_and_a_scan_forecast_by_it(
    command: Command,
    evaluated: None,
    tiny_folder: Path,
    anchors_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = write_jsonl(tmp_path / "rows.jsonl", good_rows(44))
    (tmp_path / "short.yaml").write_text("method: full\nlearning_rate: 1.0e-3\nbatch: 4\nsteps: 1\n")
    model = ["--model", tiny_folder, "--device", "cpu", "--dtype", "float32"]
    anchors = ["--anchors", anchors_file, "--no-anchor-check"]
    ladder = ["--data", rows, "--recipe", "short.yaml", "--sizes", "6,12", "--work", "work"]
    said = command("calibrate", *model, *anchors, *ladder, "--by", "set_cosine", "--out", "mine.json", "--quiet")
    assert said.code == 0, said.err
    made = read_calibration(tmp_path / "mine.json")
    assert made.columns == ("set_cosine",)
    assert made.score_columns == ("gradient_balanced",)
    for run in made.runs:
        norm = np.sqrt(run.means["coherence"] + (1 - run.means["coherence"]) / run.rows)
        assert run.means["set_cosine"] == pytest.approx(run.means["gradient_balanced"] / norm)
    assert 0 < made.sources[0].means["coherence"] < 1

    # what was measured is kept: given again, no model is loaded
    with monkeypatch.context() as patch:
        patch.setattr(_coherence, "coherence_of", lambda *arguments: pytest.fail("measured twice"))
        assert command("calibrate", "work", "--by", "set_cosine", "--out", "again.json", "--quiet").code == 0
    assert read_calibration(tmp_path / "again.json").fit == made.fit

    # another dataset's scan measures its own rows
    new = write_jsonl(tmp_path / "new.jsonl", good_rows(120)[100:])
    scan = [*model, *anchors, "--out", tmp_path / "new"]
    found = command.scan(new, *scan, "--forecast", "mine.json", "--json").json["forecast"]
    whole = found["sets"][0]
    assert whole["low"] < whole["answered"] < whole["high"]
    assert whole["means"]["coherence"] == next(iter(json.loads((tmp_path / "new" / FILE).read_text()).values()))
    assert found["columns"] == ["set_cosine"]

    # parts that are merged have no model at hand: it says what to do, and that is enough
    for index in range(2):
        assert command.scan(new, *model, *anchors, "--out", "parts", "--shard", f"{index}/2", "--quiet").code == 0
    merged = command("merge", "parts", "--forecast", "mine.json", "--json").json["forecast"]
    assert "Give the whole scan again in its folder" in merged["reason"]
    again = command.scan(new, *model, *anchors, "--out", "parts", "--forecast", "mine.json", "--json").json["forecast"]
    assert again["sets"][0]["answered"] == pytest.approx(whole["answered"], abs=1e-6)


def test_what_is_kept_of_other_gradients_or_rows_is_not_taken(tmp_path: Path) -> None:
    found = [kept_in(tmp_path, lambda rows, n=n: n, of=of)([1, 2]) for n, of in enumerate(("", "all", "linear", "all"))]
    assert found == [0, 1, 2, 1]


def test_coherence_is_the_mean_cosine_between_two_rows(tiny_folder: Path, anchors_file: Path, tmp_path: Path) -> None:
    import ripcurrent as rc

    file = write_jsonl(tmp_path / "rows.jsonl", good_rows(9))
    how: dict[str, Any] = {"model": str(tiny_folder), "anchors": str(anchors_file), "signals": "gradient", **EXACT}
    run = rc.scan(file, tmp_path / "run", **how)
    options, dataset = ScanOptions(**how), read_rows(file)
    chat_model = load_model(tiny_folder, device="cpu", dtype="float32")
    scored = ScoredRows(read_scores(run.folder))
    found = coherence_of(range(1, 8), dataset, scored, options, chat_model, GradientPass(chat_model))
    gradients = [row_gradient(chat_model.model, row) for row in encode_rows(dataset, chat_model.tokenizer)][1:8]
    units = [(one, np.sqrt(inner(one, one))) for one in gradients]
    cosines = [inner(a, b) / (n * m) for a, n in units for b, m in units if a is not b]
    assert found == pytest.approx(np.mean(cosines), abs=1e-4)
    assert coherence_of([3], dataset, scored, options, chat_model, GradientPass(chat_model)) == 1.0
    for parts in ({"windows": True}, {"row_tokens": 5}):
        with pytest.raises(RipcurrentError, match="measured on whole rows"):
            coherence_of([1, 2], dataset, scored, ScanOptions(**{**how, **parts}), chat_model, GradientPass(chat_model))


def test_a_large_set_is_measured_on_always_the_same_few_rows() -> None:
    rows = list(range(500, 100, -1))
    assert sample_of(rows) == sample_of(sorted(rows)) == sorted(set(sample_of(rows)))
    assert [len(sample_of(range(rows))) for rows in (30, 100, 400, 10**4)] == [30, 40, 50, 120]
    assert sample_of([5, 2]) == [2, 5]
