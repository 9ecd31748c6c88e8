"""Runs a stage over the shards of a dataset that are not yet done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice, takewhile
from threading import Event
from typing import Any, Protocol, TypeVar, runtime_checkable

import pyarrow as pa

from ripcurrent.errors import DatasetChangedError
from ripcurrent.scan._part import count_shards, shard_of
from ripcurrent.scan._shards import Shard, ShardFolder

Item = TypeVar("Item")
Consumed = TypeVar("Consumed", contravariant=True)


class Stage(Protocol[Consumed]):
    """Turns a shard's items into its table; depends on nothing but the items and its own options."""

    def __call__(self, items: Sequence[Consumed]) -> pa.Table:
        """The shard's table, one row per item, in order."""


@runtime_checkable
class PreparingStage(Protocol[Consumed]):
    """A stage in two steps: ``stage(items)`` is ``stage.compute(list(stage.prepare(items)))``."""

    def prepare(self, items: Iterable[Consumed]) -> Iterable[Any]:
        """Each item as the second step wants it, in order. Called in another thread, while a shard is computed."""

    def compute(self, prepared: Sequence[Any]) -> pa.Table:
        """The shard's table, one row per item, in order."""


class LocalExecutor:
    """Runs shards one after another in this process.

    While one is computed, the next is read and prepared in a thread and the one before is written in another: one shard
    ahead, so that memory stays flat. Neither thread outlives `run`.
    """

    def run(
        self,
        items: Callable[[int], Iterable[Item]],
        stage: Stage[Item],
        folder: ShardFolder,
        *,
        shard_rows: int,
        rows: int | None = None,
        within: range | None = None,
        on_shard: Callable[[Shard, bool], None] = lambda shard, fresh: None,
    ) -> int:
        """Run ``stage`` on every shard that is not done; returns the number after the last shard's.

        ``items(start)`` streams the dataset from a row on, which has so many ``rows`` where that is known: a shard of
        any other size is an error then, before it is computed. ``within`` limits the shards to consecutive numbers.
        ``on_shard`` is told of each shard, once it is written, and whether it was computed now. What reading, preparing
        or writing raises is raised here: shards before the one that failed are written, and a shard whose writing fails
        costs the one that is being computed.
        """
        number, stop = (0, None) if within is None else (within.start, within.stop)
        if rows is not None and stop is None:
            stop = count_shards(rows, shard_rows)
        while number != stop and (done := folder.done(number)) == shard_of(number, shard_rows, rows):
            assert done is not None
            on_shard(done, False)
            number += 1
        if number == stop:
            return number
        stopped = Event()
        prepare: Callable[[Iterable[Item]], Iterable[Any]] = iter
        compute: Callable[[Sequence[Any]], pa.Table] = stage
        if isinstance(stage, PreparingStage):
            prepare, compute = stage.prepare, stage.compute

        def prepared(first: int) -> Iterator[tuple[Shard, list[Any] | None]]:
            """Each shard with its prepared items, or with None where it is done."""
            chunks = _chunks(items(first * shard_rows), shard_rows, stopped)
            for place, chunk in enumerate(islice(chunks, None if stop is None else stop - first), first):
                shard = Shard(place, place * shard_rows, len(chunk))
                if rows is not None and shard != shard_of(place, shard_rows, rows):
                    raise DatasetChangedError(f"The dataset no longer has the {rows} rows that were counted.")
                # the last one of a dataset that has grown or shrunk since is not the same
                yield shard, None if folder.done(place) == shard else list(prepare(_until(stopped, chunk)))

        def tell(shard: Shard, written: Future[None] | None) -> None:
            if written is not None:
                written.result()
            on_shard(shard, written is not None)

        with ThreadPoolExecutor(1, "next-shard") as ahead, ThreadPoolExecutor(1, "last-shard") as behind:
            try:
                shards = prepared(number)
                coming = ahead.submit(next, shards, None)
                before: tuple[Shard, Future[None] | None] | None = None
                while (found := coming.result()) is not None:
                    coming = ahead.submit(next, shards, None)
                    shard, waiting = found
                    table = None if waiting is None else compute(waiting)
                    if before is not None:
                        tell(*before)
                    before = shard, None if table is None else behind.submit(folder.write, shard, table)
                    number += 1
                if before is not None:
                    tell(*before)
            finally:
                stopped.set()
        return number


def _chunks(items: Iterable[Item], size: int, stopped: Event) -> Iterator[list[Item]]:
    stream = iter(_until(stopped, items))
    while chunk := list(islice(stream, size)):
        yield chunk


def _until(stopped: Event, items: Iterable[Item]) -> Iterator[Item]:
    return takewhile(lambda _: not stopped.is_set(), items)
