"""A scan by Ray's workers, here or on a cluster that others started: what one process leaves, whoever dies."""

import os
import pickle
import secrets
import signal
import subprocess
import sys
import time
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
from ripcurrent.scan._execution import ALONE, NO_REPORTS, RemoteScan, identity_of, on_device
from ripcurrent.scan._options import Execution, ScanOptions
from ripcurrent.scan._passes import SignalStage
from ripcurrent.scan._scan_model import load_scan_model
from tests.evaluate.scripted_server import free_port
from tests.gradients.oracle import random_rows
from tests.models.tiny import save_tiny
from tests.scan_fixtures import assert_same_table, good_rows, rows_with_a_gap, write_jsonl

# read when Ray is first imported, which is here
os.environ.update(ALONE)
pytest.importorskip("ray")
ROWS = 40
TWO = Execution(executor="ray", workers=2)
ENVIRONMENT = {
    # without it Ray replaces 127.0.0.1 by an address that other machines reach, at both ends
    **{**ALONE, **NO_REPORTS, "RAY_worker_niceness": "0"},
    # whether a token lies in the home directory must not matter
    **{"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)},
}
"""Both ends': a cluster on loopback that asks for a token."""


@pytest.fixture
def head(tmp_path) -> Iterator[str]:
    """The address of a cluster of one machine with two cores, which is not this process's."""
    port, log = free_port(), tmp_path / "log"
    with log.open("wb") as file:
        started = subprocess.Popen(
            [
                *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--port", str(port)),
                *("--node-ip-address", "127.0.0.1", "--num-cpus", "2", "--include-dashboard", "false"),
            ],
            env={**os.environ, **ENVIRONMENT},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    deadline = time.monotonic() + 120
    while b"Ray runtime started" not in log.read_bytes():
        assert started.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    yield f"127.0.0.1:{port}"
    assert started.poll() is None, "the cluster ended before its owner ended it"
    # asked to end, it waits half a minute for its parts
    for process in (*psutil.Process(started.pid).children(recursive=True), started):
        process.kill()
    started.wait(60)


def scan_there(out: Path, options: dict[str, Any], address: str) -> subprocess.CompletedProcess[str]:
    """A scan in a process of its own: a process joins one Ray in its life."""
    rows = write_jsonl(out.parent / "rows.jsonl", rows_with_a_gap(20))
    return subprocess.run(
        [
            *(sys.executable, "-m", "ripcurrent", "scan", str(rows), "--out", str(out), "--quiet"),
            *("--model", options["model"], "--anchors", options["anchors"], "--no-anchor-check"),
            *("--signals", "representation", "--device", "cpu", "--dtype", "float32", "--shard-rows", "4"),
            *("--executor", "ray", "--workers", "1", "--ray-address", address),
        ],
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_scan_joins_a_running_cluster_and_leaves_it_running(tmp_path, head, small_options):
    done = scan_there(tmp_path / "cluster", small_options, head)
    assert done.returncode == 0, done.stderr
    alone = scan(tmp_path / "rows.jsonl", tmp_path / "alone", signals="representation", **small_options)
    assert_same_table(tmp_path / "cluster" / "scores.parquet", alone.scores_path)


def test_an_address_where_nobody_listens_is_one_clear_error(tmp_path, small_options):
    address = f"127.0.0.1:{free_port()}"
    done = scan_there(tmp_path / "out", small_options, address)
    assert done.returncode == 1, done.stderr
    assert f"Ray cannot be reached at {address}" in done.stderr
    assert "RAY_AUTH_MODE=token" in done.stderr
    assert "Traceback" not in done.stderr


class KillAtFirstRows(SilentProgress):
    """Kill -9 one of two workers, Ray's processes below this one, when the first rows are reported."""

    killed = reported = 0
    address = step_name = ""

    def start(self, name: str, total: int, unit: str = "rows") -> None:
        self.step_name = name

    def rows(self, count: float) -> None:
        if self.step_name != "scoring rows":
            return
        self.reported += count
        self.address = import_module("ray").nodes()[0]["NodeManagerAddress"]
        if not self.killed:
            below = psutil.Process().children(recursive=True)
            self.killed = next(one.pid for one in below if any("MapWorker" in word for word in one.cmdline()[:1]))
            os.kill(self.killed, signal.SIGKILL)


def test_two_workers_leave_what_one_process_leaves_though_one_is_killed(tmp_path, small_options, monkeypatch):
    documents = [{"text": 9 * row["response"]} for row in rows_with_a_gap(ROWS)]
    progress, dataset = KillAtFirstRows(), write_jsonl(tmp_path / "rows.jsonl", documents)
    small_options = {**small_options, "max_tokens": 96}
    alone = scan(dataset, tmp_path / "alone", **small_options)
    # workers stand in other folders, and paths are those from here
    monkeypatch.chdir(tmp_path)
    here = {**small_options, "model": os.path.relpath(small_options["model"])}
    result = scan(dataset.name, tmp_path / "ray", execution=TWO, progress=progress, **here)
    assert progress.killed
    assert progress.address == "127.0.0.1", "other machines reach it"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert progress.reported == ROWS
    assert result.status_counts() == alone.status_counts() == {"ok": ROWS - 1, "no_response": 1}
    assert result.manifest.timings["rows_scored_in_this_call"] == ROWS
    assert result.manifest.execution == {"executor": "ray", "workers": 2}
    assert_same_table(result.folder / "scores.parquet", alone.folder / "scores.parquet")
    again = scan(dataset, tmp_path / "ray", **small_options)
    assert again.manifest.timings["rows_scored_in_this_call"] == ROWS, "resumed without computing"


def test_another_file_elsewhere_is_refused(tmp_path):
    """A worker's own machine may have other rows under the same path."""
    dataset = write_jsonl(tmp_path / "rows.jsonl", good_rows(6))
    elsewhere = RemoteScan(ScanOptions(), str(dataset), read_rows(dataset).sampled_hash(), {}, lambda: None, None)
    assert [row.index for row in elsewhere.rows(2)] == [2, 3, 4, 5]
    write_jsonl(dataset, good_rows(7)[1:])
    with pytest.raises(RipcurrentError, match=r"rows\.jsonl is another file than where the scan was started"):
        elsewhere.rows(2)


@pytest.mark.parametrize("kind", ["llama_tied", "gpt2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_stage_made_elsewhere_scores_the_same_also_with_factored_directions(kind, dtype, tmp_path, monkeypatch):
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
