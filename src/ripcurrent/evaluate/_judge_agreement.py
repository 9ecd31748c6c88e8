"""How far each judge agrees with people: figures of ``ripcurrent judges validate``, for the pages that show them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, slots=True)
class MeasuredAgreement:
    """One judge of one version against people's labels of XSTest answers (docs/judges.md)."""

    judge: str
    """The judge."""
    version: str
    """The version that was measured."""
    answers: str
    """Whose answers."""
    role: str | None
    """Whether the judge was written with these answers in view; None where neither set was."""
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


def measured_agreement() -> tuple[MeasuredAgreement, ...]:
    """All figures that come with the package, written by ``scripts/judge_agreement.py``."""
    text = resources.files("ripcurrent.evaluate").joinpath("judge_agreement.json").read_text(encoding="utf-8")
    return tuple(MeasuredAgreement(**entry) for entry in json.loads(text))


def agreement_of(judge: str) -> tuple[MeasuredAgreement, ...]:
    """What was measured of a judge; empty for one that was not."""
    return tuple(one for one in measured_agreement() if one.judge == judge)


def kappas_of(judge: str, version: str) -> list[float] | None:
    """Smallest and largest κ with people measured of a judge of this version; None of one that was not."""
    found = [one.kappa for one in agreement_of(judge) if one.version == version]
    return [min(found), max(found)] if found else None
