"""What the system's allocator keeps of freed tensors, and when it is asked for it."""

from __future__ import annotations

import contextlib
import ctypes

from ripcurrent.models._memory_use import resident_bytes

LEAST_GROWTH = 64 * 2**20
"""Bytes that what is kept may grow by at least."""


def give_back_freed_memory() -> None:
    """Return to the system what glibc keeps of freed tensors; elsewhere nothing.

    Batches of many shapes leave holes that the next shape does not fit into, and the process would hold half as much
    again as any one batch needs.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


class FreedMemory:
    """Gives freed memory back once the process holds as much again as its first batch added.

    Not after every batch or every few: what the next one touches must then be mapped anew, which took up to a tenth of
    a scan's time (``docs/benchmarks.md``). Where the system does not tell what a process holds, nothing is given back.
    """

    def __init__(self) -> None:
        self._rest: int | None = None
        self._growth = 0
        self._allowed: int | None = None

    def before_first(self) -> None:
        """To be called before the first batch; later calls do nothing."""
        if self._rest is None:
            give_back_freed_memory()
            self._rest = resident_bytes()

    def after_batch(self) -> None:
        """To be called after each batch."""
        assert self._rest is not None
        held = resident_bytes()
        if self._allowed is None:
            self._growth = max(held - self._rest, LEAST_GROWTH)
            self._allowed = held + self._growth
        elif held > self._allowed:
            give_back_freed_memory()
            # what is still held is in use, or between what is: no reason to try again after every batch
            self._allowed = max(self._allowed, resident_bytes() + self._growth)
