"""Batches on a device: half the size from where one does not fit into its memory."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from ripcurrent.errors import RipcurrentError
from ripcurrent.gradients import RanOut, attempt

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_batches(
    items: Sequence[Item],
    size: int,
    compute: Callable[[Sequence[Item]], Result],
    does_not_fit: Callable[[Item, str], RipcurrentError],
) -> Iterator[tuple[Sequence[Item], Result]]:
    """Batches in order, each with what was computed of it. A size that ran out of memory is not tried again.

    ``does_not_fit`` makes the error for an item that does not fit alone from the library's message.
    """
    at = 0
    while at < len(items):
        batch = items[at : at + size]
        result = attempt(partial(compute, batch))
        if not isinstance(result, RanOut):
            yield batch, result
            at += len(batch)
        elif len(batch) == 1:
            raise does_not_fit(batch[0], result.said)
        else:
            size = (len(batch) + 1) // 2
