"""Ray's workers on this machine: every shard once and in order, whoever dies."""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from ripcurrent.errors import DatasetChangedError, ExitCode, RipcurrentError
from ripcurrent.scan._parts import shards_in
from ripcurrent.scan._ray import ALONE, places, ray_cluster, score_on_ray
from ripcurrent.scan._shards import ShardFolder, run_shards
from tests.scan.ray_stage import ROWS, MakeStage, open_numbers, open_too_few

# read when Ray is first imported, which is here
os.environ.update(ALONE)
ray = pytest.importorskip("ray")

pytestmark = pytest.mark.usefixtures("cluster")

SHARD_ROWS = 3
SHARDS = 8


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray of this machine alone."""
    with ray_cluster(None) as started:
        yield started
    assert not ray.is_initialized()


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


def run(
    folder: Path,
    notes: Path,
    rows: Any = open_numbers,
    within: range = range(SHARDS),
    reports: dict[str, Counter[str]] | None = None,
    workers: int = 2,
    use_gpu: bool = False,
    **changes: Any,
) -> list[tuple[int, bool]]:
    """Which shards were reported, and whether they were computed now, by number; by two workers."""
    reported: list[tuple[int, bool]] = []
    make, kept = MakeStage(notes, **changes), {} if reports is None else reports
    run_shards(
        shards_in(None, ROWS, SHARD_ROWS)[within.start : within.stop],
        ShardFolder(folder),
        lambda shards: score_on_ray(ray, shards, rows, ROWS, make, kept, workers, use_gpu=use_gpu),
        lambda shard, fresh: reported.append((shard.number, fresh)),
    )
    return sorted(reported)


def values(folder: Path) -> list[int]:
    return [value for table in ShardFolder(folder).tables(SHARDS) for value in table["value"].to_pylist()]


def begun(notes: Path) -> dict[int, list[int]]:
    """Rows that each process began."""
    return {int(path.name): [int(line) for line in path.read_text().split()] for path in notes.iterdir()}


def test_rows_come_in_order_from_two_workers_and_what_is_done_is_not_done_again(tmp_path: Path, notes: Path) -> None:
    assert run(tmp_path / "shards", notes, within=range(2, 4)) == [(2, True), (3, True)]
    first = set(begun(notes))
    reports: dict[str, Counter[str]] = {}
    reported = run(tmp_path / "shards", notes, reports=reports, wait=0.3)
    assert reported == [(number, number not in (2, 3)) for number in range(SHARDS)]
    assert values(tmp_path / "shards") == [7 * number for number in range(ROWS)]
    assert sorted(row for rows in begun(notes).values() for row in rows) == list(range(ROWS))
    assert {report["process"] for report in reports.values()} == set(begun(notes)) - first
    assert run(tmp_path / "shards", notes) == [(number, False) for number in range(SHARDS)]


def test_it_listens_to_this_machine_only_and_reports_nothing() -> None:
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


def test_a_worker_killed_midway_loses_and_doubles_nothing(tmp_path: Path, notes: Path) -> None:
    killed: list[int] = []
    killer = Thread(target=kill_first_at_work, args=(notes, killed))
    killer.start()
    reported = run(tmp_path / "shards", notes, wait=1.0)
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
    tmp_path: Path, notes: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(RipcurrentError, match=said) as caught:
        run(tmp_path / "shards", notes, **changes)
    assert caught.value.code == ExitCode.NOT_MEASURED


def test_a_machine_with_another_file_is_named(tmp_path: Path, notes: Path) -> None:
    with pytest.raises(DatasetChangedError, match=r"On \S+ the dataset no longer has the 23 rows"):
        run(tmp_path / "shards", notes, rows=open_too_few)


@pytest.mark.parametrize(
    ("machines", "workers", "use_gpu", "shards", "expected"),
    [
        # one worker for each machine, with all of its cores
        ([(2, 0)], None, False, 8, (1, [2])),
        ([(4, 0), (64, 0)], None, False, 8, (2, [4, 64])),
        ([(2, 0)], 2, False, 8, (2, [1])),
        ([(4, 0), (64, 0)], 3, False, 8, (3, [2, 32])),
        # one for each GPU, and a machine of 64 cores without any has none
        ([(32, 8), (64, 0)], None, True, 80, (8, [4])),
        ([(32, 8), (64, 0)], 2, True, 8, (2, [16])),
        ([(4, 8)], 8, True, 8, (8, [1])),
        # one shard needs one worker
        ([(16, 0)], 2, False, 1, (1, [16])),
        ([(16, 2), (16, 2)], 5, True, 8, "has 4 GPUs, too few for 5 workers"),
        ([(64, 0)], None, True, 8, "has 0 GPUs, too few for 1 workers"),
        ([(16, 2), (16, 2)], 9999, False, 8, r"32 CPU cores, too few for 9999 workers\.\nGive a smaller --workers"),
        ([], None, False, 8, "0 CPU cores, too few for 1 workers"),
    ],
)
def test_every_worker_finds_a_place_on_one_machine(
    machines: list[tuple[int, int]],
    workers: int | None,
    use_gpu: bool,
    shards: int,
    expected: tuple[int, list[int]] | str,
) -> None:
    nodes: list[dict[str, Any]] = [
        {
            "NodeID": str(number),
            "Alive": True,
            "Resources": {"CPU": float(cores), **({"GPU": float(gpus)} if gpus else {})},
        }
        for number, (cores, gpus) in enumerate(machines)
    ]
    nodes.append({"NodeID": "gone", "Alive": False, "Resources": {}})
    if isinstance(expected, str):
        with pytest.raises(RipcurrentError, match=expected):
            places(nodes, workers, shards, use_gpu=use_gpu)
    else:
        found, threads = places(nodes, workers, shards, use_gpu=use_gpu)
        assert (found, list(threads.values())) == expected


def test_what_other_work_holds_is_not_waited_for_without_end(
    tmp_path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("ripcurrent.scan._ray"), "STARTS_WITHIN", 2.0)
    all_cores = int(ray.cluster_resources()["CPU"])
    other = ray.remote(num_cpus=all_cores)(Counter).remote()
    ray.get(other.total.remote())
    with pytest.raises(RipcurrentError, match=r"it has no room for 2 workers\.\nWait for that work") as caught:
        run(tmp_path / "shards", notes)
    assert caught.value.code == ExitCode.NOT_MEASURED
    ray.kill(other)


def test_workers_with_a_gpu_each(tmp_path: Path, notes: Path) -> None:
    """Ray takes the number on trust: no GPU is used by this stage."""
    if ray.is_initialized():
        ray.shutdown()
    ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
    try:
        reported = run(tmp_path / "shards", notes, use_gpu=True, wait=0.2)
        assert reported == [(number, True) for number in range(SHARDS)]
    finally:
        ray.shutdown()
