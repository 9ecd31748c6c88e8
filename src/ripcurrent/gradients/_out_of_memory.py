"""Running out of memory: a batch is measured in halves, and no row is lost."""

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from ripcurrent.data import EncodedRow
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.models import first_line, is_out_of_memory

Result = TypeVar("Result")


@contextmanager
def _running_out() -> Iterator[list[str]]:
    """Puts the library's message into the list where memory runs out inside; other errors go on."""
    said: list[str] = []
    try:
        yield said
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said.append(first_line(error))


@contextmanager
def in_memory(what: str) -> Iterator[None]:
    """Do something that cannot be done in halves; a `RipcurrentError` that names ``what`` where memory runs out."""
    with _running_out() as said:
        yield
    if said:
        raise RipcurrentError(
            f"{what} do not fit into memory ({said[0]}).",
            "Set memory (--memory), with which the same run goes on. Others make another run: dtype bfloat16, scope "
            "linear or lora, signals representation, device cpu; docs/scan.md says what takes how much.",
            code=ExitCode.NOT_MEASURED,
        )


@dataclass(frozen=True, slots=True)
class RanOut:
    """Stands for the result of what ran out of memory; ``said`` is the library's message."""

    said: str


def attempt(compute: Callable[[], Result]) -> Result | RanOut:
    """What is computed, or that memory ran out on the way; its memory is then given back."""
    with _running_out() as said:
        return compute()
    _give_back_memory()
    return RanOut(said[0])


def _give_back_memory() -> None:
    """To be called outside the handler, whose traceback holds the failed pass's tensors."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Halving:
    """Parts batches that run out of memory in halves, and remembers the size that did.

    for places in halving.groups(rows, plan):
        with halving.attempt():
            ...  # measure the rows at these places
    """

    def __init__(self) -> None:
        self.too_large: int | None = None
        """Padded tokens of the smallest batch that ran out, None while none has."""
        self.batches_halved = 0
        """Batches that ran out of memory."""
        self._said: str | None = None

    def groups(self, rows: Sequence[EncodedRow], plan: Iterable[Sequence[int]]) -> Iterator[list[int]]:
        """The places of each batch of a plan, or of its halves; a `RipcurrentError` where a single row does not fit."""
        waiting = [list(places) for places in plan]
        while waiting:
            group = waiting.pop(0)
            padded = len(group) * max(len(rows[place].tokens) for place in group)
            if len(group) == 1 or self.too_large is None or padded < self.too_large:
                self._said = None
                yield group
                if self._said is None:
                    continue
                _give_back_memory()
                if len(group) == 1:
                    raise _row_does_not_fit(rows[group[0]], self._said)
                self.too_large = padded if self.too_large is None else min(self.too_large, padded)
                self.batches_halved += 1
            middle = (len(group) + 1) // 2
            waiting[:0] = [group[:middle], group[middle:]]

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Measure the group that was just given; if memory runs out, the next groups are its halves."""
        with _running_out() as said:
            yield
        self._said = said[0] if said else None


def _row_does_not_fit(row: EncodedRow, said: str) -> RipcurrentError:
    return RipcurrentError(
        f"Row {row.index}, {len(row.tokens)} tokens on its own, does not fit into memory ({said}).",
        "Set memory (--memory), which keeps directions out of memory and goes on with the same run. Others make "
        f"another run: max_tokens (--max-tokens) below {len(row.tokens)}, "
        "scope linear or lora; docs/scan.md says what takes how much.",
        code=ExitCode.NOT_MEASURED,
    )
