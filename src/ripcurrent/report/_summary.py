"""What the page says about all rows together: order, quantiles, length, formats."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ripcurrent.scan._columns import TRAIT_COLUMNS
from ripcurrent.scan._scan_run import Bools, Floats, Indices, ScanRun

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
END_ROWS = 100
BINS = 44
LENGTH_BANDS = 14


@dataclass(frozen=True, slots=True)
class Bins:
    """A histogram over equal bins; rows beyond the ends are counted in the end bins."""

    edges: tuple[float, ...]
    """Bin edges, one more than bins."""
    rows: tuple[int, ...]
    """Rows in each bin."""
    beyond: int
    """Rows outside the edges, which the end bins hold."""


@dataclass(frozen=True, slots=True)
class LengthBand:
    """The rows of one stretch of response lengths."""

    length: float
    """Geometric middle of the stretch, tokens."""
    low: float
    """Tenth percentile of the score."""
    median: float
    """Median of the score."""
    high: float
    """Ninetieth percentile of the score."""
    rows: int
    """Rows in the stretch."""
    segment: int
    """Neighbouring stretches share it; it changes where a stretch without enough rows lies between."""


@dataclass(frozen=True, slots=True)
class FormatShare:
    """How common one format trait is at either end of a ranking."""

    trait: str
    """The trait's column."""
    riskiest: float
    """Share among the riskiest rows, 0 to 1."""
    safest: float
    """Share among the safest rows."""
    all: float
    """Share among all rows that have the score."""


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """One score over all rows."""

    name: str
    """Its column."""
    direction: str
    """Which end is riskier: ``higher`` or ``lower``."""
    scored: int
    """Rows that have it."""
    quantiles: tuple[float, ...]
    """At ``QUANTILES``, exact."""
    length_correlation: float | None
    """Spearman correlation with ``response_tokens``; None where it is undefined (a constant, too few rows)."""
    end_rows: int
    """How many rows ``riskiest`` and ``safest`` mean here: 100, or half of the rows if those are fewer."""
    riskiest_cut: float
    """Score of the last of the riskiest rows."""
    safest_cut: float
    """Score of the last of the safest rows."""
    bins: Bins
    """Its distribution."""
    bands: tuple[LengthBand, ...]
    """The score by response length."""
    shares: tuple[FormatShare, ...]
    """Format traits at the ends of its ranking."""


def risk_order(values: Floats, direction: str) -> Indices:
    """Positions of the rows that have a score, riskiest first; equal scores keep the input's order."""
    finite = np.flatnonzero(np.isfinite(values))
    keys = values[finite] if direction == "lower" else -values[finite]
    return finite[np.argsort(keys, kind="stable")]


def length_correlation(values: Floats, lengths: Floats) -> float | None:
    """Spearman correlation of a score with response length over rows that have both, or None if undefined."""
    both = np.isfinite(values) & np.isfinite(lengths)
    values, lengths = values[both], lengths[both]
    if len(values) < 3 or np.ptp(values) == 0 or np.ptp(lengths) == 0:
        return None
    return float(stats.spearmanr(values, lengths).statistic)


def histogram(values: Floats) -> Bins:
    """Equal bins over the score's range, or over its middle 99 % where a few rows would squeeze the rest."""
    low, inner_low, inner_high, high = np.quantile(values, [0.0, 0.005, 0.995, 1.0])
    if high - low > 3 * (inner_high - inner_low) > 0:
        low, high = inner_low, inner_high
    if low == high:
        margin = abs(low) * 0.05 or 0.5
        low, high = low - margin, high + margin
    edges = np.linspace(low, high, BINS + 1)
    counts, _ = np.histogram(np.clip(values, low, high), bins=edges)
    beyond = int(((values < low) | (values > high)).sum())
    return Bins(tuple(edges.tolist()), tuple(counts.tolist()), beyond)


def length_bands(values: Floats, lengths: Floats) -> tuple[LengthBand, ...]:
    """Median and middle 80 % of a score in stretches of length that are equal on a log scale.

    A stretch with fewer than five rows has no band.
    """
    usable = np.isfinite(values) & (lengths >= 1)
    values, logs = values[usable], np.log(lengths[usable])
    if len(values) == 0 or np.ptp(logs) == 0:
        return ()
    edges = np.linspace(logs.min(), logs.max(), LENGTH_BANDS + 1)
    stretch = np.clip(np.digitize(logs, edges) - 1, 0, LENGTH_BANDS - 1)
    bands: list[LengthBand] = []
    segment = 0
    for number in range(LENGTH_BANDS):
        inside = values[stretch == number]
        if len(inside) < 5:
            segment += 1
            continue
        low, median, high = np.quantile(inside, [0.1, 0.5, 0.9]).tolist()
        middle = math.exp((edges[number] + edges[number + 1]) / 2)
        bands.append(LengthBand(middle, low, median, high, len(inside), segment))
    return tuple(bands)


def format_shares(order: Indices, end_rows: int, traits: Mapping[str, Bools]) -> tuple[FormatShare, ...]:
    """Share of each trait among the first and last ``end_rows`` of a ranking and among all of it."""
    riskiest, safest = order[:end_rows], order[len(order) - end_rows :]
    return tuple(
        FormatShare(trait, float(has[riskiest].mean()), float(has[safest].mean()), float(has[order].mean()))
        for trait, has in traits.items()
    )


def read_traits(run: ScanRun) -> dict[str, Bools]:
    """The format traits of every row, one byte each."""
    return {trait: run.flags(trait) for trait in TRAIT_COLUMNS if trait in run.present}


def summarise_score(
    name: str, direction: str, values: Floats, lengths: Floats, traits: Mapping[str, Bools]
) -> ScoreSummary | None:
    """Sum up one score, or None where no row has it."""
    order = risk_order(values, direction)
    if len(order) == 0:
        return None
    end_rows = max(1, min(END_ROWS, len(order) // 2))
    finite = values[order]
    return ScoreSummary(
        name=name,
        direction=direction,
        scored=len(order),
        quantiles=tuple(np.quantile(finite, QUANTILES).tolist()),
        length_correlation=length_correlation(values, lengths),
        end_rows=end_rows,
        riskiest_cut=float(finite[end_rows - 1]),
        safest_cut=float(finite[len(order) - end_rows]),
        bins=histogram(finite),
        bands=length_bands(values, lengths),
        shares=format_shares(order, end_rows, traits),
    )
