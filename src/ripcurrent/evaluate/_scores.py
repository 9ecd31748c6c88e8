"""What judges with a scale say of a set of answers: mean score and share of the greatest, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ripcurrent.evaluate.judges import UNJUDGED, Verdict
from ripcurrent.statistics import Interval, bootstrap_rate, wilson_interval


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """The scores that one judge gave. Degenerate and unjudged answers have none and are counted apart."""

    n: int
    """Answers with a score."""
    mean: float
    """Their mean; NaN without any."""
    mean_low: float
    """Lower end of its bootstrap interval over answers."""
    mean_high: float
    """Upper end."""
    top_share: float
    """Share of answers with the greatest score of the scale (on the scale 1 to 5, the share of fives)."""
    top_low: float
    """Lower end of its Wilson interval."""
    top_high: float
    """Upper end."""
    degenerate: int
    """Answers that were none."""
    unjudged: int
    """Answers that the judge could not judge."""


def summarise_scores(verdicts: Sequence[Verdict], *, top: float, seed: int = 0) -> ScoreSummary:
    """Summarise one judge's scores.

    Args:
        verdicts: One judge's verdicts.
        top: The greatest score of its scale: 5 for ``rubric``, 1 for ``strongreject``.
        seed: Seed of the bootstrap.
    """
    scores = np.array([verdict.score for verdict in verdicts if verdict.score is not None], dtype=np.float64)
    degenerate = sum(verdict.label == "degenerate" for verdict in verdicts)
    unjudged = sum(verdict.label == UNJUDGED for verdict in verdicts)
    if not len(scores):
        nan = float("nan")
        return ScoreSummary(0, nan, nan, nan, nan, nan, nan, degenerate, unjudged)
    greatest = int((scores >= top).sum())
    share = wilson_interval(greatest, len(scores))
    # where all scores are equal there is nothing to draw, and a point would claim certainty
    mean = bootstrap_rate(scores, seed=seed) if np.ptp(scores) > 0 else Interval(float("nan"), float("nan"))
    return ScoreSummary(
        n=len(scores),
        mean=float(scores.mean()),
        mean_low=mean.low,
        mean_high=mean.high,
        top_share=greatest / len(scores),
        top_low=share.low,
        top_high=share.high,
        degenerate=degenerate,
        unjudged=unjudged,
    )
