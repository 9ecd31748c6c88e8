"""A stage that workers of another process can be given: it needs no model."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.scan._ray_worker import StoredArray

ROWS = 23


def open_numbers(start: int) -> Iterator[int]:
    """The dataset: 0 to 22."""
    return iter(range(start, ROWS))


class SkippableNumbers(Iterator[int]):
    """The same dataset as a stream that notes which process made which of its items."""

    def __init__(self, start: int, notes: Path) -> None:
        self._at = start
        self._notes = notes

    def __next__(self) -> int:
        if self._at >= ROWS:
            raise StopIteration
        self._at += 1
        with (self._notes / str(os.getpid())).open("a", encoding="utf-8") as file:
            file.write(f"{self._at - 1}\n")
        return self._at - 1

    def skip(self, count: int) -> None:
        """Step over so many."""
        self._at += count


def open_too_few(start: int) -> Iterator[int]:
    """The same dataset on a machine whose file is shorter."""
    return iter(range(start, 10))


@dataclass(frozen=True)
class MakeStage:
    """Makes a stage that multiplies with a stored number and notes which process did which row."""

    factor: StoredArray
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

    def __call__(self) -> Callable[[Sequence[int]], pa.Table]:
        """The stage."""
        if self.die_making:
            os._exit(1)
        factor = int(self.factor.get()[0])

        def stage(items: Sequence[int]) -> pa.Table:
            with (self.notes / str(os.getpid())).open("a", encoding="utf-8") as file:
                file.writelines(f"{item}\n" for item in items)
            if self.die_on in items:
                os._exit(1)
            if self.refuse in items:
                raise RipcurrentError(f"Item {self.refuse} is not wanted.", "Leave it out.", code=ExitCode.NOT_MEASURED)
            time.sleep(self.wait)
            return pa.table({"value": [factor * item for item in items]})

        return stage


@dataclass(frozen=True)
class MakePreparingStage:
    """Makes a stage in two steps, each of which notes when it began and ended."""

    notes: Path
    """Folder of one file per process: ``step item seconds`` lines."""

    def __call__(self) -> Any:
        """The stage."""
        return _Preparing(self.notes)


class _Preparing:
    def __init__(self, notes: Path) -> None:
        self._notes = notes

    def __call__(self, items: Sequence[int]) -> pa.Table:
        return self.compute(list(self.prepare(items)))

    def prepare(self, items: Iterable[int]) -> Iterator[int]:
        for item in items:
            self._note("prepare", item)
            yield 7 * item

    def compute(self, prepared: Sequence[int]) -> pa.Table:
        time.sleep(0.5)
        self._note("computed", prepared[0] // 7)
        return pa.table({"value": list(prepared)})

    def _note(self, step: str, item: int) -> None:
        with (self._notes / str(os.getpid())).open("a", encoding="utf-8") as file:
            file.write(f"{step} {item} {time.time()}\n")
