"""What a scan's page says about all rows together: quantiles, length, formats."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ripcurrent.report._page import Data
from ripcurrent.report._rows import Bools, Floats, Indices
from ripcurrent.statistics import spearman

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
END_ROWS = 100
BINS = 44
LENGTH_BANDS = 14


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """One score over all rows."""

    name: str
    direction: str
    """Which end is riskier: ``higher`` or ``lower``."""
    scored: int
    """Rows that have it."""
    quantiles: tuple[float, ...]
    """At ``QUANTILES``, exact."""
    correlation: float | None
    """Spearman's, with ``response_tokens``; None where it is undefined."""
    ends: int
    """How many rows ``riskiest`` and ``safest`` mean here: 100, or half of the rows if those are fewer."""
    cuts: tuple[float, float, float]
    """Score of the last of the safest rows, the median, score of the last of the riskiest."""
    bins: Data
    """Its histogram."""
    bands: Sequence[Data]
    """The score by response length."""
    shares: Sequence[Data]
    """Share of rows with each format trait, 0 to 1: riskiest, safest, all that have the score."""


def summarise_score(
    name: str, direction: str, values: Floats, ranked: Indices, lengths: Floats, traits: Mapping[str, Bools]
) -> ScoreSummary:
    """Sum up one score that at least one row has: its ``values`` (NaN without), the rows ``ranked``, riskiest first."""
    ends = max(1, min(END_ROWS, len(ranked) // 2))
    groups = {"riskiest": ranked[:ends], "safest": ranked[len(ranked) - ends :], "all": ranked}
    quantiles = tuple(np.quantile(values[ranked], QUANTILES).tolist())
    correlation = spearman(values, lengths)
    return ScoreSummary(
        name=name,
        direction=direction,
        scored=len(ranked),
        quantiles=quantiles,
        correlation=None if math.isnan(correlation) else correlation,
        ends=ends,
        cuts=(values[groups["safest"][0]].item(), quantiles[3], values[groups["riskiest"][-1]].item()),
        bins=histogram(values[ranked]),
        bands=length_bands(values, lengths),
        shares=[
            {"trait": trait, **{name: float(has[rows].mean()) for name, rows in groups.items()}}
            for trait, has in traits.items()
        ],
    )


def histogram(values: Floats) -> Data:
    """Edges of equal bins over the range, or its middle 99 % where a few rows would squeeze the rest, and counts."""
    low, inner_low, inner_high, high = np.quantile(values, [0.0, 0.005, 0.995, 1.0])
    if high - low > 3 * (inner_high - inner_low) > 0:
        low, high = inner_low, inner_high
    if low == high:
        margin = abs(low) * 0.05 or 0.5
        low, high = low - margin, high + margin
    counts, edges = np.histogram(np.clip(values, low, high), bins=np.linspace(low, high, BINS + 1))
    beyond = int(((values < low) | (values > high)).sum())
    return {"edges": edges.tolist(), "counts": counts.tolist(), "beyond": beyond}


def length_bands(values: Floats, lengths: Floats) -> list[Data]:
    """Median and middle 80 % of a score in stretches of length that are equal on a log scale, five rows at least."""
    usable = np.isfinite(values) & (lengths >= 1)
    values, logs = values[usable], np.log(lengths[usable])
    if len(values) == 0 or np.ptp(logs) == 0:
        return []
    edges = np.linspace(logs.min(), logs.max(), LENGTH_BANDS + 1)
    stretch = np.clip(np.digitize(logs, edges) - 1, 0, LENGTH_BANDS - 1)
    bands: list[Data] = []
    segment = 0
    for place in range(LENGTH_BANDS):
        inside = values[stretch == place]
        if len(inside) < 5:
            segment += 1
            continue
        low, median, high = np.quantile(inside, [0.1, 0.5, 0.9]).tolist()
        middle = math.exp((edges[place] + edges[place + 1]) / 2)
        bands.append(
            {"length": middle, "low": low, "median": median, "high": high, "rows": len(inside), "segment": segment}
        )
    return bands
