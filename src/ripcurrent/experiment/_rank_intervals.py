"""Rank correlations of columns, raw and with length held constant, with bootstrap intervals over rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from ripcurrent.evaluate import Interval
from ripcurrent.statistics import partial_spearman, spearman

FloatArray = npt.NDArray[np.float64]

DRAWS = 2_000
"""Bootstrap draws of rows."""
CONFIDENCE = 0.95
"""Of every interval."""
CELLS = 2_000_000
"""Values of one column that are ranked at once."""


@dataclass(frozen=True, slots=True)
class RankCorrelation:
    """Spearman's correlation of two columns over the same rows; NaN where it is not defined."""

    left: str
    """The first column."""
    right: str
    """The second column."""
    rows: int
    """Complete rows."""
    spearman: float
    """Rank correlation, average ranks for ties."""
    interval: Interval
    """95 % percentile bootstrap interval over rows."""
    given_length: float
    """The same between the residuals of both columns' ranks on the ranks of the length."""
    given_length_interval: Interval
    """Its interval."""

    def as_json(self) -> dict[str, float | int | str | None]:
        """Flat, null for what is not defined."""
        numbers = {
            "spearman": self.spearman,
            "low": self.interval.low,
            "high": self.interval.high,
            "given_length": self.given_length,
            "given_length_low": self.given_length_interval.low,
            "given_length_high": self.given_length_interval.high,
        }
        plain = {name: round(value, 4) if np.isfinite(value) else None for name, value in numbers.items()}
        return {"left": self.left, "right": self.right, "rows": self.rows, **plain}


def rank_correlations(
    left: Mapping[str, npt.ArrayLike],
    right: Mapping[str, npt.ArrayLike],
    length: npt.ArrayLike,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[RankCorrelation]:
    """Every column of ``left`` against every one of ``right``, over the rows where all of them and length are finite.

    The partial correlation is the first-order one of ranks, which equals Pearson's between rank residuals. The
    bootstrap draws rows with replacement, the same ones for all pairs, and ranks anew in every draw; draws in which
    a correlation is not defined are left out of its interval.

    Args:
        left: Columns by name, one value per row.
        right: The same, as long.
        length: Response tokens, as long.
        draws: Bootstrap draws.
        seed: Their seed.

    Raises:
        ValueError: Columns of different lengths.
    """
    columns = {name: np.asarray(values, dtype=np.float64) for name, values in {**left, **right}.items()}
    tokens = np.asarray(length, dtype=np.float64)
    if len({len(column) for column in [*columns.values(), tokens]}) != 1:
        raise ValueError("columns of different lengths")
    complete = np.isfinite(tokens)
    for column in columns.values():
        complete &= np.isfinite(column)
    columns = {name: column[complete] for name, column in columns.items()}
    tokens = tokens[complete]
    pairs = [(first, second) for first in left for second in right if first != second]
    drawn: dict[tuple[str, str], list[tuple[FloatArray, FloatArray]]] = {pair: [] for pair in pairs}
    for rows in _draws(len(tokens), draws, seed):
        units = {name: _unit_ranks(column[rows]) for name, column in columns.items()}
        by_length = {name: _dot(unit, given) for given in [_unit_ranks(tokens[rows])] for name, unit in units.items()}
        for first, second in pairs:
            raw = _dot(units[first], units[second])
            drawn[first, second].append((raw, _partial(raw, by_length[first], by_length[second])))
    return [
        RankCorrelation(
            left=first,
            right=second,
            rows=len(tokens),
            spearman=spearman(columns[first], columns[second]),
            interval=_interval([raw for raw, _ in drawn[first, second]]),
            given_length=partial_spearman(columns[first], columns[second], tokens),
            given_length_interval=_interval([given for _, given in drawn[first, second]]),
        )
        for first, second in pairs
    ]


def _draws(rows: int, draws: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Row numbers of the draws, shape ``(some draws, rows)`` each time; none of too few rows to correlate."""
    if rows < 4:
        return
    random = np.random.default_rng(seed)
    some = max(1, CELLS // rows)
    for start in range(0, draws, some):
        yield random.integers(rows, size=(min(some, draws - start), rows))


def _unit_ranks(drawn: FloatArray) -> FloatArray:
    """Ranks of each draw, centred and of norm 1; NaN for a constant column."""
    ranks = rankdata(drawn, axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    norms = np.sqrt((ranks**2).sum(axis=1, keepdims=True))
    units: FloatArray = np.divide(ranks, norms, out=np.full_like(ranks, np.nan), where=norms > 0)
    return units


def _dot(first: FloatArray, second: FloatArray) -> FloatArray:
    dots: FloatArray = np.einsum("dr,dr->d", first, second)
    return dots


def _partial(raw: FloatArray, first: FloatArray, second: FloatArray) -> FloatArray:
    unexplained = (1 - first**2) * (1 - second**2)
    root = np.sqrt(np.where(unexplained > 1e-12, unexplained, np.nan))
    return np.clip((raw - first * second) / root, -1, 1)


def _interval(parts: list[FloatArray]) -> Interval:
    values = np.concatenate(parts) if parts else np.full(1, np.nan)
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return Interval(float("nan"), float("nan"))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))
