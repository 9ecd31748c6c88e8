"""How far the judges by rule agree with people: figures that come with the package, and the errors that they tell."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np

from ripcurrent.statistics import Counts, wilson_interval

TUNED = "tuned on these"
"""The role of answers that say nothing of others: what a judge's rules were written with a view to."""


@dataclass(frozen=True, slots=True)
class MeasuredAgreement:
    """One judge of one version against people's labels of one model's answers to XSTest (docs/evaluate.md)."""

    judge: str
    version: str
    answers: str
    role: str | None
    """Whether the judge was made with these answers in view; None where none were."""
    n: int
    accuracy: float
    kappa: float
    low: float
    high: float
    compliance: Sequence[int]
    """Of the answers that people say comply: how many the judge calls so, and how many there are."""
    refusal: Sequence[int]
    """Of full refusals: how many the judge calls refusals, and how many there are."""
    partial: Sequence[int]
    """The same of partial refusals."""
    harmful: int
    """Answers to harmful requests among these."""
    differs: dict[str, int]
    """By another judge: answers to harmful requests that the two call otherwise."""


@dataclass(frozen=True, slots=True)
class JudgeErrors:
    """How often a judge errs on models that it was not fitted to, as `statistics.rogan_gladen` takes it.

    Shares are over all models' answers. A new model differs from these as they differ from each other, so a count is of
    as many answers as would leave that uncertainty: far fewer than were labelled where the models differ.
    """

    sensitivity: Counts
    """Of answers that people say comply: called compliance, and all."""
    specificity: Counts
    """Of full and partial refusals: not called compliance, and all."""
    lowest_kappa: float
    """The smallest κ on one model's answers."""
    models: tuple[str, ...]
    """Whose answers these were."""


def measured_agreement(judge: str | None = None) -> tuple[MeasuredAgreement, ...]:
    """The figures that come with the package, written by ``research/judge_agreement.py``: of all judges, or of one."""
    return tuple(one for one in _figures() if judge in (None, one.judge))


@cache
def _figures() -> tuple[MeasuredAgreement, ...]:
    text = resources.files("ripcurrent.evaluate").joinpath("judge_agreement.json").read_text(encoding="utf-8")
    return tuple(MeasuredAgreement(**entry) for entry in json.loads(text))


def _elsewhere(judge: str, version: str) -> list[MeasuredAgreement]:
    """Figures of a judge of this version on answers that its rule was not made for."""
    return [one for one in measured_agreement(judge) if one.version == version and one.role != TUNED]


def kappas_of(judge: str, version: str) -> list[float] | None:
    """Smallest and largest κ with people, by model, of a judge of this version; None of one that was not measured.

    Answers that a judge was tuned on or fitted to count in neither.
    """
    kappas = [one.kappa for one in _elsewhere(judge, version)]
    return [min(kappas), max(kappas)] if kappas else None


def judge_errors(judge: str, version: str) -> JudgeErrors | None:
    """The errors of a judge of this version; None of one that was not measured on several models."""
    found = _elsewhere(judge, version)
    if len(found) < 2:
        return None
    refused = [(one.refusal[0] + one.partial[0], one.refusal[1] + one.partial[1]) for one in found]
    return JudgeErrors(
        sensitivity=_of_a_new_model([one.compliance for one in found]),
        specificity=_of_a_new_model(refused),
        lowest_kappa=min(one.kappa for one in found),
        models=tuple(one.answers for one in found),
    )


def _of_a_new_model(counts: Sequence[Sequence[int]]) -> Counts:
    """Pooled counts, cut down to the effective size (Korn & Graubard 1998) that the spread between models leaves."""
    right, of = (sum(part) for part in zip(*counts, strict=True))
    share, shares = right / of, [part / whole for part, whole in counts]
    spread = float(np.var(shares, ddof=1)) * (1 + 1 / len(shares))
    size = min(of, share * (1 - share) / spread) if spread else of
    return share * size, size


def unlike(judge: str, version: str, other: str, differ: int, n: int) -> str | None:
    """A note where two judges differ on clearly more of ``n`` harmful answers than where the first was measured."""
    known = [(one.differs[other], one.harmful) for one in _elsewhere(judge, version) if other in one.differs]
    if not known or not n:
        return None
    share = sum(part for part, _ in known) / sum(of for _, of in known)
    if wilson_interval(differ, n).low <= share:
        return None
    return (
        f"{judge} and {other} differ on {differ / n:.0%} of {n} harmful answers, against {share:.0%} where {judge} was "
        "measured: this model words its answers otherwise, and the judge's errors may be larger than is known. "
        "Let people rate some (ripcurrent judges rate)."
    )
