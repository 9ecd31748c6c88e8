"""How alike the gradients of a set's rows are, against one-row gradients."""

import json
from importlib import import_module

import numpy as np
import pytest

import ripcurrent as rc
from ripcurrent.data import encode_rows, read_rows
from ripcurrent.forecast import SetScore
from ripcurrent.forecast._ladder import COHERENCE, SetScores, sample_of
from ripcurrent.models import load_model
from ripcurrent.progress import SilentProgress
from ripcurrent.scan import ScanRun
from tests.gradients.oracle import inner, row_gradient
from tests.tiny_scan import EXACT, good_rows, write_jsonl


def test_coherence_is_the_mean_cosine_between_two_rows_and_is_measured_once(
    tiny_folder, anchors_file, tmp_path, monkeypatch
):
    file = write_jsonl(tmp_path / "rows.jsonl", good_rows(9))
    run = rc.scan(file, tmp_path / "run", model=str(tiny_folder), anchors=str(anchors_file), **EXACT)
    scores = SetScores(SilentProgress())
    found = scores.of(run, range(1, 8), run.folder).coherence
    loaded = load_model(tiny_folder, device="cpu", dtype="float32")
    rows = list(encode_rows(read_rows(file), loaded.tokenizer))
    gradients = [row_gradient(loaded.model, row) for row in rows][1:8]
    units = [(one, np.sqrt(inner(one, one))) for one in gradients]
    cosines = [inner(a, b) / (n * m) for a, n in units for b, m in units if a is not b]
    assert found == pytest.approx(np.mean(cosines), abs=1e-4)
    assert scores.of(run, [3], run.folder).coherence == 1.0
    monkeypatch.setattr(
        import_module("ripcurrent.forecast._ladder"), "load_scan_model", lambda *_: pytest.fail("measured twice")
    )
    again = SetScores(SilentProgress()).of(ScanRun.open(run.folder), range(1, 8), run.folder)
    assert again.coherence == found
    assert len(json.loads((run.folder / COHERENCE).read_text())) == 2


def test_a_large_set_is_measured_on_always_the_same_few_rows():
    rows = np.arange(101, 501)
    assert sample_of(rows) == sorted(set(sample_of(rows)))
    assert [len(sample_of(np.arange(count))) for count in (30, 100, 400, 10**4)] == [30, 40, 50, 120]


def test_a_sets_cosine_is_that_of_its_mean_unit_gradient():
    """From the mean cosine between two rows and the mean of the rows' scores, as a loop over all has it."""
    *rows, direction = (one / np.linalg.norm(one) for one in np.random.default_rng(4).normal(0.1, 1, (7, 20)))
    coherence = np.mean([one @ other for one in rows for other in rows if one is not other])
    found = SetScore(mean=float(np.mean(rows, axis=0) @ direction), coherence=float(coherence))
    mean = np.mean(rows, axis=0)
    assert found.cosine(6) == pytest.approx(mean @ direction / np.linalg.norm(mean))
    # more rows of a kind come nearer to what they share
    cosines = [SetScore(mean=0.02, coherence=0.09).cosine(rows) for rows in (1, 10, 100, 10**6)]
    assert cosines == sorted(cosines)
    assert (cosines[0], cosines[-1]) == (pytest.approx(0.02), pytest.approx(0.02 / 0.3, rel=1e-4))
    # a sample of rows that pull apart
    assert SetScore(mean=0.02, coherence=-0.2).cosine(100) == pytest.approx(2)
