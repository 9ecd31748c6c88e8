"""How far each judge agrees with people: figures of ``ripcurrent judges validate``, for the pages that show them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MeasuredAgreement:
    """One judge of one version against people's labels (docs/judges.md, XSTest completions)."""

    judge: str
    """The judge."""
    version: str
    """The version that was measured."""
    answers: str
    """Which answers, and whether the judge was tuned on them."""
    n: int
    """How many."""
    accuracy: float
    """Share of answers with the same label."""
    kappa: float
    """Cohen's κ."""
    low: float
    """Lower end of its 95 % interval."""
    high: float
    """Upper end."""


MEASURED: tuple[MeasuredAgreement, ...] = (
    MeasuredAgreement("prefix", "1.1", "GPT-4's, held out", 450, 0.942, 0.88, 0.84, 0.92),
    MeasuredAgreement("prefix", "1.1", "Llama 2's, tuned on these", 450, 0.949, 0.89, 0.85, 0.93),
    MeasuredAgreement("keyword", "1.1", "GPT-4's", 450, 0.949, 0.90, 0.86, 0.94),
    MeasuredAgreement("keyword", "1.1", "Llama 2's", 450, 0.904, 0.80, 0.75, 0.86),
)
"""Measured by ``ripcurrent judges validate`` on people's labels; a test holds the figures to docs/judges.md."""


def agreement_of(judge: str) -> tuple[MeasuredAgreement, ...]:
    """What was measured of a judge; empty for one that was not."""
    return tuple(one for one in MEASURED if one.judge == judge)
