"""``--ray-address``: a scan joins a cluster that others started, and leaves it running."""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from ripcurrent.scan import scan
from ripcurrent.scan._ray import ALONE, NO_REPORTS
from tests.evaluate.served_model import free_port
from tests.scan_fixtures import table_of
from tests.tiny_scan import REPRESENTATION_COSINES, rows_with_a_gap, small_shards, write_jsonl

# read when Ray is first imported, which is here
os.environ.update(ALONE)
pytest.importorskip("ray")
ROWS = 20
ENVIRONMENT = {
    # without it Ray replaces 127.0.0.1 by an address that other machines reach, at both ends
    **ALONE,
    **NO_REPORTS,
    "RAY_worker_niceness": "0",
    # whether a token lies in the home directory must not matter
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}
"""Both ends': a cluster on loopback that asks for a token."""


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster of one machine with two cores, which is not this process's."""
    port = free_port()
    log = tmp_path_factory.mktemp("head") / "log"
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


def scan_there(rows: Path, out: Path, model: Path, anchors: Path, address: str) -> subprocess.CompletedProcess[str]:
    """A scan in a process of its own: a process joins one Ray in its life."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "ripcurrent", "scan", str(rows), "--out", str(out), "--quiet"),
            *("--model", str(model), "--anchors", str(anchors), "--no-anchor-check", "--signals", "representation"),
            *("--device", "cpu", "--dtype", "float32", "--shard-rows", "4"),
            *("--executor", "ray", "--workers", "1", "--ray-address", address),
        ],
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_scan_joins_a_running_cluster_and_leaves_it_running(
    tmp_path: Path, head: str, tiny_folder: Path, anchors_file: Path, shared_cache: Path
) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", rows_with_a_gap(ROWS))
    done = scan_there(rows, tmp_path / "cluster", tiny_folder, anchors_file, head)
    assert done.returncode == 0, done.stderr
    cluster = pq.read_table(tmp_path / "cluster" / "scores.parquet")
    options = small_shards(tiny_folder, anchors_file)
    alone = table_of(scan(rows, tmp_path / "alone", signals="representation", **options))
    assert cluster["id"].equals(alone["id"])
    assert cluster["status"].equals(alone["status"])
    for column in REPRESENTATION_COSINES:
        assert np.allclose(cluster[column].to_numpy(), alone[column].to_numpy(), atol=2e-5, equal_nan=True), column


def test_an_address_where_nobody_listens_is_one_clear_error(
    tmp_path: Path, tiny_folder: Path, anchors_file: Path, shared_cache: Path
) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", rows_with_a_gap(ROWS))
    address = f"127.0.0.1:{free_port()}"
    done = scan_there(rows, tmp_path / "out", tiny_folder, anchors_file, address)
    assert done.returncode == 1, done.stderr
    assert f"Ray cannot be reached at {address}" in done.stderr
    assert "RAY_AUTH_MODE=token" in done.stderr
    assert "Traceback" not in done.stderr
