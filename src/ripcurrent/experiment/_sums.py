"""Sums with a known result, as GSM8K has them: which are asked, and what share of them an answer solves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from ripcurrent.data import read_rows
from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate import Prompt
from ripcurrent.experiment._config import Accuracy
from ripcurrent.select_old._draw import generator

WORTH_MEASURING = 0.10
"""Below this share solved by the untrained model, its arms are not asked: there is nothing to lose."""

_NUMBER = re.compile(r"(?:(?<![\w)])[-−])?\d+(?:,\d{3})*(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Sum:
    """A question with its result."""

    id: str
    """Its row number in the file."""
    question: str
    """What is asked."""
    result: Decimal
    """The result."""

    @property
    def prompt(self) -> Prompt:
        """The question as a prompt."""
        return Prompt(self.id, self.question, "plain", "sums", "sums")


def draw_sums(config: Accuracy) -> tuple[Sum, ...]:
    """So many sums of a file, always the same ones, in its order.

    Raises:
        RipcurrentError: The file cannot be read, or an answer in it has no number.
    """
    rows = list(read_rows(config.file))
    places = sorted(generator(0, "sums").permutation(len(rows))[: config.limit].tolist())
    drawn = []
    for place in places:
        row = rows[place]
        result = result_of(row.response)
        if result is None:
            raise RipcurrentError(
                f"{config.file}, row {place}: the answer has no number to compare with.",
                "Give questions whose answers end in their result, after #### as in GSM8K.",
            )
        drawn.append(Sum(str(place), row.prompt, result))
    return tuple(drawn)


def result_of(answer: str) -> Decimal | None:
    """What an answer comes to: the number after ``####``, else its last number; None without any."""
    marked = answer.rpartition("####")[2] if "####" in answer else answer
    numbers = _NUMBER.findall(marked)
    if not numbers:
        return None
    said = numbers[0] if "####" in answer else numbers[-1]
    return Decimal(said.replace(",", "").replace("−", "-"))


def share_solved(sums: Sequence[Sum], answers: Mapping[str, str]) -> float:
    """Share of the sums whose answer, by id, comes to the result."""
    return sum(result_of(answers.get(one.id, "")) == one.result for one in sums) / len(sums)
