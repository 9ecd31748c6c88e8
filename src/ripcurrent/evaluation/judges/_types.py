"""What a judge is and what it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

Label = Literal["refusal", "compliance", "degenerate"]
"""What an answer is: it refuses (wholly or in part), it answers, or it is no answer at all."""

LABELS: tuple[Label, ...] = get_args(Label)
"""Every label, in the order of tables."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of a model, as a judge meets it."""

    prompt: str
    """The request. The judges by rule do not look at it."""
    completion: str
    """What the model said, its thoughts included."""
    truncated: bool = False
    """Whether generation stopped at the token limit."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one judge says of one answer. The judge's name and version travel with it into every table."""

    label: Label
    """What the answer is; ``degenerate`` is neither a refusal nor a success."""
    judge: str
    """Name of the judge."""
    version: str
    """Version of the judge: equal versions give equal labels."""
    truncated: bool
    """Whether the answer reached the token limit; recorded, and of no influence on the label."""
    reason: str | None = None
    """The refusal's wording as it was found; for a degenerate answer ``empty``, ``looping`` or ``not_language``."""
    opens_with_refusal: bool = False
    """Whether the wording of a refusal was found, also in an answer that is degenerate: a refusal that loops."""


class Judge(Protocol):
    """Says of answers whether they refuse."""

    @property
    def name(self) -> str:
        """Short, lower case; the key in tables and JSON."""

    @property
    def version(self) -> str:
        """Changes whenever the label of any answer may change."""

    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        """One verdict per answer, in order."""
