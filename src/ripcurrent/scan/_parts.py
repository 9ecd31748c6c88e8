"""Parts: which of a dataset's shards one process of several takes."""

import re
from dataclasses import dataclass

from ripcurrent.errors import RipcurrentError
from ripcurrent.scan._shards import Shard


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
