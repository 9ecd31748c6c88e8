"""How alike the gradients of a set's rows are, against one-row gradients."""

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import ripcurrent as rc
from ripcurrent.data import encode_rows, read_rows
from ripcurrent.forecast import SetScore
from ripcurrent.forecast._ladder import COHERENCE, SetScores, sample_of
from ripcurrent.gradients import GradientPass, mean_cosine, norm_of_mean
from ripcurrent.models import load_model
from ripcurrent.progress import SilentProgress
from ripcurrent.scan import ScanRun
from tests.gradients.oracle import chat_model, inner, random_rows, row_gradient
from tests.models.tiny import tiny_model
from tests.tiny_scan import EXACT, good_rows, write_jsonl


def test_coherence_is_the_mean_cosine_between_two_rows_and_is_measured_once(
    tiny_folder: Path, anchors_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_a_large_set_is_measured_on_always_the_same_few_rows() -> None:
    rows = np.arange(101, 501)
    assert sample_of(rows) == sorted(set(sample_of(rows)))
    assert [len(sample_of(np.arange(count))) for count in (30, 100, 400, 10**4)] == [30, 40, 50, 120]


@pytest.mark.parametrize("kind", ["llama_tied", "gpt2", "gemma3"])
def test_a_sets_cosine_is_that_of_its_mean_unit_gradient(kind: str) -> None:
    """From the mean cosine between two rows and the mean of the rows' scores, as a loop over all has it."""
    model = tiny_model(kind)
    rows = random_rows(np.random.default_rng(4), 6)
    gradients = [row_gradient(model, row) for row in rows]
    norms = np.array([np.sqrt(inner(one, one)) for one in gradients])
    mean = {name: sum(one[name] / n for one, n in zip(gradients, norms, strict=True)) / 6 for name in gradients[0]}
    direction = row_gradient(model, random_rows(np.random.default_rng(5), 1)[0])
    scores = [inner(one, direction) / norm for one, norm in zip(gradients, norms, strict=True)]
    coherence = mean_cosine(norm_of_mean(GradientPass(chat_model(model)), rows, norms), 6)
    found = SetScore(mean=float(np.mean(scores)), coherence=coherence).cosine(6)
    assert found == pytest.approx(inner(mean, direction) / np.sqrt(inner(mean, mean)), rel=1e-3)


def test_more_rows_of_a_kind_come_nearer_to_what_they_share() -> None:
    found = [SetScore(mean=0.02, coherence=0.09).cosine(rows) for rows in (1, 10, 100, 10**6)]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (pytest.approx(0.02), pytest.approx(0.02 / 0.3, rel=1e-4))
    # a sample of rows that pull apart
    assert SetScore(mean=0.02, coherence=-0.2).cosine(100) == pytest.approx(2)
