"""A scan by Ray's workers on this machine: what one process leaves, also when a worker is killed."""

import os
import pickle
import signal
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from ripcurrent.data import read_rows
from ripcurrent.errors import RipcurrentError
from ripcurrent.gradients import GradientPass, choose_factoring, make_batch, set_direction, stack_directions
from ripcurrent.progress import SilentProgress
from ripcurrent.scan import scan
from ripcurrent.scan._execution import RemoteScan, identity_of, on_device
from ripcurrent.scan._options import Execution, ScanOptions
from ripcurrent.scan._ray import ALONE, ray_cluster
from ripcurrent.scan._scan_model import load_scan_model
from ripcurrent.scan._signal_stage import SignalStage
from tests.gradients.oracle import random_rows
from tests.models.tiny import save_tiny
from tests.scan_fixtures import assert_same_table
from tests.tiny_scan import good_rows, rows_with_a_gap, write_jsonl

# read when Ray is first imported, which is here
os.environ.update(ALONE)
pytest.importorskip("ray")
ROWS = 40
TWO = Execution(executor="ray", workers=2)


@pytest.fixture(scope="module", autouse=True)
def one_ray(shared_cache: Path) -> Iterator[None]:
    """One Ray for the module's scans, which leave a Ray alone that they did not start."""
    with ray_cluster(None):
        yield


class KillAtFirstRows(SilentProgress):
    """Kill -9 one of two workers, Ray's processes below this one, when the first rows are reported."""

    killed = reported = 0

    def rows(self, count: int) -> None:
        self.reported += count
        if not self.killed:
            below = psutil.Process().children(recursive=True)
            self.killed = next(one.pid for one in below if any("MapWorker" in word for word in one.cmdline()[:1]))
            os.kill(self.killed, signal.SIGKILL)


def test_two_workers_leave_what_one_process_leaves_though_one_is_killed(
    tmp_path: Path, small_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    progress, dataset = KillAtFirstRows(), write_jsonl(tmp_path / "rows.jsonl", rows_with_a_gap(ROWS))
    alone = scan(dataset, tmp_path / "alone", **small_options)
    # workers stand in other folders, and paths are those from here
    monkeypatch.chdir(tmp_path)
    here = {**small_options, "model": os.path.relpath(small_options["model"])}
    result = scan(dataset.name, tmp_path / "ray", execution=TWO, progress=progress, **here)
    assert progress.killed
    assert progress.reported == ROWS
    assert result.status_counts() == alone.status_counts() == {"ok": ROWS - 1, "no_response": 1}
    assert result.manifest.timings["rows_scored_in_this_call"] == ROWS
    assert result.manifest.memory["batches_halved"] == 0
    assert min(result.manifest.execution["worker_peak_bytes"].values()) > 10**8
    assert_same_table(result.scores_path, alone.scores_path)
    again = scan(dataset, tmp_path / "ray", **small_options)
    assert again.manifest.timings["rows_scored_in_this_call"] == ROWS, "resumed without computing"
    # and the other way round: Ray goes on where one process stopped
    for number in (3, 8):
        (alone.folder / "signals" / f"shard-{number:05d}.done").unlink()
    resumed = scan(dataset, alone.folder, execution=TWO, **small_options)
    assert resumed.manifest.timings["rows_scored_in_this_call"] == 8
    assert_same_table(resumed.scores_path, result.scores_path)


def test_documents_in_windows_come_from_workers(tmp_path: Path, small_options: dict[str, Any]) -> None:
    texts = [f"{row['prompt']} {row['response']} " * (1 + number % 3) for number, row in enumerate(good_rows(20))]
    dataset = write_jsonl(tmp_path / "documents.jsonl", [{"text": text} for text in texts])
    here, there = (
        scan(dataset, tmp_path / name, execution=execution, windows=True, max_tokens=48, **small_options)
        for name, execution in (("here", None), ("there", TWO))
    )
    for name in ("scores.parquet", "windows.parquet"):
        assert_same_table(there.folder / name, here.folder / name)


def test_another_file_elsewhere_is_refused(tmp_path: Path) -> None:
    """A worker's own machine may have other rows under the same path."""
    dataset = write_jsonl(tmp_path / "rows.jsonl", good_rows(6))
    elsewhere = RemoteScan(ScanOptions(), str(dataset), read_rows(dataset).sampled_hash(), {}, lambda: None, None)
    assert [row.index for row in elsewhere.rows(2)] == [2, 3, 4, 5]
    write_jsonl(dataset, good_rows(7)[1:])
    with pytest.raises(RipcurrentError, match=r"rows\.jsonl is another file than where the scan was started"):
        elsewhere.rows(2)


@pytest.mark.parametrize("kind", ["llama_tied", "gpt2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_stage_made_elsewhere_scores_the_same_also_with_factored_directions(
    kind: str, dtype: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ScanOptions(model=str(save_tiny(tmp_path / "model", kind)), device="cpu", dtype=dtype, max_tokens=64)
    chat_model = load_scan_model(options)
    gradient_pass = GradientPass(chat_model)
    anchors = random_rows(np.random.default_rng(1), 4)
    factoring = choose_factoring(gradient_pass.layers, 1, 1)
    gradient = set_direction(gradient_pass, anchors, factoring=factoring).gradient
    directions = stack_directions(gradient_pass.layers, [gradient, gradient], chat_model.dtype)
    assert directions.entry_of
    assert len(directions.term_weights) > 4
    stage = SignalStage(chat_model=chat_model, token_budget=64, gradient_pass=gradient_pass, directions=directions)
    there = partial(deepcopy, on_device(directions, torch.device("cpu")))
    shared = RemoteScan(options, "rows.jsonl", None, identity_of(chat_model), there, None)
    batch = make_batch(random_rows(np.random.default_rng(2), 5), chat_model.device)
    measured = []
    for one in (stage, pickle.loads(pickle.dumps(shared)).stage()):
        assert one.gradient_pass is not None
        measured.append(one.gradient_pass.measure(batch, one.directions))
    assert np.isfinite(measured[0].dots).all()
    np.testing.assert_array_equal(measured[1].dots, measured[0].dots)
    np.testing.assert_array_equal(measured[1].squared_norm, measured[0].squared_norm)

    for what in ("model's fingerprint", "chat template", "tokenizer", "version of torch", "compute type"):
        other = replace(shared, identity={**shared.identity, what: "another"})
        with pytest.raises(RipcurrentError, match=rf"would give other scores .*: its {what} is .* there it is another"):
            other.stage()

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(import_module("ripcurrent.scan._execution"), "load_scan_model", full)
    with pytest.raises(RipcurrentError, match=r"The model and the directions on \S+ do not fit into memory"):
        shared.stage()
