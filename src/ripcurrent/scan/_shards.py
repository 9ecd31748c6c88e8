"""Shards: a scan's rows in numbered Parquet files, each whole and marked, so that a second call resumes.

While one shard is computed, the next is read and prepared in a thread.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice, takewhile, zip_longest
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ripcurrent.errors import DatasetChangedError, RipcurrentError
from ripcurrent.runs import write_json, written_whole

if TYPE_CHECKING:
    from ripcurrent.scan._passes import SignalStage


@dataclass(frozen=True, slots=True)
class Shard:
    """A consecutive range of a dataset's rows."""

    number: int
    start: int
    rows: int


Tables = Generator[tuple[Shard, pa.Table]]


class ShardFolder:
    """A folder of ``shard-00000.parquet`` files with completion markers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: list[int] = []

    def path(self, number: int) -> Path:
        """Where a shard's table is."""
        return self._folder / f"shard-{number:05d}.parquet"

    def _marker(self, number: int) -> Path:
        return self.path(number).with_suffix(".done")

    def done(self, number: int) -> Shard | None:
        """The shard as it was written to its end; None where it was not, or its marker is damaged."""
        try:
            found = Shard(**json.loads(self._marker(number).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return found if self.path(number).exists() else None

    def write(self, shard: Shard, table: pa.Table) -> None:
        """Write a shard whole, then its marker."""
        with written_whole(self.path(shard.number)) as part:
            pq.write_table(table, part, compression="zstd")
        write_json(self._marker(shard.number), asdict(shard))
        self._written.append(shard.number)

    def tables(self, shards: int) -> Iterator[pa.Table]:
        """The first ``shards`` shards' tables in order, one in memory at a time."""
        for number in range(shards):
            if self.done(number) is None:
                raise RipcurrentError(
                    f"{self.path(number)} is missing or unfinished.", "Run the same scan again to complete it."
                )
            try:
                yield pq.read_table(self.path(number))
            except (OSError, pa.ArrowInvalid) as error:
                raise RipcurrentError(
                    f"{self.path(number)} is damaged: {str(error).splitlines()[0]}.",
                    "Delete this file and run the same scan again: only its rows are computed again.",
                ) from error

    def undo(self) -> None:
        """Remove the shards that were written through this object."""
        for number in self._written:
            self._marker(number).unlink(missing_ok=True)
            self.path(number).unlink(missing_ok=True)
        self._written.clear()


class ShardReader:
    """Reads shards' items from one stream, which is opened again only to go back."""

    def __init__(self, open_items: Callable[[int], Iterable[Any]], rows: int) -> None:
        """``open_items(start)`` streams the dataset's items from one on; there are ``rows`` in all."""
        self._open_items, self._rows = open_items, rows
        self._items: Iterator[Any] = iter(())
        self._at: int | None = None

    def __call__(self, shard: Shard, stopped: Event) -> list[Any]:
        """The shard's items, or fewer once ``stopped`` is set; `DatasetChangedError` where there are more or fewer."""
        if self._at is None or self._at > shard.start:
            self._items, self._at = iter(self._open_items(shard.start)), shard.start
        next(islice(self._items, shard.start - self._at, shard.start - self._at), None)
        self._at = shard.start + shard.rows
        last = self._at == self._rows
        items = list(takewhile(lambda _: not stopped.is_set(), islice(self._items, shard.rows + last)))
        if len(items) != shard.rows and not stopped.is_set():
            raise DatasetChangedError(
                f"On {socket.gethostname()} the dataset no longer has the {self._rows} rows that were counted."
            )
        return items


def score_shards(shards: Sequence[Shard], read: ShardReader, stage: SignalStage) -> Tables:
    """The shards' tables in order; what reading or preparing raises is raised after the shards before it."""
    stopped = Event()

    def prepared(shard: Shard) -> list[Any]:
        return list(stage.prepare(takewhile(lambda _: not stopped.is_set(), read(shard, stopped))))

    with ThreadPoolExecutor(1, "next-shard") as ahead:
        try:
            coming = ahead.submit(prepared, shards[0])
            for shard, following in zip_longest(shards, shards[1:]):
                waiting = coming.result()
                if following is not None:
                    coming = ahead.submit(prepared, following)
                yield shard, stage.compute(waiting)
        finally:
            stopped.set()


def run_shards(
    shards: Sequence[Shard],
    folder: ShardFolder,
    score: Callable[[Sequence[Shard]], Tables],
    on_found: Callable[[int], None] = lambda rows: None,
) -> list[Shard]:
    """Write the table of every shard that is not done yet, as ``score`` gives them, in any order; these shards."""
    # the last one of a dataset that has grown or shrunk since is not the same
    waiting = [shard for shard in shards if folder.done(shard.number) != shard]
    if len(waiting) < len(shards):
        on_found(sum(shard.rows for shard in shards) - sum(shard.rows for shard in waiting))
    if waiting:
        with closing(score(waiting)) as tables:
            for shard, table in tables:
                folder.write(shard, table)
    return waiting


@dataclass(frozen=True, slots=True)
class Part:
    """One process's share of a dataset: part ``index``, from 0, of ``of``."""

    index: int
    of: int

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"


def shards_in(part: Part | None, rows: int, shard_rows: int) -> list[Shard]:
    """A part's shards, which follow one another; all without a part. Parts differ by one shard at most."""
    every = [Shard(number, at, min(shard_rows, rows - at)) for number, at in enumerate(range(0, rows, shard_rows))]
    if part is None:
        return every
    return every[len(every) * part.index // part.of : len(every) * (part.index + 1) // part.of]


def parse_part(text: str) -> Part:
    """The part that ``i/n`` names; what names none is an error."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None:
        raise RipcurrentError(
            f"--shard {text} is not of the form i/n.", "Write 0/4, 1/4, 2/4 and 3/4 for four processes."
        )
    index, of = int(match[1]), int(match[2])
    if index >= of:
        raise RipcurrentError(
            f"There is no part {index} of {of}: parts are counted from 0.",
            f"Write 0/{of} to {of - 1}/{of}." if of else "Write 0/1, or leave --shard out.",
        )
    return Part(index, of)
