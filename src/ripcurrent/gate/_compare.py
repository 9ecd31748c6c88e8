"""Do added rows score higher than comparable rows? A permutation of labels within strata of format and length.

Strata are made of all rows, blind to which are added. If added rows are like the others, each choice of them within a
stratum was equally likely: false alarms are at most ``alpha``, whatever the scores look like.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, rankdata

from ripcurrent.scan import BoolArray, FloatArray, RowNumbers
from ripcurrent.statistics import holm

STRATUM, BINS = 25, 20
"""Fewest rows of a stratum, but of what is left over; most bins of length within a format."""
TAIL, POWER = 0.1, 0.8
MEASURES = ("mean risk percentile", "in the riskiest tenth")
CELLS = 4_000_000
"""Random numbers that are held at once."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was compared and how it came out; of each of `MEASURES`, as shares."""

    added: int
    reference: int
    """Rows in strata that hold both kinds."""
    strata: int
    silent: int
    """Strata with one kind alone, which say nothing."""
    found: tuple[float, float]
    expected: tuple[float, float]
    """By chance."""
    p: tuple[float, float]
    """One-sided, adjusted by Holm."""
    detectable: float | None
    """Least share of added rows from the riskiest tenth that is found with 80 % power; None if no share is."""


def strata_of(formats: RowNumbers, lengths: FloatArray) -> RowNumbers:
    """Each row's stratum: its format, rare ones together, cut by quantiles of length."""
    names, group, counts = np.unique(formats, return_inverse=True, return_counts=True)
    group = np.where(counts[group] < STRATUM, len(names), group)
    strata = np.zeros(len(formats), dtype=np.int64)
    for one in np.unique(group):
        inside = group == one
        bins = int(np.clip(inside.sum() // STRATUM, 1, BINS))
        edges = np.quantile(lengths[inside], np.arange(1, bins) / bins)
        strata[inside] = one * BINS + np.searchsorted(edges, lengths[inside], side="right")
    return strata


def compare(scores: FloatArray, added: BoolArray, strata: RowNumbers, *, alpha: float) -> Comparison | None:
    """Compare added rows with the others of their strata; higher scores are riskier, shape ``(rows,)``, finite.

    Scores become percentiles within the stratum, so that no single row and no stratum of wide spread decides. None
    where no stratum holds both kinds.
    """
    groups = [np.flatnonzero(strata == one) for one in np.unique(strata)]
    both = [rows for rows in groups if 0 < added[rows].sum() < len(rows)]
    if not both:
        return None
    random, draws = np.random.default_rng(0), round(100 / alpha) - 1
    sizes, counts = np.array([len(rows) for rows in both]), np.array([added[rows].sum() for rows in both])
    observed, permuted, tails = np.zeros(2), np.zeros((draws, 2)), np.zeros(len(both))
    for place, rows in enumerate(both):
        percentile = (rankdata(scores[rows]) - 0.5) / len(rows)
        values = np.stack([percentile, percentile > 1 - TAIL], axis=1)
        tails[place] = values[:, 1].sum()
        observed += values[added[rows]].sum(axis=0)
        permuted += _drawn_sums(values, int(counts[place]), draws, random)
    p = holm(((1 + (permuted >= observed - 1e-9).sum(axis=0)) / (1 + draws)).tolist())
    # what a sum must exceed so that its p is at most alpha / 2, as Holm's first step asks
    critical = np.sort(permuted, axis=0)[-max(1, int(alpha / 2 * (draws + 1) + 1e-9))]
    total, (mean, tail) = int(counts.sum()), observed.tolist()
    return Comparison(
        added=total,
        reference=int((sizes - counts).sum()),
        strata=len(both),
        silent=len(groups) - len(both),
        found=(mean / total, tail / total),
        expected=(0.5, float((counts * tails / sizes).sum() / total)),
        p=(p[0], p[1]),
        detectable=_detectable(counts, sizes, tails, critical, float(permuted[:, 0].std())),
    )


def _drawn_sums(values: FloatArray, count: int, draws: int, random: np.random.Generator) -> FloatArray:
    """Sums over ``count`` random rows of ``values``, shape ``(rows, measures)``, of each draw."""
    few, step = min(count, len(values) - count), max(1, CELLS // len(values))
    sums = np.zeros((draws, values.shape[1]))
    for start in range(0, draws, step):
        keys = random.random((min(step, draws - start), len(values)))
        sums[start : start + step] = values[np.argpartition(keys, few - 1, axis=1)[:, :few]].sum(axis=1)
    return sums if few == count else values.sum(axis=0) - sums


def _detectable(
    counts: RowNumbers, sizes: RowNumbers, tails: FloatArray, critical: FloatArray, spread: float
) -> float | None:
    """By normal approximation, where a share of added rows comes from the reference rows' riskiest tenth."""
    need, rest, usual = norm.isf(1 - POWER), 1 - counts / sizes, tails / sizes
    for share in np.arange(1, 101) / 100:
        mean = (counts * (0.5 + share * (1 - TAIL) / 2 * rest)).sum()
        # added rows crowd the riskiest tenth of all, which has its number of places
        more = (1 - usual) * share
        likely = (usual + more) * tails / np.maximum(tails + more * counts, 1e-9)
        error = (counts * likely * (1 - likely) * rest).sum() ** 0.5
        if mean - critical[0] >= need * spread or (counts * likely).sum() - critical[1] - 0.5 >= need * error:
            return float(share)
    return None
