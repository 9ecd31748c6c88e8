"""Running out of memory: a batch is measured in halves, and no row is lost."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from ripcurrent.data import EncodedRow
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.models import first_line, is_out_of_memory

Result = TypeVar("Result")


@contextmanager
def in_memory(what: str) -> Iterator[None]:
    """Do something that cannot be done in halves.

    Raises:
        RipcurrentError: memory runs out; names ``what``.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise does_not_fit(what, first_line(error)) from None


def does_not_fit(what: str, said: str) -> RipcurrentError:
    """The error of something that cannot be done in halves."""
    return RipcurrentError(
        f"{what} do not fit into memory ({said}).",
        "Add --memory, with which the same run goes on. Others make another run: --dtype bfloat16, --scope linear or "
        "lora, --signals representation, --device cpu; docs/memory.md says what takes how much.",
        code=ExitCode.NOT_MEASURED,
    )


@dataclass(frozen=True, slots=True)
class RanOut:
    """Stands for the result of what ran out of memory; ``said`` is the library's message."""

    said: str


def attempt(compute: Callable[[], Result]) -> Result | RanOut:
    """What is computed, or that memory ran out on the way; its memory is then given back."""
    try:
        return compute()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = first_line(error)
    _give_back_memory()
    return RanOut(said)


def _give_back_memory() -> None:
    """To be called outside the handler, whose traceback holds the failed pass's tensors."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Halving:
    """Measures batches, in halves where one runs out of memory; remembers the size that did.

    A row's result does not depend on its batch but for rounding, so halves give what the whole would have. Batches as
    large as one that ran out are halved beforehand for as long as this object lives.
    """

    def __init__(self) -> None:
        self.too_large: int | None = None
        """Padded tokens of the smallest batch that ran out, None while none has."""
        self.batches_halved = 0
        """Batches that ran out of memory."""

    def __call__(
        self,
        rows: Sequence[EncodedRow],
        places: Sequence[int],
        measure: Callable[[Sequence[EncodedRow]], Result],
        forget: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[list[int], Result]]:
        """Yield the places that were measured together, with what was measured, until every place had its turn.

        ``forget`` gives back what is kept for later batches; it is called when one runs out.

        Raises:
            RipcurrentError: a single row does not fit.
        """
        waiting = [list(places)]
        while waiting:
            group = waiting.pop(0)
            padded = len(group) * max(len(rows[place].tokens) for place in group)
            if len(group) > 1 and self.too_large is not None and padded >= self.too_large:
                waiting[:0] = _halves(group)
                continue
            try:
                result = measure([rows[place] for place in group])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                said = first_line(error)
            else:
                yield group, result
                continue
            _give_back_memory()
            forget()
            if len(group) == 1:
                raise _row_does_not_fit(rows[group[0]], said)
            self.too_large = padded if self.too_large is None else min(self.too_large, padded)
            self.batches_halved += 1
            waiting[:0] = _halves(group)


def _halves(places: list[int]) -> list[list[int]]:
    middle = (len(places) + 1) // 2
    return [places[:middle], places[middle:]]


def _row_does_not_fit(row: EncodedRow, said: str) -> RipcurrentError:
    return RipcurrentError(
        f"Row {row.index}, {len(row.tokens)} tokens on its own, does not fit into memory ({said}).",
        "Add --memory, which keeps directions out of memory and goes on with the same run. Others make another run: a "
        f"--max-tokens below {len(row.tokens)} (with --windows documents are cut, not shortened), --scope linear or "
        "lora; docs/memory.md says what takes how much.",
        code=ExitCode.NOT_MEASURED,
    )
