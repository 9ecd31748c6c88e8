"""A stage that workers of another process can be given: it needs no model."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from ripcurrent.errors import ExitCode, RipcurrentError

ROWS = 23


def open_numbers(start: int) -> Iterator[int]:
    """The dataset: 0 to 22."""
    return iter(range(start, ROWS))


def open_too_few(start: int) -> Iterator[int]:
    """The same dataset on a machine whose file is shorter."""
    return iter(range(start, 10))


@dataclass(frozen=True)
class MakeStage:
    """Makes a stage that multiplies with a number and notes which process did which row."""

    notes: Path
    """Folder of one file per process: the rows that it began, in order."""
    wait: float = 0.0
    """Seconds that a shard takes."""
    die_making: bool = False
    """Every process dies while it makes its stage."""
    die_on: int | None = None
    """Every process that begins this item dies."""
    refuse: int | None = None
    """An item over which the stage raises an error."""

    def __call__(self) -> NotingStage:
        if self.die_making:
            os._exit(1)
        return NotingStage(self)


@dataclass(frozen=True)
class NotingStage:
    """The stage."""

    how: MakeStage

    def prepare(self, items: Iterable[int]) -> Iterator[int]:
        for item in items:
            yield 7 * item

    def compute(self, prepared: Sequence[int]) -> pa.Table:
        items = [number // 7 for number in prepared]
        with (self.how.notes / str(os.getpid())).open("a", encoding="utf-8") as file:
            file.writelines(f"{item}\n" for item in items)
        if self.how.die_on in items:
            os._exit(1)
        if self.how.refuse in items:
            raise RipcurrentError(f"Item {self.how.refuse} is not wanted.", "Leave it out.", code=ExitCode.NOT_MEASURED)
        time.sleep(self.how.wait)
        return pa.table({"value": prepared})

    def report(self) -> dict[str, int]:
        return {"process": os.getpid()}
