"""Runs a stage over the shards of a dataset that are not yet done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Protocol, TypeVar

import pyarrow as pa

from ripcurrent.engine._shards import Shard, ShardFolder

Item = TypeVar("Item")
Consumed = TypeVar("Consumed", contravariant=True)


class Stage(Protocol[Consumed]):
    """Turns a shard's items into its table; depends on nothing but the items and its own options."""

    def __call__(self, items: Sequence[Consumed]) -> pa.Table:
        """The shard's table, one row per item, in order."""


class LocalExecutor:
    """Runs shards one after another in this process."""

    def run(
        self,
        items: Callable[[int], Iterable[Item]],
        stage: Stage[Item],
        folder: ShardFolder,
        *,
        shard_rows: int,
        within: range | None = None,
        on_shard: Callable[[Shard, bool], None] = lambda shard, fresh: None,
    ) -> int:
        """Run ``stage`` on every shard that is not done; returns the number after the last shard's.

        ``items(start)`` streams the dataset from a row on. ``within`` limits the shards to some consecutive numbers.
        ``on_shard`` is told of each shard and whether it was computed now.
        """
        done = {shard.number: shard for shard in folder.completed()}
        number, stop = (0, None) if within is None else (within.start, within.stop)
        while number != stop and number in done and done[number].rows == shard_rows:
            on_shard(done[number], False)
            number += 1
        if number == stop:
            return number
        ahead = None if stop is None else stop - number
        for chunk in islice(_chunks(items(number * shard_rows), shard_rows), ahead):
            shard = Shard(number, number * shard_rows, len(chunk))
            fresh = not folder.is_done(number)
            if fresh:
                folder.write(shard, stage(chunk))
            on_shard(shard, fresh)
            number += 1
        return number


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    stream = iter(items)
    while chunk := list(islice(stream, size)):
        yield chunk
