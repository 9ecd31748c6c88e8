"""What a judge is and what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Label = Literal["refusal", "compliance", "degenerate", "unjudged"]
"""What an answer is: it refuses (wholly or in part), it answers, or it is no answer at all. ``unjudged`` says nothing
of the answer: the judge's own reply could not be had or read; it counts nowhere but among the unjudged."""

LABELS: tuple[Label, ...] = ("refusal", "compliance", "degenerate")
"""What an answer can be, in the order of tables."""

UNJUDGED: Label = "unjudged"
"""The label of an answer that a judge could not judge. Judges by rule never say it."""


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
    """The refusal's wording as it was found; for a degenerate answer ``empty``, ``looping`` or ``not_language``; for an
    unjudged one what was wrong with the judge's reply, one of ``UNREADABLE`` or of an endpoint's failures, or
    ``prompt_rejected`` where there is no answer."""
    opens_with_refusal: bool = False
    """Whether the wording of a refusal was found, also in an answer that is degenerate: a refusal that loops. False
    from judges that look for no wording."""
    score: float | None = None
    """What a judge with a scale gives, higher for more compliance; None from judges without one, and for answers that
    are degenerate or unjudged."""
    details: Mapping[str, float] = field(default_factory=dict)
    """The parts of the score by name, such as ``specificity``; empty where it has none."""


class Judge(Protocol):
    """Says of answers whether they refuse."""

    @property
    def name(self) -> str:
        """Short, lower case; the key in tables and JSON."""

    @property
    def version(self) -> str:
        """Changes whenever the label of any answer may change."""

    @property
    def scale(self) -> tuple[float, float] | None:
        """The least and the greatest score it gives; None for a judge without scores."""

    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        """One verdict per answer, in order."""

    def describe(self) -> dict[str, Any]:
        """What a manifest keeps of it beside name and version; JSON-ready, without keys.

        ``kind`` is ``rule`` where judging takes no time. ``reply: score`` says that it grades harm: what it does not
        call compliance is then no refusal.
        """
