"""Batches on a device: half the size from where one does not fit into its memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from ripcurrent.errors import RipcurrentError
from ripcurrent.signals._out_of_memory import is_out_of_memory

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_batches(
    items: Sequence[Item],
    size: int,
    compute: Callable[[Sequence[Item]], Result],
    does_not_fit: Callable[[Item, str], RipcurrentError],
) -> Iterator[tuple[Sequence[Item], Result]]:
    """Batches in order, each with what was computed of it.

    An item's result must not depend on its batch but for rounding. A size that ran out of memory is not tried again.

    Args:
        items: What to compute.
        size: Items at once.
        compute: Computes a batch; must not change anything that another try needs.
        does_not_fit: The error for an item that does not fit alone, given what was said.

    Raises:
        RipcurrentError: An item does not fit alone.
    """
    at = 0
    while at < len(items):
        batch = items[at : at + size]
        ran_out: str | None = None
        try:
            result = compute(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            ran_out = str(error).strip().split("\n")[0][:120] or "out of memory"
        if ran_out is None:
            yield batch, result
            at += len(batch)
            continue
        # outside the handler, whose traceback holds the failed pass's tensors
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(batch) == 1:
            raise does_not_fit(batch[0], ran_out)
        size = (len(batch) + 1) // 2
