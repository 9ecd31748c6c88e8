"""Ray's workers on this machine: every shard once and in order, whoever dies."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ripcurrent.errors import DatasetChangedError, ExitCode, RipcurrentError
from ripcurrent.scan._execution import ALONE, places, score_on_ray
from ripcurrent.scan._shards import Shard, ShardFolder, ShardReader, Tables, run_shards, score_shards, shards_in

# read when Ray is first imported, which is here
os.environ.update(ALONE)
ray = pytest.importorskip("ray")

pytestmark = pytest.mark.usefixtures("cluster")

ROWS, SHARD_ROWS, SHARDS = 23, 3, 8


def open_numbers(start: int) -> Iterator[int]:
    return iter(range(start, ROWS))


def open_too_few(start: int) -> Iterator[int]:
    return iter(range(start, 10))


@dataclass(frozen=True)
class MakeStage:
    """Makes a stage that needs no model: it multiplies with a number and notes which process did which row."""

    notes: Path
    """Folder of one file per process: the rows that it began, in order."""
    wait: float = 0.0
    die_making: bool = False
    refuse: int | None = None

    def __call__(self) -> MakeStage:
        if self.die_making:
            os._exit(1)
        return self

    def prepare(self, items: Iterable[int]) -> Iterator[int]:
        return (7 * item for item in items)

    def compute(self, prepared: Sequence[int]) -> pa.Table:
        items = [number // 7 for number in prepared]
        with (self.notes / str(os.getpid())).open("a", encoding="utf-8") as file:
            file.writelines(f"{item}\n" for item in items)
        if self.refuse in items:
            raise RipcurrentError(f"Item {self.refuse} is not wanted.", "Leave it out.", code=ExitCode.NOT_MEASURED)
        time.sleep(self.wait)
        return pa.table({"value": prepared})


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray of this machine alone that takes its two GPUs on trust: none is used."""
    ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def run(
    place: Path, rows: Any = open_numbers, here: slice | None = None, use_gpu: bool = False, **changes: Any
) -> list[int]:
    """Which shards two workers computed now, or of a slice of them this process."""
    (place / "notes").mkdir(exist_ok=True)
    make: Any = MakeStage(place / "notes", **changes)
    read = ShardReader(rows, ROWS)

    def score(shards: Sequence[Shard]) -> Tables:
        if here is not None:
            return score_shards(shards, read, make())
        return score_on_ray(ray, shards, read, make, 2, use_gpu=use_gpu, deaths=2)

    computed = run_shards(shards_in(None, ROWS, SHARD_ROWS)[here or slice(None)], ShardFolder(place / "shards"), score)
    return [shard.number for shard in computed if ShardFolder(place / "shards").done(shard.number)]


def test_rows_come_in_order_from_two_workers_with_a_gpu_each_and_what_is_done_is_not_done_again(tmp_path):
    assert run(tmp_path, here=slice(2, 4)) == [2, 3]
    assert run(tmp_path, wait=0.3, use_gpu=True) == [0, 1, 4, 5, 6, 7]
    tables = ShardFolder(tmp_path / "shards").tables(SHARDS)
    assert [value for table in tables for value in table["value"].to_pylist()] == list(range(0, 7 * ROWS, 7))
    begun = [path.read_text().split() for path in (tmp_path / "notes").iterdir()]
    assert sorted(int(row) for rows in begun for row in rows) == list(range(ROWS))
    assert run(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"die_making": True}, r"2 workers died .* as they loaded the model or scored rows \d.*\n.*lower --workers"),
        ({"refuse": 10}, r"Item 10 is not wanted\.\nLeave it out"),
        ({"rows": open_too_few}, r"On \S+ the dataset no longer has the 23 rows"),
    ],
    ids=["dies loading", "refuses", "another file on another machine"],
)
def test_what_cannot_be_computed_ends_the_run_with_an_error_that_says_so(tmp_path, changes, said):
    with pytest.raises(RipcurrentError, match=said) as caught:
        run(tmp_path, **changes)
    if "rows" in changes:
        assert isinstance(caught.value, DatasetChangedError)
    else:
        assert caught.value.code == ExitCode.NOT_MEASURED


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
def test_every_worker_finds_a_place_on_one_machine(machines, workers, use_gpu, shards, expected):
    nodes: list[dict[str, Any]] = [{"NodeID": "gone", "Alive": False, "Resources": {}}]
    for number, (cores, gpus) in enumerate(machines):
        resources = {"CPU": float(cores), **({"GPU": float(gpus)} if gpus else {})}
        nodes.append({"NodeID": str(number), "Alive": True, "Resources": resources})
    if isinstance(expected, str):
        with pytest.raises(RipcurrentError, match=expected):
            places(nodes, workers, shards, use_gpu=use_gpu)
    else:
        found, threads = places(nodes, workers, shards, use_gpu=use_gpu)
        assert (found, list(threads.values())) == expected


def test_what_other_work_holds_is_not_waited_for_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(import_module("ripcurrent.scan._execution"), "STARTS_WITHIN", 2.0)
    all_cores = int(ray.cluster_resources()["CPU"])
    other = ray.remote(num_cpus=all_cores)(Counter).remote()
    ray.get(other.total.remote())
    with pytest.raises(RipcurrentError, match=r"it has no room for 2 workers\.\nWait for that work") as caught:
        run(tmp_path)
    assert caught.value.code == ExitCode.NOT_MEASURED
    ray.kill(other)
