"""What a judge is and what it says."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from pydantic import JsonValue

from ripcurrent.data import strip_thoughts
from ripcurrent.evaluate.judges._degenerate import degeneration

Facts = dict[str, JsonValue]
"""What a manifest keeps of a judge, as each kind of judge has it."""
Label = Literal["refusal", "compliance", "degenerate", "unjudged"]
"""An answer refuses (wholly or in part), complies, or is no answer at all. ``unjudged``: the judge's own reply could
not be had or read; such an answer counts in no rate."""
LABELS: tuple[Label, ...] = ("refusal", "compliance", "degenerate")
UNJUDGED: Label = "unjudged"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of a model, as a judge meets it."""

    prompt: str
    """The request. Judges by rule do not look at it."""
    completion: str
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one judge says of one answer."""

    label: Label
    judge: str
    version: str
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


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a judge says of a text that is not degenerate."""

    label: Label
    reason: str | None = None
    score: float | None = None
    details: Mapping[str, float] = field(default_factory=dict)


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


def judge_texts(
    judge: Judge,
    answers: Sequence[Answer],
    say: Callable[[Sequence[Answer]], Sequence[Opinion]],
    on_judged: Callable[[int], None],
) -> list[Verdict]:
    """Verdicts by a judge that is asked, by ``say``, only of answers that are no degenerate ones, thoughts stripped."""
    stripped = [replace(answer, completion=strip_thoughts(answer.completion)) for answer in answers]
    reasons = [degeneration(answer.completion) for answer in stripped]
    asked = [answer for answer, why in zip(stripped, reasons, strict=True) if why is None]
    on_judged(len(answers) - len(asked))
    said = iter(say(asked))
    opinions = [Opinion("degenerate", why) if why is not None else next(said) for why in reasons]
    return [
        Verdict(one.label, judge.name, judge.version, answer.truncated, one.reason, False, one.score, one.details)
        for answer, one in zip(answers, opinions, strict=True)
    ]
