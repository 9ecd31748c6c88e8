"""Ray's workers on this machine: every shard once and in order, whoever dies."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ripcurrent.errors import DatasetChangedError, ExitCode, RipcurrentError
from ripcurrent.scan._executor import run_shards
from ripcurrent.scan._part import shard_of
from ripcurrent.scan._ray import ALONE, Machine, RayPool, cores_each
from ripcurrent.scan._shards import Shard, ShardFolder
from tests.scan.ray_stage import ROWS, MakeStage, open_numbers, open_too_few

# read when Ray is first imported, which is here
os.environ.update(ALONE)
ray = pytest.importorskip("ray")

SHARD_ROWS = 3
SHARDS = 8


@pytest.fixture(scope="module")
def pool() -> Iterator[RayPool]:
    """Two workers of a Ray of this machine alone."""
    with RayPool(workers=2) as executor:
        yield executor
    assert not ray.is_initialized()


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


def run(
    pool: RayPool, folder: Path, notes: Path, rows: Any = open_numbers, within: range = range(SHARDS), **changes: Any
) -> list[tuple[int, bool]]:
    """Which shards were reported, and whether they were computed now, by number."""
    reported: list[tuple[int, bool]] = []
    run_shards(
        [shard_of(number, SHARD_ROWS, ROWS) for number in within],
        ShardFolder(folder),
        lambda shards: pool.score_shards(shards, rows, ROWS, MakeStage(notes, **changes)),
        lambda shard, fresh: reported.append((shard.number, fresh)),
    )
    return sorted(reported)


def values(folder: Path) -> list[int]:
    return [value for table in ShardFolder(folder).tables(SHARDS) for value in table["value"].to_pylist()]


def begun(notes: Path) -> dict[int, list[int]]:
    """Rows that each process began."""
    return {int(path.name): [int(line) for line in path.read_text().split()] for path in notes.iterdir()}


def test_rows_come_in_order_from_two_workers_and_what_is_done_is_not_done_again(
    pool: RayPool, tmp_path: Path, notes: Path
) -> None:
    assert run(pool, tmp_path / "shards", notes, within=range(2, 4)) == [(2, True), (3, True)]
    reported = run(pool, tmp_path / "shards", notes, wait=0.3)
    assert reported == [(number, number not in (2, 3)) for number in range(SHARDS)]
    assert values(tmp_path / "shards") == [7 * number for number in range(ROWS)]
    assert sorted(row for rows in begun(notes).values() for row in rows) == list(range(ROWS))
    assert {report["process"] for report in pool.reports.values()} == set(begun(notes))
    assert run(pool, tmp_path / "shards", notes) == [(number, False) for number in range(SHARDS)]


def test_a_last_shard_of_a_dataset_that_had_grown_is_computed_again(pool: RayPool, tmp_path: Path, notes: Path) -> None:
    run(pool, tmp_path / "shards", notes)
    last = shard_of(SHARDS - 1, SHARD_ROWS, ROWS)
    grown = Shard(last.number, last.start, last.rows + 1)
    ShardFolder(tmp_path / "shards").write(grown, pa.table({"value": [1] * grown.rows}))
    assert run(pool, tmp_path / "shards", notes)[-1] == (last.number, True)
    assert values(tmp_path / "shards") == [7 * number for number in range(ROWS)]


def test_tasks_of_several_shards_give_the_same(
    pool: RayPool, tmp_path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("ripcurrent.scan._ray"), "TASKS", 3)
    assert run(pool, tmp_path / "shards", notes) == [(number, True) for number in range(SHARDS)]
    assert values(tmp_path / "shards") == [7 * number for number in range(ROWS)]


def test_it_listens_to_this_machine_only_and_reports_nothing(pool: RayPool) -> None:
    shared = pool.put({"bits": np.arange(3)})
    assert shared()["bits"].tolist() == [0, 1, 2]
    (node,) = ray.nodes()
    assert node["NodeManagerAddress"] == "127.0.0.1"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def kill_first_at_work(notes: Path, killed: list[int]) -> None:
    """Kill -9 the first worker that has begun a second shard."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not killed:
        for pid, rows in begun(notes).items():
            if len(rows) > SHARD_ROWS:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                return
        time.sleep(0.05)


