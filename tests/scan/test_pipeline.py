"""The next shard prepared and the last one written while one is computed: same tables, one ahead, errors in order."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ripcurrent.errors import RipcurrentError
from ripcurrent.scan._executor import LocalExecutor
from ripcurrent.scan._shards import Shard, ShardFolder
from tests.scan.test_shards import Doubling, Numbers, doubles

WAIT = 60
"""Seconds after which a test that would hang fails."""


class TwoSteps:
    """Doubles numbers in two steps: prepares each as text; notes when what was begun; fails at a number if told to."""

    def __init__(self, refuses: int | None = None) -> None:
        self.prepared: list[int] = []
        self.computed: list[int] = []
        self.threads: set[str] = set()
        self._refuses = refuses

    def __call__(self, items: Sequence[int]) -> pa.Table:
        raise AssertionError("the two steps are called instead")

    def prepare(self, items: Iterable[int]) -> Iterator[str]:
        for item in items:
            if item == self._refuses:
                raise RipcurrentError(f"Item {item} is not wanted.", "Leave it out.")
            self.threads.add(threading.current_thread().name)
            self.prepared.append(item)
            yield str(item)

    def compute(self, prepared: Sequence[str]) -> pa.Table:
        assert threading.current_thread() is threading.main_thread()
        self.computed.extend(map(int, prepared))
        return pa.table({"double": [2 * int(item) for item in prepared]})


@pytest.mark.parametrize("total", [1, 3, 4, 10])
def test_two_steps_leave_the_files_that_one_leaves(tmp_path: Path, total: int) -> None:
    stage = TwoSteps()
    told: list[tuple[Shard, bool]] = []
    for name, given in (("one", Doubling()), ("two", stage)):
        LocalExecutor().run(
            Numbers(total), given, ShardFolder(tmp_path / name), shard_rows=3, on_shard=lambda *s: told.append(s)
        )
    assert told == 2 * [(Shard(n, 3 * n, min(3, total - 3 * n)), True) for n in range(-(-total // 3))]
    assert stage.prepared == stage.computed == list(range(total))
    assert stage.threads.isdisjoint({threading.main_thread().name})
    files = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert files[0] == files[1]


def test_one_shard_is_prepared_ahead_and_no_more(tmp_path: Path) -> None:
    """While a shard is computed the next one gets prepared, and nothing behind it is even read."""
    ready: dict[int, threading.Event] = {number: threading.Event() for number in range(5)}
    read: list[int] = []

    def numbers(start: int) -> Iterator[int]:
        for number in range(start, 12):
            read.append(number)
            yield number

    class Watched(TwoSteps):
        def prepare(self, items: Iterable[int]) -> Iterator[str]:
            for text in super().prepare(items):
                yield text
                if int(text) % 3 == 2:
                    ready[int(text) // 3].set()

        def compute(self, prepared: Sequence[str]) -> pa.Table:
            shard = int(prepared[0]) // 3
            if shard < 3:
                assert ready[shard + 1].wait(WAIT)
            assert max(read) <= 3 * shard + 5
            return super().compute(prepared)

    stage = Watched()
    assert LocalExecutor().run(numbers, stage, ShardFolder(tmp_path), shard_rows=3) == 4
    assert stage.computed == list(range(12))


def test_a_shard_is_written_while_the_next_is_computed_and_told_of_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, real = threading.Event(), ShardFolder.write

    def write(folder: ShardFolder, shard: Shard, table: pa.Table) -> None:
        # the first shard's writing ends only after the second's computing has begun
        assert shard.number or begun.wait(WAIT)
        real(folder, shard, table)

    class Watched(TwoSteps):
        def compute(self, prepared: Sequence[str]) -> pa.Table:
            if prepared[0] == "3":
                begun.set()
            return super().compute(prepared)

    monkeypatch.setattr(ShardFolder, "write", write)
    folder, told = ShardFolder(tmp_path), []

    def on_shard(shard: Shard, fresh: bool) -> None:
        assert folder.is_done(shard.number)
        told.append(shard.number)

    LocalExecutor().run(Numbers(9), Watched(), folder, shard_rows=3, on_shard=on_shard)
    assert told == [0, 1, 2]


@pytest.mark.parametrize(("refused", "kept"), [(0, 0), (4, 1), (11, 3)])
def test_an_error_in_preparing_leaves_the_shards_before_it_and_the_next_call_does_the_rest(
    tmp_path: Path, refused: int, kept: int
) -> None:
    folder = ShardFolder(tmp_path)
    with pytest.raises(RipcurrentError, match=rf"^Item {refused} is not wanted\.\nLeave it out"):
        LocalExecutor().run(Numbers(12), TwoSteps(refuses=refused), folder, shard_rows=3)
    assert [number for number in range(99) if folder.is_done(number)] == list(range(kept))
    numbers, stage = Numbers(12), TwoSteps()
    assert LocalExecutor().run(numbers, stage, folder, shard_rows=3) == 4
    assert stage.prepared == list(range(3 * kept, 12))
    assert numbers.started_at == [3 * kept]
    assert doubles(folder, 4) == [2 * number for number in range(12)]


def test_an_error_in_reading_does_so_too(tmp_path: Path) -> None:
    def numbers(start: int) -> Iterator[int]:
        yield from range(start, 7)
        raise RipcurrentError("Line 8 is broken.", "Mend it.")

    folder = ShardFolder(tmp_path)
    with pytest.raises(RipcurrentError, match=r"^Line 8 is broken\."):
        LocalExecutor().run(numbers, TwoSteps(), folder, shard_rows=3)
    assert [number for number in range(99) if folder.is_done(number)] == [0, 1]


def test_an_error_in_writing_stops_the_run_before_another_shard_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pq.write_table

    def full(table: pa.Table, part: Path, **options: object) -> None:
        if "00001" in part.name:
            raise OSError(28, "No space left on device")
        real(table, part, **options)

    monkeypatch.setattr(pq, "write_table", full)
    folder, stage = ShardFolder(tmp_path), TwoSteps()
    with pytest.raises(RipcurrentError, match="cannot be written: No space"):
        LocalExecutor().run(Numbers(30), stage, folder, shard_rows=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shard-00000.done", "shard-00000.parquet"]
    assert stage.computed[-1] <= 8


@pytest.mark.parametrize("slow", ["reading", "preparing"])
def test_a_stop_waits_for_no_more_than_the_item_at_hand(tmp_path: Path, slow: str) -> None:
    """The shard ahead would take hours; what is being written is written, and no thread is left."""
    ahead = threading.Event()

    def slowly(numbers: Iterable[int]) -> Iterator[int]:
        for number in numbers:
            if number >= 2000:
                ahead.set()
                threading.Event().wait(0.1)
            yield number

    class Stopped(TwoSteps):
        def prepare(self, items: Iterable[int]) -> Iterator[str]:
            return super().prepare(slowly(items) if slow == "preparing" else items)

        def compute(self, prepared: Sequence[str]) -> pa.Table:
            if prepared[0] != "0":
                assert ahead.wait(WAIT)
                raise KeyboardInterrupt
            return super().compute(prepared)

    def numbers(start: int) -> Iterator[int]:
        return slowly(count(start)) if slow == "reading" else count(start)

    folder, stage, threads = ShardFolder(tmp_path), Stopped(), threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        LocalExecutor().run(numbers, stage, folder, shard_rows=1000)
    assert [number for number in range(99) if folder.is_done(number)] == [0]
    assert threading.active_count() == threads
    assert len(stage.prepared) < 2900


def test_a_done_shard_in_the_middle_is_not_prepared(tmp_path: Path) -> None:
    folder = ShardFolder(tmp_path)
    LocalExecutor().run(Numbers(12), TwoSteps(), folder, shard_rows=3)
    for number in (0, 2):
        folder.path(number).unlink()
    stage = TwoSteps()
    told: list[tuple[int, bool]] = []
    LocalExecutor().run(
        Numbers(12), stage, folder, shard_rows=3, on_shard=lambda shard, fresh: told.append((shard.number, fresh))
    )
    assert stage.prepared == [0, 1, 2, 6, 7, 8]
    assert told == [(0, True), (1, False), (2, True), (3, False)]


def test_a_part_reads_nothing_of_the_next(tmp_path: Path) -> None:
    stage = TwoSteps()
    assert LocalExecutor().run(Numbers(30), stage, ShardFolder(tmp_path), shard_rows=3, within=range(2, 4)) == 4
    assert stage.prepared == list(range(6, 12))
