"""``--ray-address``: a scan joins a cluster that others started, and leaves it running."""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ripcurrent.scan import scan
from ripcurrent.scan._ray import ALONE, NO_REPORTS
from tests.evaluate.served_model import free_port
from tests.scan_fixtures import assert_same_table
from tests.tiny_scan import rows_with_a_gap, write_jsonl

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


def scan_there(out: Path, options: dict[str, Any], address: str) -> subprocess.CompletedProcess[str]:
    """A scan in a process of its own: a process joins one Ray in its life."""
    rows = write_jsonl(out.parent / "rows.jsonl", rows_with_a_gap(ROWS))
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


def test_a_scan_joins_a_running_cluster_and_leaves_it_running(
    tmp_path: Path, head: str, small_options: dict[str, Any]
) -> None:
    done = scan_there(tmp_path / "cluster", small_options, head)
    assert done.returncode == 0, done.stderr
    alone = scan(tmp_path / "rows.jsonl", tmp_path / "alone", signals="representation", **small_options)
    assert_same_table(tmp_path / "cluster" / "scores.parquet", alone.scores_path)


def test_an_address_where_nobody_listens_is_one_clear_error(tmp_path: Path, small_options: dict[str, Any]) -> None:
    address = f"127.0.0.1:{free_port()}"
    done = scan_there(tmp_path / "out", small_options, address)
    assert done.returncode == 1, done.stderr
    assert f"Ray cannot be reached at {address}" in done.stderr
    assert "RAY_AUTH_MODE=token" in done.stderr
    assert "Traceback" not in done.stderr
