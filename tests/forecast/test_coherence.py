"""How alike the gradients of a set's rows are, against one-row gradients."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import ripcurrent as rc
from ripcurrent.data import encode_rows, read_rows
from ripcurrent.forecast._coherence import FILE, SetScores, sample_of
from ripcurrent.models import load_model
from ripcurrent.progress import SilentProgress
from ripcurrent.scan import ScanRun
from tests.gradients.oracle import inner, row_gradient
from tests.tiny_scan import EXACT, good_rows, write_jsonl


def test_coherence_is_the_mean_cosine_between_two_rows_and_is_measured_once(
    tiny_folder: Path, anchors_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", good_rows(9))
    run = rc.scan(file, tmp_path / "run", model=str(tiny_folder), anchors=str(anchors_file), **EXACT)
    scores = SetScores(SilentProgress())
    found = scores.of(run, range(1, 8), run.folder).coherence
    chat_model = load_model(tiny_folder, device="cpu", dtype="float32")
    rows = list(encode_rows(read_rows(file), chat_model.tokenizer))
    gradients = [row_gradient(chat_model.model, row) for row in rows][1:8]
    units = [(one, np.sqrt(inner(one, one))) for one in gradients]
    cosines = [inner(a, b) / (n * m) for a, n in units for b, m in units if a is not b]
    assert found == pytest.approx(np.mean(cosines), abs=1e-4)
    assert scores.of(run, [3], run.folder).coherence == 1.0
    monkeypatch.setattr(
        import_module("ripcurrent.forecast._coherence"), "load_scan_model", lambda *_: pytest.fail("measured twice")
    )
    again = SetScores(SilentProgress()).of(ScanRun.open(run.folder), range(1, 8), run.folder)
    assert again.coherence == found
    assert len(json.loads((run.folder / FILE).read_text())) == 2


def test_a_large_set_is_measured_on_always_the_same_few_rows() -> None:
    rows = np.arange(101, 501)
    assert sample_of(rows) == sorted(set(sample_of(rows)))
    assert [len(sample_of(np.arange(count))) for count in (30, 100, 400, 10**4)] == [30, 40, 50, 120]
