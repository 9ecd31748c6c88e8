"""Shards: whole or not there, marked when done, computed once; the next is prepared while one is computed."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import count

import pyarrow as pa
import pytest

from ripcurrent.errors import DatasetChangedError, RipcurrentError
from ripcurrent.scan._shards import ShardFolder, ShardReader, run_shards, score_shards, shards_in

WAIT = 60
"""Seconds after which a test that would hang fails."""


class Doubling:
    """Doubles numbers in two steps: prepares each as text; notes what was begun; refuses a number if asked to."""

    def __init__(self, refuses: int | None = None) -> None:
        self.prepared: list[int] = []
        self.computed: list[int] = []
        self._refuses = refuses

    def prepare(self, items: Iterable[int]) -> Iterator[str]:
        assert threading.current_thread() is not threading.main_thread()
        for item in items:
            if item == self._refuses:
                raise RipcurrentError(f"Item {item} is not wanted.", "Leave it out.")
            self.prepared.append(item)
            yield str(item)

    def compute(self, prepared: Sequence[str]) -> pa.Table:
        assert threading.current_thread() is threading.main_thread()
        self.computed.extend(map(int, prepared))
        return pa.table({"double": [2 * int(item) for item in prepared]})


class Numbers:
    """A stream of numbers that notes where it was started."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.started_at: list[int] = []

    def __call__(self, start: int) -> Iterator[int]:
        self.started_at.append(start)
        return iter(range(start, self.count))


def run(
    folder: ShardFolder,
    stage: Doubling,
    rows: int = 10,
    numbers: Callable[[int], Iterable[int]] | None = None,
    shard_rows: int = 3,
) -> list[int]:
    """Which shards were computed now."""
    score = partial(score_shards, read=ShardReader(numbers or Numbers(rows), rows), stage=stage)
    return [shard.number for shard in run_shards(shards_in(None, rows, shard_rows), folder, score)]


def doubles(folder: ShardFolder, shards: int) -> list[int]:
    return [value for table in folder.tables(shards) for value in table["double"].to_pylist()]


def done(folder: ShardFolder) -> list[int]:
    return [number for number in range(99) if folder.done(number)]


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4, 6, 7, 10])
def test_all_rows_in_order_and_a_second_call_reads_and_computes_nothing(tmp_path, rows):
    folder, stage = ShardFolder(tmp_path / "signals"), Doubling()
    shards = -(-rows // 3)
    assert run(folder, stage, rows) == done(folder) == list(range(shards))
    assert stage.prepared == stage.computed == list(range(rows))
    assert doubles(folder, shards) == [2 * number for number in range(rows)]
    again, numbers = Doubling(), Numbers(rows)
    assert run(folder, again, rows, numbers) == []
    assert again.prepared == numbers.started_at == []


@pytest.mark.parametrize("lost", ["shard-00001.parquet", "shard-00001.done", "marker damaged", "table damaged"])
def test_a_shard_that_lost_its_table_or_marker_is_computed_again_and_no_other(tmp_path, lost):
    folder, stage = ShardFolder(tmp_path), Doubling()
    run(folder, Doubling())
    said = r"shard-00001.* missing or unfinished\.\nRun the same scan again"
    if lost == "marker damaged":
        (tmp_path / "shard-00001.done").write_text("{")
    elif lost == "table damaged":
        folder.path(1).write_bytes(folder.path(1).read_bytes()[:-20])
        said = r"shard-00001\.parquet is damaged.*\nDelete this file"
    else:
        (tmp_path / lost).unlink()
    with pytest.raises(RipcurrentError, match=said):
        doubles(folder, 4)
    if lost == "table damaged":
        folder.path(1).unlink()
    assert run(folder, stage) == [1]
    assert stage.prepared == [3, 4, 5]
    assert doubles(folder, 4) == [2 * number for number in range(10)]


@pytest.mark.parametrize("others", [[3], [1, 3]], ids=["shrunk", "another shard is left to compute, too"])
def test_a_last_shard_of_a_dataset_that_had_grown_is_computed_again(tmp_path, others):
    folder = ShardFolder(tmp_path)
    run(folder, Doubling(), 11)
    for number in others[:-1]:
        folder.path(number).unlink()
    assert run(folder, Doubling()) == others
    assert doubles(folder, 4) == [2 * number for number in range(10)]


@pytest.mark.parametrize(("given", "kept"), [(11, [0, 1, 2]), (8, [0, 1])])
def test_a_shard_of_another_size_is_never_written(tmp_path, given, kept):
    folder = ShardFolder(tmp_path)
    with pytest.raises(DatasetChangedError, match="no longer has the 10 rows"):
        run(folder, Doubling(), numbers=Numbers(given))
    assert done(folder) == kept
    folder.undo()
    assert not list(tmp_path.iterdir())


def test_one_shard_is_prepared_ahead_and_no_more(tmp_path):
    """While a shard is computed the next one gets prepared, and nothing behind it is even read."""
    ready: dict[int, threading.Event] = {number: threading.Event() for number in range(5)}
    read: list[int] = []

    def numbers(start: int) -> Iterator[int]:
        for number in range(start, 12):
            read.append(number)
            yield number

    class Watched(Doubling):
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
    run(ShardFolder(tmp_path), stage, 12, numbers)
    assert stage.computed == list(range(12))


@pytest.mark.parametrize("place", ["reading", "preparing"])
@pytest.mark.parametrize(("refused", "kept"), [(0, 0), (4, 1), (11, 3)])
def test_an_error_in_a_row_leaves_the_shards_before_it_and_the_next_call_does_the_rest(tmp_path, refused, kept, place):
    def broken(start: int) -> Iterator[int]:
        yield from range(start, refused)
        raise RipcurrentError(f"Item {refused} is not wanted.", "Leave it out.")

    folder, stage, reading = ShardFolder(tmp_path), Doubling(), place == "reading"
    with pytest.raises(RipcurrentError, match=rf"^Item {refused} is not wanted\.\nLeave it out"):
        run(folder, Doubling(refuses=None if reading else refused), 12, broken if reading else None)
    assert done(folder) == list(range(kept))
    run(folder, stage, 12)
    assert stage.prepared == list(range(3 * kept, 12))
    assert doubles(folder, 4) == [2 * number for number in range(12)]


@pytest.mark.parametrize("slow", ["reading", "preparing"])
def test_a_stop_waits_for_no_more_than_the_item_at_hand(tmp_path, slow):
    """The shard ahead would take hours, and no thread is left."""
    ahead = threading.Event()

    def slowly(numbers: Iterable[int]) -> Iterator[int]:
        for number in numbers:
            if number >= 2000:
                ahead.set()
                threading.Event().wait(0.1)
            yield number

    class Stopped(Doubling):
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
        run(folder, stage, 10**6, numbers, 1000)
    assert done(folder) == [0]
    assert threading.active_count() == threads
    assert len(stage.prepared) < 2900
