"""Shards: whole or not there, marked when done, computed once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ripcurrent.errors import DatasetChangedError, RipcurrentError
from ripcurrent.scan._executor import LocalExecutor
from ripcurrent.scan._shards import Shard, ShardFolder


class Doubling:
    """Doubles numbers; keeps what it was given, and fails at a number if told to."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.seen: list[int] = []
        self._fails_at = fails_at

    def __call__(self, items: Sequence[int]) -> pa.Table:
        if self._fails_at in items:
            raise KeyboardInterrupt
        self.seen.extend(items)
        return pa.table({"double": [2 * item for item in items]})


class Numbers:
    """A stream of numbers that notes where it was started."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.started_at: list[int] = []

    def __call__(self, start: int) -> Iterator[int]:
        self.started_at.append(start)
        return iter(range(start, self.count))


def run(folder: ShardFolder, stage: Doubling, count: int = 10, rows: int = 3) -> tuple[int, list[tuple[Shard, bool]]]:
    told: list[tuple[Shard, bool]] = []
    number = LocalExecutor().run(
        Numbers(count), stage, folder, shard_rows=rows, on_shard=lambda shard, fresh: told.append((shard, fresh))
    )
    return number, told


def doubles(folder: ShardFolder, shards: int) -> list[int]:
    return [value for table in folder.tables(shards) for value in table["double"].to_pylist()]


def test_all_rows_in_order_over_several_shards(tmp_path: Path) -> None:
    folder = ShardFolder(tmp_path / "signals")
    shards, told = run(folder, Doubling())
    assert shards == 4
    assert told[0] == (Shard(0, 0, 3), True)
    assert told[-1] == (Shard(3, 9, 1), True)
    assert doubles(folder, 4) == [2 * number for number in range(10)]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 7])
def test_a_second_call_computes_nothing(tmp_path: Path, count: int) -> None:
    folder = ShardFolder(tmp_path)
    first, _ = run(folder, Doubling(), count)
    stage = Doubling()
    again, told = run(folder, stage, count)
    assert again == first
    assert stage.seen == []
    assert [fresh for _, fresh in told] == [False] * first
    assert sum(shard.rows for shard, _ in told) == count


def test_a_stop_in_the_middle_keeps_what_was_done_and_the_next_call_does_the_rest(tmp_path: Path) -> None:
    folder = ShardFolder(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(folder, Doubling(fails_at=7))
    assert [number for number in range(99) if folder.is_done(number)] == [0, 1]
    numbers, stage = Numbers(10), Doubling()
    assert LocalExecutor().run(numbers, stage, folder, shard_rows=3) == 4
    assert numbers.started_at == [6]
    assert stage.seen == [6, 7, 8, 9]
    assert doubles(folder, 4) == [2 * number for number in range(10)]


def test_a_torn_file_is_not_taken_for_a_shard(tmp_path: Path) -> None:
    folder = ShardFolder(tmp_path)
    run(folder, Doubling(), count=6)
    (tmp_path / "shard-00002.parquet.part").write_bytes(b"PAR1 torn")
    (tmp_path / "shard-00003.parquet").write_bytes(b"PAR1 whole or not, it was never marked")
    stage = Doubling()
    assert run(folder, stage, count=12)[0] == 4
    assert stage.seen == [6, 7, 8, 9, 10, 11]
    assert doubles(folder, 4) == [2 * number for number in range(12)]
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("lost", ["shard-00001.parquet", "shard-00001.done"])
def test_a_shard_that_lost_its_table_or_marker_is_computed_again_and_no_other(tmp_path: Path, lost: str) -> None:
    folder = ShardFolder(tmp_path)
    run(folder, Doubling())
    (tmp_path / lost).unlink()
    with pytest.raises(RipcurrentError, match=r"shard-00001.* missing or unfinished\.\nRun the same scan again"):
        doubles(folder, 4)
    stage = Doubling()
    assert run(folder, stage)[0] == 4
    assert stage.seen == [3, 4, 5]
    assert doubles(folder, 4) == [2 * number for number in range(10)]


def test_a_table_damaged_from_outside_is_named_and_deleting_it_mends_the_run(tmp_path: Path) -> None:
    folder = ShardFolder(tmp_path)
    run(folder, Doubling())
    whole = folder.path(2).read_bytes()
    folder.path(2).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RipcurrentError, match=r"shard-00002\.parquet is damaged.*\nDelete this file"):
        doubles(folder, 4)
    folder.path(2).unlink()
    stage = Doubling()
    run(folder, stage)
    assert stage.seen == [6, 7, 8]


def test_the_marker_is_written_after_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ShardFolder(tmp_path)

    def broken(table: pa.Table, part: Path, **_: object) -> None:
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", broken)
    with pytest.raises(RipcurrentError, match="cannot be written: No space"):
        run(folder, Doubling())
    assert list(tmp_path.iterdir()) == []
    assert folder.done(0) is None


@pytest.mark.parametrize("others", [[3], [8, 3]], ids=["shrunk", "other shards are left to compute, too"])
def test_a_last_shard_of_a_dataset_that_had_grown_is_computed_again(tmp_path: Path, others: list[int]) -> None:
    folder = ShardFolder(tmp_path)
    run(folder, Doubling(), count=11)
    if len(others) > 1:
        folder.path(1).unlink()
    stage = Doubling()
    shards, told = run(folder, stage, count=10)
    assert stage.seen[-1:] == [9]
    assert sum(shard.rows for shard, _ in told) == 10
    assert doubles(folder, shards) == [2 * number for number in range(10)]


@pytest.mark.parametrize("count", [9, 10])
def test_where_the_number_of_rows_is_known_a_finished_run_reads_nothing(tmp_path: Path, count: int) -> None:
    folder, numbers = ShardFolder(tmp_path), Numbers(count)
    for _ in range(2):
        assert LocalExecutor().run(numbers, Doubling(), folder, shard_rows=3, rows=count) == -(-count // 3)
    assert numbers.started_at == [0]


@pytest.mark.parametrize(("given", "done"), [(11, [0, 1, 2]), (8, [0, 1])])
def test_a_shard_of_another_size_is_never_written(tmp_path: Path, given: int, done: list[int]) -> None:
    folder = ShardFolder(tmp_path)
    with pytest.raises(DatasetChangedError, match="no longer has the 10 rows"):
        LocalExecutor().run(Numbers(given), Doubling(), folder, shard_rows=3, rows=10)
    assert [number for number in range(9) if folder.is_done(number)] == done
    # among them one that nobody was told of
    folder.undo()
    assert not list(tmp_path.iterdir())


def test_a_damaged_marker_is_none(tmp_path: Path) -> None:
    folder = ShardFolder(tmp_path)
    run(folder, Doubling())
    (tmp_path / "shard-00001.done").write_text("{")
    stage = Doubling()
    run(folder, stage)
    assert stage.seen == [3, 4, 5]


def test_a_marker_tells_the_shards_range(tmp_path: Path) -> None:
    run(ShardFolder(tmp_path), Doubling())
    assert json.loads((tmp_path / "shard-00003.done").read_text()) == {"number": 3, "start": 9, "rows": 1}


def test_an_empty_stream_gives_no_shard(tmp_path: Path) -> None:
    assert run(ShardFolder(tmp_path / "none"), Doubling(), count=0) == (0, [])
