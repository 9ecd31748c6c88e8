"""Redrawn anchors on a whole scan: both signals, the intervals on disk, and what a scan without the parts says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import ripcurrent as rc
from ripcurrent.errors import ExitCode, RipcurrentError
from tests.cli.command import Command
from tests.tiny_scan import EXACT, GRADIENT_COSINES, REPRESENTATION_COSINES, good_rows, write_jsonl

pytestmark = pytest.mark.usefixtures("no_page")


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, anchors_file: Path) -> Path:
    folder = tmp_path_factory.mktemp("stability")
    rows = [*good_rows(11), {"prompt": "Nothing?", "response": ""}]
    dataset = write_jsonl(folder / "rows.jsonl", rows)
    options = {"model": str(tiny_folder), "anchors": str(anchors_file), "per_anchor": True, **EXACT}
    return rc.scan(dataset, folder / "run", **options).folder


def test_both_signals_are_looked_at_and_every_scored_row_has_an_interval(scanned: Path) -> None:
    found = rc.anchor_stability(scanned, draws=40, top=3)
    assert {one.column for one in found.scores} == {*GRADIENT_COSINES, *REPRESENTATION_COSINES}
    assert found.notes == ()
    assert {one.rows for one in found.scores} == {11}
    scores, intervals = pq.read_table(scanned / "scores.parquet"), pq.read_table(found.path)
    assert intervals["row"].to_pylist() == scores["row"].to_pylist()
    for name in (*GRADIENT_COSINES, *REPRESENTATION_COSINES):
        low, high = (intervals[f"{name}_{end}"].to_numpy() for end in ("low", "high"))
        assert np.isnan(low[11])
        assert intervals[f"{name}_low"].null_count == 1
        assert (low[:11] <= high[:11]).all()
    assert json.loads(intervals.schema.metadata[b"ripcurrent"])["draws"] == 40


def test_the_command_prints_a_table_or_json(
    scanned: Path, tiny_folder: Path, anchors_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = Command(capsys, tiny_folder, anchors_file)
    shown = command("anchors", "stability", scanned, "--draws", 10, "--top", 3)
    assert shown.code == 0
    assert "gradient_bidirectional" in shown.out
    assert "Intervals:" in shown.out
    as_json = command("anchors", "stability", scanned, "--draws", 10, "--json").json
    assert set(as_json["scores"]["gradient_balanced"]) >= {"spearman", "overlap", "width"}


def test_a_scan_without_gradients_of_single_anchors_says_so(scanned: Path, tmp_path: Path) -> None:
    run = shutil.copytree(scanned, tmp_path / "run")
    table = pq.read_table(run / "scores.parquet")
    kept = [name for name in table.column_names if not name.startswith("gradient_to_")]
    pq.write_table(table.select(kept), run / "scores.parquet")
    found = rc.anchor_stability(run, draws=5)
    assert {one.column for one in found.scores} == set(REPRESENTATION_COSINES)
    assert "--per-anchor" in found.notes[0]
    shutil.rmtree(run / "signals")
    with pytest.raises(RipcurrentError, match="Nothing in") as caught:
        rc.anchor_stability(run, draws=5)
    assert caught.value.code is ExitCode.NOT_MEASURED


def test_scores_that_are_not_made_of_single_anchors_are_left_alone(scanned: Path, tmp_path: Path) -> None:
    run = shutil.copytree(scanned, tmp_path / "run")
    table = pq.read_table(run / "scores.parquet")
    place = table.column_names.index("gradient_harmful")
    moved = table["gradient_harmful"].to_numpy() + 0.1
    pq.write_table(table.set_column(place, table.schema.field(place), [moved]), run / "scores.parquet")
    found = rc.anchor_stability(run, draws=5)
    assert {one.column for one in found.scores} == set(REPRESENTATION_COSINES)
    assert "gradient_harmful" in found.notes[0]


def test_no_draws_and_no_run_are_errors(scanned: Path, tmp_path: Path) -> None:
    with pytest.raises(RipcurrentError, match="At least 2 draws"):
        rc.anchor_stability(scanned, draws=1)
    with pytest.raises(RipcurrentError):
        rc.anchor_stability(tmp_path)
    with pytest.raises(RipcurrentError, match=r"There is no run folder .*nowhere"):
        rc.anchor_stability(tmp_path / "nowhere")
