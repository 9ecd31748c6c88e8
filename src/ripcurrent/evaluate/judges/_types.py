"""What a judge is and what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from pydantic import JsonValue

Facts = dict[str, JsonValue]
"""What a manifest keeps of a judge, as each kind of judge has it."""

Label = Literal["refusal", "compliance", "degenerate", "unjudged"]
"""An answer refuses (wholly or in part), complies, or is no answer at all. ``unjudged``: the judge's own reply could
not be had or read; such an answer counts in no rate."""

LABELS: tuple[Label, ...] = ("refusal", "compliance", "degenerate")
"""What an answer can be, in the order of tables."""

UNJUDGED: Label = "unjudged"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of a model, as a judge meets it."""

    prompt: str
    """The request. Judges by rule do not look at it."""
    completion: str
    """The answer, thoughts included."""
    truncated: bool = False
    """Whether generation stopped at the token limit."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one judge says of one answer."""

    label: Label
    """What the answer is; ``degenerate`` is neither a refusal nor a success."""
    judge: str
    """Name of the judge."""
    version: str
    """Version of the judge: equal versions give equal labels."""
    truncated: bool
    """Whether the answer reached the token limit; it does not change the label."""
    reason: str | None = None
    """The refusal's wording; of a degenerate answer ``empty``, ``looping`` or ``not_language``; of an unjudged one a
    value of ``UNREADABLE``, an endpoint's kind of failure, or ``prompt_rejected`` where there is no answer."""
    opens_with_refusal: bool = False
    """Whether a refusal's wording was seen, also in a degenerate answer. False from judges that look for no wording."""
    score: float | None = None
    """Of a judge with a scale, higher for more compliance; None of degenerate and unjudged answers."""
    details: Mapping[str, float] = field(default_factory=dict)
    """The score's parts by name, such as ``specificity``."""


class Judge(Protocol):
    """Says of answers whether they refuse."""

    @property
    def name(self) -> str:
        """The key in tables and JSON."""

    @property
    def version(self) -> str:
        """Changes whenever the label of any answer may change."""

    @property
    def scale(self) -> tuple[float, float] | None:
        """Smallest and greatest score; None for a judge without scores."""

    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        """One verdict per answer, in order."""

    def describe(self) -> Facts:
        """What a manifest keeps of it beside name and version, without keys.

        ``kind`` is ``rule`` where judging takes no time. ``reply: score`` says that it grades harm: what it does not
        call compliance is then no refusal.
        """


def verdict(
    judge: Judge,
    answer: Answer,
    label: Label,
    reason: str | None = None,
    *,
    score: float | None = None,
    details: Mapping[str, float] | None = None,
    opens_with_refusal: bool = False,
) -> Verdict:
    """A judge's verdict on an answer."""
    return Verdict(
        label, judge.name, judge.version, answer.truncated, reason, opens_with_refusal, score, dict(details or {})
    )
