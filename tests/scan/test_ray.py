"""Ray's workers on this machine: every shard once and in order, whoever dies."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.scan._ray import ALONE, RayExecutor
from ripcurrent.scan._shards import Shard, ShardFolder
from tests.scan.ray_stage import ROWS, MakePreparingStage, MakeStage, SkippableNumbers, open_numbers, open_too_few

# read when Ray is first imported, which is here
os.environ.update(ALONE)
ray = pytest.importorskip("ray")

SHARD_ROWS = 3
SHARDS = 8


@pytest.fixture(scope="module")
def pool() -> Iterator[RayExecutor]:
    """Two workers of a Ray of this machine alone."""
    with RayExecutor(workers=2) as executor:
        yield executor
    assert not ray.is_initialized()


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


def run(
    pool: RayExecutor, folder: Path, notes: Path, rows: Any = open_numbers, within: range | None = None, **changes: Any
) -> list[tuple[int, bool]]:
    """Which shards were reported, and whether they were computed now, by number."""
    told: list[tuple[int, bool]] = []

    def on_shard(shard: Shard, fresh: bool) -> None:
        told.append((shard.number, fresh))

    def share() -> MakeStage:
        return MakeStage(pool.put(np.array([7])), notes, **changes)

    pool.run(rows, share, ShardFolder(folder), rows=ROWS, shard_rows=SHARD_ROWS, within=within, on_shard=on_shard)
    return sorted(told)


def values(folder: Path) -> list[int]:
    return [value for table in ShardFolder(folder).tables(SHARDS) for value in table["value"].to_pylist()]


def begun(notes: Path) -> dict[int, list[int]]:
    """Rows that each process began."""
    return {int(path.name): [int(line) for line in path.read_text().split()] for path in notes.iterdir()}


def test_rows_come_in_order_from_two_workers_and_what_is_done_is_not_done_again(
    pool: RayExecutor, tmp_path: Path, notes: Path
) -> None:
    assert run(pool, tmp_path / "shards", notes, within=range(2, 4)) == [(2, True), (3, True)]
    told = run(pool, tmp_path / "shards", notes, wait=0.3)
    assert told == [(number, number not in (2, 3)) for number in range(SHARDS)]
    assert values(tmp_path / "shards") == [7 * number for number in range(ROWS)]
    assert sorted(row for rows in begun(notes).values() for row in rows) == list(range(ROWS))
    assert run(pool, tmp_path / "shards", notes) == [(number, False) for number in range(SHARDS)]


def test_a_last_shard_of_a_dataset_that_had_grown_is_computed_again(
    pool: RayExecutor, tmp_path: Path, notes: Path
) -> None:
    run(pool, tmp_path / "shards", notes)
    last = Shard(SHARDS - 1, (SHARDS - 1) * SHARD_ROWS, ROWS - (SHARDS - 1) * SHARD_ROWS)
    grown = Shard(last.number, last.start, last.rows + 1)
    ShardFolder(tmp_path / "shards").write(grown, pa.table({"value": [1] * grown.rows}))
    assert run(pool, tmp_path / "shards", notes)[-1] == (last.number, True)
    assert values(tmp_path / "shards") == [7 * number for number in range(ROWS)]


def test_a_worker_makes_no_rows_of_others(pool: RayExecutor, tmp_path: Path, notes: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    # whichever worker does shards 1 and 4, there is one between them that nobody does
    there = pa.table({"value": [7 * number for number in range(6, 9)]})
    ShardFolder(tmp_path / "shards").write(Shard(2, 6, 3), there)
    run(pool, tmp_path / "shards", notes, rows=partial(SkippableNumbers, notes=made), wait=0.3)
    assert begun(made) == begun(notes)
    assert sorted(row for rows in begun(made).values() for row in rows) == [*range(6), *range(9, ROWS)]
    assert values(tmp_path / "shards") == [7 * number for number in range(ROWS)]


def test_the_next_shard_of_a_task_and_of_no_other_is_prepared_beside_the_one_that_is_computed(
    pool: RayExecutor, tmp_path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("ripcurrent.scan._ray"), "TASKS", 6)
    folder = ShardFolder(tmp_path / "shards")
    # of seven shards the last two are one task: no other is made of two, though batches of two would be allowed to be
    pool.run(open_numbers, lambda: MakePreparingStage(notes), folder, rows=ROWS, shard_rows=SHARD_ROWS, within=range(7))
    found = [value for table in folder.tables(7) for value in table["value"].to_pylist()]
    assert found == [7 * number for number in range(7 * SHARD_ROWS)]
    at: dict[str, float] = {}
    shards: dict[Path, list[int]] = {}
    for path in notes.iterdir():
        for line in path.read_text().splitlines():
            step, item, seconds = line.split()
            assert f"{step} {item}" not in at, "done twice"
            at[f"{step} {item}"] = float(seconds)
            if step == "computed":
                shards.setdefault(path, []).append(int(item))
    for one_process in shards.values():
        for one, following in itertools.pairwise(one_process):
            assert (at[f"prepare {following}"] < at[f"computed {one}"]) == ((one, following) == (15, 18))
    assert at["prepare 18"] < at["computed 15"]


def test_it_listens_to_this_machine_only_and_reports_nothing(pool: RayExecutor) -> None:
    pool.put(np.zeros(1))
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


def test_a_worker_killed_midway_loses_and_doubles_nothing(pool: RayExecutor, tmp_path: Path, notes: Path) -> None:
    killed: list[int] = []
    killer = Thread(target=kill_first_at_work, args=(notes, killed))
    killer.start()
    told = run(pool, tmp_path / "shards", notes, wait=1.0)
    killer.join()
    assert len(killed) == 1
    assert told == [(number, True) for number in range(SHARDS)]
    assert values(tmp_path / "shards") == [7 * number for number in range(ROWS)]
    # what the dead worker had begun and not finished was begun again, by another process
    rows = begun(notes)
    again = rows[killed[0]][-SHARD_ROWS:]
    assert set(again) <= {row for pid, found in rows.items() if pid != killed[0] for row in found}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"die_on": 10}, r"4 workers died one after another over rows 9 to 11\.\n.*fewer --workers"),
        ({"die_making": True}, r"8 workers died one after another before they had loaded the model"),
        ({"refuse": 10}, r"Item 10 is not wanted\.\nLeave it out"),
    ],
    ids=["dies over one shard", "dies loading", "refuses"],
)
def test_what_cannot_be_computed_ends_the_run_in_words(
    pool: RayExecutor, tmp_path: Path, notes: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(RipcurrentError, match=said) as caught:
        run(pool, tmp_path / "shards", notes, **changes)
    assert caught.value.code == ExitCode.NOT_MEASURED


def test_a_machine_with_another_file_is_named(pool: RayExecutor, tmp_path: Path, notes: Path) -> None:
    with pytest.raises(RipcurrentError, match=r"the dataset has 1 rows from row 9 on, not 3\.\nEvery machine must"):
        run(pool, tmp_path / "shards", notes, rows=open_too_few)


def kill_the_count(notes: Path, killed: list[int]) -> None:
    """Kill the process that counts attempts, once a worker is at work."""
    until = time.monotonic() + 60
    while time.monotonic() < until and not killed:
        time.sleep(0.05)
        if not any(notes.iterdir()):
            continue
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                counts = b"ray::Attempts" in entry.read_bytes()
            except OSError:
                continue
            if counts:
                os.kill(int(entry.parent.name), signal.SIGKILL)
                killed.append(int(entry.parent.name))


def test_cores_that_other_work_holds_are_not_waited_for(
    pool: RayExecutor, tmp_path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool._connect()
    free = {"CPU": 3.0}
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 16.0}}] * 2)
    monkeypatch.setattr(ray, "available_resources", lambda: free)
    assert pool._pool(8) == (2, 1)
    free["CPU"] = 30.0
    assert pool._pool(8) == (2, 15)
    monkeypatch.setattr(import_module("ripcurrent.scan._ray"), "PATIENCE", 0.0)
    free["CPU"] = 1.0
    with pytest.raises(RipcurrentError, match=r"1 of 32 processor cores are free, for 2 workers\.\nWait for that work"):
        pool._pool(8)
    # nobody named a number of workers: as many as there is room for
    assert RayExecutor()._pool(8) == (1, 1)
    # one shard needs one worker
    assert pool._pool(1) == (1, 1)


def test_what_an_earlier_pool_gives_back_is_waited_for(pool: RayExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    pool._connect()
    free = iter([{"CPU": 1.0}, {"CPU": 1.0}, {"CPU": 32.0}])
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 16.0}}] * 2)
    monkeypatch.setattr(ray, "available_resources", lambda: next(free))
    assert RayExecutor()._pool(8) == (2, 16)


def test_gpus_that_other_work_holds_are_not_waited_for(pool: RayExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    pool._connect()
    free = {"CPU": 30.0, "GPU": 1.0}
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 16.0, "GPU": 2.0}}] * 2)
    monkeypatch.setattr(ray, "available_resources", lambda: free)
    monkeypatch.setattr(import_module("ripcurrent.scan._ray"), "PATIENCE", 0.0)
    assert RayExecutor(use_gpu=True)._pool(8) == (1, 8)
    with pytest.raises(RipcurrentError, match="1 of 4 GPUs and 30 of 32 processor cores are free, for 2 workers"):
        RayExecutor(workers=2, use_gpu=True)._pool(8)
    free.pop("GPU")
    with pytest.raises(RipcurrentError, match="0 of 4 GPUs"):
        RayExecutor(use_gpu=True)._pool(8)


def test_the_count_of_attempts_may_die_too(pool: RayExecutor, tmp_path: Path, notes: Path) -> None:
    """It is a process beside the workers, and begins anew."""
    killed: list[int] = []
    stopped = Thread(target=kill_the_count, args=(notes, killed))
    stopped.start()
    told = run(pool, tmp_path / "shards", notes, wait=0.3)
    stopped.join()
    assert killed
    assert told == [(number, True) for number in range(SHARDS)]


def test_a_pool_of_nobody_is_refused() -> None:
    with pytest.raises(RipcurrentError, match="--workers 0 leaves nobody to work"):
        RayExecutor(workers=0)


def test_a_pool_larger_than_the_machine_is_refused(tmp_path: Path, notes: Path, pool: RayExecutor) -> None:
    with pytest.raises(RipcurrentError, match=r"processor cores, too few for 9999 workers\.\nName fewer --workers"):
        run(RayExecutor(workers=9999), tmp_path / "shards", notes)
