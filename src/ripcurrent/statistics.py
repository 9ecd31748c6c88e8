"""Rank statistics of score columns: correlation, correlation given length, separation, quantiles."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

FloatArray = npt.NDArray[np.float64]

USUAL_QUANTILES: tuple[float, ...] = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
"""The probabilities that tables and pages show unless told otherwise."""

SMALLEST_SAMPLE = 3
"""Fewer complete rows than this carry no correlation."""


def spearman(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Spearman's rank correlation of two columns, average ranks for ties.

    Args:
        x: One value per row, shape ``(rows,)``; rows where either column is not finite are left out.
        y: The same, as long as ``x``.

    Returns:
        A number in [-1, 1]; NaN where it is not defined (fewer than three complete rows, or a constant column).

    Raises:
        ValueError: The columns have different lengths.
    """
    first, second = _complete_rows(x, y)
    if len(first) < SMALLEST_SAMPLE:
        return float("nan")
    return _pearson(rankdata(first), rankdata(second))


def partial_spearman(x: npt.ArrayLike, y: npt.ArrayLike, given: npt.ArrayLike) -> float:
    """Rank correlation of two columns with a third (say, response length) held constant.

    First-order partial correlation of the ranks, ``(r_xy - r_xg r_yg) / sqrt((1 - r_xg^2)(1 - r_yg^2))``.

    Args:
        x: One value per row, shape ``(rows,)``; rows where any of the columns is not finite are left out.
        y: The same, as long as ``x``.
        given: The same, as long as ``x``: the column held constant.

    Returns:
        A number in [-1, 1]; NaN where it is not defined: fewer than four complete rows, a constant column, or a
        column whose ranks ``given`` determines entirely.

    Raises:
        ValueError: The columns have different lengths.
    """
    first, second, third = _complete_rows(x, y, given)
    if len(first) < SMALLEST_SAMPLE + 1:
        return float("nan")
    ranks = [rankdata(column) for column in (first, second, third)]
    r_xy = _pearson(ranks[0], ranks[1])
    r_xg = _pearson(ranks[0], ranks[2])
    r_yg = _pearson(ranks[1], ranks[2])
    unexplained = (1.0 - r_xg**2) * (1.0 - r_yg**2)
    # The residual of a rank that `given` determines is rounding noise: a ratio of two such would look like a finding.
    if not unexplained > 1e-12:
        return float("nan")
    return float(np.clip((r_xy - r_xg * r_yg) / sqrt(unexplained), -1.0, 1.0))


def auroc(positives: npt.ArrayLike, negatives: npt.ArrayLike) -> float:
    """The chance that a positive scores above a negative, ties counting one half (area under the ROC curve).

    Args:
        positives: Scores of the group expected to be higher, shape ``(positives,)``.
        negatives: Scores of the other group, shape ``(negatives,)``.

    Returns:
        A number in [0, 1]; 0.5 is no separation.

    Raises:
        ValueError: A group is empty or holds NaN: no separation was measured, and a number would hide it.
    """
    high = np.asarray(positives, dtype=np.float64).ravel()
    low = np.asarray(negatives, dtype=np.float64).ravel()
    if len(high) == 0 or len(low) == 0:
        raise ValueError("auroc needs at least one positive and one negative score")
    if np.isnan(high).any() or np.isnan(low).any():
        raise ValueError("auroc needs scores without NaN")
    ranks = rankdata(np.concatenate([high, low]))
    wins = float(ranks[: len(high)].sum()) - len(high) * (len(high) + 1) / 2
    return wins / (len(high) * len(low))


def quantiles(values: npt.ArrayLike, at: Sequence[float] = USUAL_QUANTILES) -> dict[float, float]:
    """Quantiles of the finite values of a column, linear between neighbours.

    Args:
        values: One value per row, shape ``(rows,)``; values that are not finite are left out.
        at: Probabilities in [0, 1].

    Returns:
        Probability to quantile, in the order asked for; NaN throughout when no value is finite.

    Raises:
        ValueError: A probability is outside [0, 1].
    """
    probabilities = [float(p) for p in at]
    column = np.asarray(values, dtype=np.float64).ravel()
    finite = column[np.isfinite(column)]
    if not all(0.0 <= p <= 1.0 for p in probabilities):
        raise ValueError("a quantile's probability must lie between 0 and 1")
    if len(finite) == 0:
        return dict.fromkeys(probabilities, float("nan"))
    return dict(zip(probabilities, np.quantile(finite, probabilities).tolist(), strict=True))


def _complete_rows(*columns: npt.ArrayLike) -> list[FloatArray]:
    arrays = [np.asarray(column, dtype=np.float64).ravel() for column in columns]
    if len({len(array) for array in arrays}) != 1:
        raise ValueError(f"columns of different lengths: {[len(array) for array in arrays]}")
    complete = np.logical_and.reduce([np.isfinite(array) for array in arrays])
    return [array[complete] for array in arrays]


def _pearson(x: FloatArray, y: FloatArray) -> float:
    x = x - x.mean()
    y = y - y.mean()
    scale = sqrt(float(x @ x) * float(y @ y))
    if scale == 0.0:
        return float("nan")
    return float(np.clip(float(x @ y) / scale, -1.0, 1.0))