def test_a_worker_killed_midway_loses_and_doubles_nothing(pool: RayPool, tmp_path: Path, notes: Path) -> None:
    killed: list[int] = []
    killer = Thread(target=kill_first_at_work, args=(notes, killed))
    killer.start()
    reported = run(pool, tmp_path / "shards", notes, wait=1.0)
    killer.join()
    assert len(killed) == 1
    assert reported == [(number, True) for number in range(SHARDS)]
    assert values(tmp_path / "shards") == [7 * number for number in range(ROWS)]
    # what the dead worker had begun and not finished was begun again, by another process
    rows = begun(notes)
    again = rows[killed[0]][-SHARD_ROWS:]
    assert set(again) <= {row for pid, found in rows.items() if pid != killed[0] for row in found}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"die_on": 10}, r"4 workers died .* scored rows 9 to 11\.\n.*lower --workers"),
        ({"die_making": True}, "4 workers died one after another as they loaded the model"),
        ({"refuse": 10}, r"Item 10 is not wanted\.\nLeave it out"),
    ],
    ids=["dies over one shard", "dies loading", "refuses"],
)
def test_what_cannot_be_computed_ends_the_run_with_an_error_that_says_so(
    pool: RayPool, tmp_path: Path, notes: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(RipcurrentError, match=said) as caught:
        run(pool, tmp_path / "shards", notes, **changes)
    assert caught.value.code == ExitCode.NOT_MEASURED


def test_a_machine_with_another_file_is_named(pool: RayPool, tmp_path: Path, notes: Path) -> None:
    with pytest.raises(DatasetChangedError, match=r"On \S+ the dataset no longer has the 23 rows"):
        run(pool, tmp_path / "shards", notes, rows=open_too_few)


@pytest.mark.parametrize(
    ("machines", "workers", "with_gpu", "cores"),
    [
        ([(2, 0)], 2, False, 1),
        ([(2, 0)], 3, False, 0),
        # eight GPUs beside 32 cores, and a machine of 64 without any: 96 / 8 would leave six of them idle
        ([(32, 8), (64, 0)], 8, True, 4),
        ([(32, 8), (64, 0)], 2, True, 16),
        ([(4, 8)], 8, True, 0),
        # one worker for each of two unequal machines
        ([(4, 0), (64, 0)], 3, False, 21),
        ([], 1, False, 0),
    ],
)
def test_every_worker_finds_a_place_on_one_machine(
    machines: list[tuple[int, int]], workers: int, with_gpu: bool, cores: int
) -> None:
    assert cores_each([Machine(*one) for one in machines], workers, with_gpu=with_gpu) == cores


def cluster(monkeypatch: pytest.MonkeyPatch, *free: dict[str, float]) -> None:
    """Two machines of 16 cores and 2 GPUs each, of which these are free, one after another."""
    left = list(free)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 16.0, "GPU": 2.0}}] * 2)
    monkeypatch.setattr(ray, "available_resources", lambda: left.pop(0) if len(left) > 1 else left[0])
    monkeypatch.setattr(import_module("ripcurrent.scan._ray"), "PATIENCE", 1.0 if len(free) > 1 else 0.0)


@pytest.mark.parametrize(
    ("how", "free", "shards", "expected"),
    [
        ({"workers": 2}, {"CPU": 3.0}, 8, (2, 1)),
        ({"workers": 2}, {"CPU": 30.0}, 8, (2, 15)),
        # nobody named a number of workers: as many as there is room for
        ({}, {"CPU": 1.0}, 8, (1, 1)),
        # one shard needs one worker
        ({"workers": 2}, {"CPU": 1.0}, 1, (1, 1)),
        ({"use_gpu": True}, {"CPU": 30.0, "GPU": 1.0}, 8, (1, 8)),
        ({"workers": 2}, {"CPU": 1.0}, 8, r"of 32 CPU cores: there is room for 1 of 2 workers\.\nWait for that work"),
        ({"workers": 2, "use_gpu": True}, {"CPU": 30.0, "GPU": 1.0}, 8, "32 CPU cores and 4 GPUs: .* for 1 of 2 work"),
        ({"use_gpu": True}, {"CPU": 30.0}, 8, "there is room for 0 of 1 workers"),
        ({"workers": 5, "use_gpu": True}, {"CPU": 30.0}, 8, "has 32 CPU cores and 4 GPUs, too few for 5 workers"),
        ({"workers": 9999}, {"CPU": 30.0}, 8, r"32 CPU cores, too few for 9999 workers\.\nGive a smaller --workers"),
    ],
)
def test_what_other_work_holds_is_not_waited_for(
    pool: RayPool,
    monkeypatch: pytest.MonkeyPatch,
    how: dict[str, Any],
    free: dict[str, float],
    shards: int,
    expected: tuple[int, int] | str,
) -> None:
    cluster(monkeypatch, free)
    if isinstance(expected, tuple):
        assert RayPool(**how)._pool(shards) == expected
    else:
        with pytest.raises(RipcurrentError, match=expected):
            RayPool(**how)._pool(shards)


def test_what_an_earlier_pool_gives_back_is_waited_for(pool: RayPool, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, {"CPU": 1.0}, {"CPU": 1.0}, {"CPU": 32.0})
    assert RayPool()._pool(8) == (2, 16)


def test_a_pool_of_nobody_is_refused() -> None:
    with pytest.raises(RipcurrentError, match="--workers 0 leaves nobody to work"):
        RayPool(workers=0)


def test_workers_with_a_gpu_each(tmp_path: Path, notes: Path) -> None:
    """Ray takes the number on trust: no GPU is used by this stage."""
    if ray.is_initialized():
        ray.shutdown()
    ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
    try:
        reported = run(RayPool(use_gpu=True), tmp_path / "shards", notes, wait=0.2)
        assert reported == [(number, True) for number in range(SHARDS)]
    finally:
        ray.shutdown()
