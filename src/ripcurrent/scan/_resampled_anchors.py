"""How far scores rest on the anchors that happen to be in a set: bootstrap over the anchors of every set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ripcurrent.scan._columns import DIRECTION_OF_RISK
from ripcurrent.statistics import spearman

Floats = npt.NDArray[np.float64]
Places = Mapping[str, Sequence[int]]
"""Set name to positions among all anchors, of the anchors that stand in for the set."""
ScoreOf = Callable[[Floats, Places], dict[str, Floats]]
"""Cosines ``(rows, anchors)`` and the sets' anchors to columns ``(rows,)``."""

CONFIDENCE = 0.95
CHUNK_ROWS = 8_192
"""Rows whose scores under every draw are held at once."""


@dataclass(frozen=True, slots=True)
class AnchorStability:
    """How far one score's ranking stays when the anchors are drawn anew."""

    column: str
    """The score."""
    rows: int
    """Rows that have it."""
    spearman: float
    """Mean rank correlation of the score with the same score by redrawn anchors."""
    spearman_low: float
    """5th percentile of the same over the draws."""
    top: int
    """Rows of the riskiest end that are compared."""
    overlap: float
    """Mean share of these that are still among the riskiest as many."""
    overlap_low: float
    """5th percentile."""
    width: float
    """Median width of a row's 95 % interval, in standard deviations of the score over the rows."""


def gradient_scores(cosines: Floats, places: Places) -> dict[str, Floats]:
    """The gradient columns from each row's cosines to single anchors' gradients (``docs/methods.md``, 2)."""
    means = {name: cosines[:, list(of)].mean(axis=1) for name, of in places.items()}
    harmful, safe = means["harmful"], np.mean([means[name] for name in places if name != "harmful"], axis=0)
    return {
        "gradient_harmful": harmful,
        "gradient_safe": safe,
        "gradient_bidirectional": harmful - (len(places) - 1) * safe,
        "gradient_balanced": harmful - safe,
    }


def resample_anchors(
    score_of: ScoreOf, cosines: Floats, own: Places, *, draws: int, top: int, seed: int
) -> tuple[list[AnchorStability], dict[str, tuple[Floats, Floats]]]:
    """Draw every set's anchors with replacement, as many as it has, and see what becomes of scores and ranking.

    Args:
        score_of: The scores by some anchors.
        cosines: Each row's cosines, finite, shape ``(rows, anchors)``.
        own: The sets as they are.
        draws: How often.
        top: How many of the riskiest rows to follow.
        seed: Of the draws.

    Returns:
        For each column its stability; and by column the rows' 95 % percentile interval, low and high ``(rows,)``.
    """
    generator = np.random.default_rng(seed)
    drawn = [{name: generator.choice(of, len(of)).tolist() for name, of in own.items()} for _ in range(draws)]
    original = score_of(cosines, own)
    top = min(top, len(cosines))
    riskiest = {name: set(_riskiest(name, values, top)) for name, values in original.items()}
    correlations: dict[str, list[float]] = {name: [] for name in original}
    overlaps: dict[str, list[float]] = {name: [] for name in original}
    for places in drawn:
        for name, values in score_of(cosines, places).items():
            correlations[name].append(spearman(original[name], values))
            overlaps[name].append(len(riskiest[name].intersection(_riskiest(name, values, top))) / top)
    bounds = {name: (np.empty(len(cosines)), np.empty(len(cosines))) for name in original}
    for start in range(0, len(cosines), CHUNK_ROWS):
        part = slice(start, start + CHUNK_ROWS)
        found = [score_of(cosines[part], places) for places in drawn]
        for name, (low, high) in bounds.items():
            tail = (1 - CONFIDENCE) / 2
            low[part], high[part] = np.quantile([values[name] for values in found], [tail, 1 - tail], axis=0)
    stabilities = []
    for name, values in original.items():
        low, high = bounds[name]
        spread = float(values.std())
        stabilities.append(
            AnchorStability(
                column=name,
                rows=len(values),
                spearman=float(np.mean(correlations[name])),
                spearman_low=float(np.quantile(correlations[name], 0.05)),
                top=top,
                overlap=float(np.mean(overlaps[name])),
                overlap_low=float(np.quantile(overlaps[name], 0.05)),
                width=float(np.median(high - low)) / spread if spread > 0 else float("nan"),
            )
        )
    return stabilities, bounds


def _riskiest(column: str, values: Floats, count: int) -> list[int]:
    signed = values if DIRECTION_OF_RISK[column] == "higher" else -values
    places: list[int] = np.argsort(-signed, kind="stable")[:count].tolist()
    return places
