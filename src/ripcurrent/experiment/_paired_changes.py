"""Paired changes of one column: how much it moves row by row, with an interval and two tests of "no change"."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, wilcoxon

from ripcurrent.evaluate import Interval

FloatArray = npt.NDArray[np.float64]

DRAWS = 10_000
"""Bootstrap draws of rows."""
CONFIDENCE = 0.95
"""Of the interval."""
ALPHA = 0.05
"""An adjusted p below this is told as a change beyond chance."""
CELLS = 2_000_000
"""Values that are drawn at once."""


def beyond_chance(p: float | None) -> bool:
    """Whether an adjusted p says so; of very many rows that all move one way it is 0, of none there is no p."""
    return p is not None and p < ALPHA


@dataclass(frozen=True, slots=True)
class PairedChange:
    """What a change of the rows does to one column; NaN where there are too few rows to say."""

    rows: int
    """Rows with a value before and after."""
    before: float
    """Mean before."""
    after: float
    """Mean after."""
    mean: float
    """Mean change, after less before."""
    interval: Interval
    """95 % percentile bootstrap interval of the mean change, over rows."""
    median: float
    """Median change."""
    increased: float
    """Share of rows whose value rises."""
    decreased: float
    """Share of rows whose value falls."""
    sign_p: float
    """Exact two-sided sign test: rises and falls are equally likely; rows without a change are left out."""
    wilcoxon_p: float
    """Two-sided signed-rank test of changes symmetric about 0 (Wilcoxon 1945); rows without a change are left out."""

    def as_json(self) -> dict[str, float | int | None]:
        """Flat, null for what is not defined."""
        numbers = {
            "before": self.before,
            "after": self.after,
            "mean_change": self.mean,
            "low": self.interval.low,
            "high": self.interval.high,
            "median_change": self.median,
            "increased": self.increased,
            "decreased": self.decreased,
            "sign_p": self.sign_p,
            "wilcoxon_p": self.wilcoxon_p,
        }
        return {
            "rows": self.rows,
            **{name: float(f"{value:.6g}") if np.isfinite(value) else None for name, value in numbers.items()},
        }


def paired_change(before: npt.ArrayLike, after: npt.ArrayLike, *, draws: int = DRAWS, seed: int = 0) -> PairedChange:
    """The change of a column over the rows where both values are finite.

    Args:
        before: One value per row, shape ``(rows,)``.
        after: The same rows' values after the change.
        draws: Bootstrap draws.
        seed: Their seed.

    Raises:
        ValueError: Columns of different lengths.
    """
    first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"columns of shapes {first.shape} and {second.shape}")
    complete = np.isfinite(first) & np.isfinite(second)
    first, second = first[complete], second[complete]
    changes = second - first
    nothing = float("nan")
    if len(changes) == 0:
        return PairedChange(0, nothing, nothing, nothing, Interval(nothing, nothing), *[nothing] * 5)
    rises, falls = int((changes > 0).sum()), int((changes < 0).sum())
    return PairedChange(
        rows=len(changes),
        before=float(first.mean()),
        after=float(second.mean()),
        mean=float(changes.mean()),
        interval=_interval(changes, draws, seed),
        median=float(np.median(changes)),
        increased=rises / len(changes),
        decreased=falls / len(changes),
        sign_p=float(binomtest(rises, rises + falls, 0.5).pvalue) if rises + falls else 1.0,
        wilcoxon_p=float(wilcoxon(changes[changes != 0]).pvalue) if rises + falls else 1.0,
    )


def _interval(changes: FloatArray, draws: int, seed: int) -> Interval:
    random = np.random.default_rng(seed)
    some = max(1, CELLS // len(changes))
    means = [
        changes[random.integers(len(changes), size=(min(some, draws - start), len(changes)))].mean(axis=1)
        for start in range(0, draws, some)
    ]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Interval(float(low), float(high))
