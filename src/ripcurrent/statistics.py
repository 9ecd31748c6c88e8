"""Every interval and test: shares and their differences, several comparisons, rank statistics of score columns.

Outcomes are arrays of shape ``(prompts, seeds)``, or ``(prompts,)`` for one run: 1 where the answer has the property
that is counted, 0 where not; a judge's score works too. Arms that are compared answer the same prompts in the same
order. The unit is the run: what is said of one run holds for that run alone, over prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, binomtest, norm, rankdata, t

FloatArray = npt.NDArray[np.float64]

CONFIDENCE = 0.95
DRAWS = 10_000
"""Draws of a bootstrap."""
RUN_SPREAD = 0.046
"""Standard deviation of a run's rate over draws and orders, as measured on the embedded model."""
Counts = tuple[float, float]
"""How often a judge was right, and of how many; fractions, too."""

USUAL_QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
"""The probabilities that tables and pages show."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Flips:
    """How two single runs differ, prompt by prompt."""

    gained: int
    """Prompts with the property in the second run alone."""
    lost: int
    """Prompts with the property in the first run alone."""


@dataclass(frozen=True, slots=True)
class Discrimination:
    """Whether a model refuses what is harmful rather than just refuses."""

    harmful_refused: float
    """Share of harmful requests refused."""
    benign_refused: float
    """Share of dangerous-sounding benign requests refused."""
    difference: float
    """The first minus the second: 1 is perfect judgement, 0 none."""
    difference_interval: Interval
    """Of the difference, from those of both rates (Newcombe 1998, method 10)."""
    d_prime: float
    """Distance of the two in standard deviations, counts corrected by one half (Hautus 1995): always finite."""


@dataclass(frozen=True, slots=True)
class RunDifference:
    """How far the rates of two groups of runs lie apart; shares, not points."""

    difference: float
    """The first group's mean rate less the second's."""
    low: float
    """95 % interval, Student's t."""
    high: float
    p: float
    """Two-sided p of no difference."""
    degrees: float
    """Welch–Satterthwaite degrees of freedom."""
    by_runs: bool
    """Whether runs vary in it; else it holds for these runs alone, over prompts."""


def wilson_interval(successes: int, n: int) -> Interval:
    """Wilson's score interval of a share in one run (Wilson 1927); ValueError without trials."""
    found = binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(float(found.low), float(found.high))


def rate_interval(table: FloatArray) -> Interval:
    """Interval of a share over runs: Student's t of several, Wilson's of one run or where all outcomes are equal.

    That of several runs is made as `run_difference`'s is. ``table`` is of shape ``(prompts, seeds)``, NaN where an
    answer has no label; without any outcome the interval is NaN.
    """
    there = np.isfinite(table)
    prompts = int(there.any(axis=1).sum())
    if not prompts:
        return Interval(np.nan, np.nan)
    rate = float(table[there].mean())
    if there.any(axis=0).sum() == 1 or rate in (0.0, 1.0):
        return wilson_interval(round(rate * prompts), prompts)
    found = mean_interval(table, (0.0, 1.0))
    return Interval(max(0.0, found.low), min(1.0, found.high))


def mean_interval(table: FloatArray, more: Sequence[float] = ()) -> Interval:
    """Student's t interval of a mean over prompts and runs, ``more`` prompts' outcomes counted in their variance.

    Of one run it is over prompts alone. ``table`` is of shape ``(prompts, seeds)``, NaN where there is no outcome.
    """
    there = np.isfinite(table)
    table = table[there.any(axis=1)][:, there.any(axis=0)]
    of_prompts, of_runs = np.nanmean(table, axis=1), np.nanmean(table, axis=0)
    spread = [*of_prompts, *more]
    over_prompts = [(float(np.var(spread)) / len(spread), len(spread) - 1.0)] if more else _of_mean(of_prompts)
    middle, (error, degrees) = float(np.nanmean(table)), _put_together([*over_prompts, *_of_mean(of_runs)])
    reach = float(t.isf((1 - CONFIDENCE) / 2, degrees)) * error
    return Interval(middle - reach, middle + reach)


def rogan_gladen(positives: float, n: float, sensitivity: Counts, specificity: Counts) -> tuple[float, Interval]:
    """A share that a judge counted, corrected for the judge's known errors, and its interval; both within 0 to 1.

    The share is (positives / n + specificity - 1) / (sensitivity + specificity - 1) (Rogan & Gladen 1978). The interval
    holds the middle of its posterior under Jeffreys' priors, averaged over what the counts say of the errors (Joseph,
    Gyorkos & Coupal 1995; Diggle 2011), the share, and 0 or 1 where a likelihood ratio does not speak against it. It
    does not shrink to 0 where the judge found fewer than its errors would give, as a normal approximation does. A judge
    no better than chance says nothing: NaN, and 0 to 1. ValueError for impossible counts.
    """
    if not 0 <= positives <= n or n <= 0:
        raise ValueError(f"{positives} of {n} is no share")
    false, gain = 1 - specificity[0] / specificity[1], _gain(sensitivity, specificity)
    if gain <= 0:
        return np.nan, Interval(0.0, 1.0)
    share = min(1.0, max(0.0, (positives / n - false) / gain))
    falses, gains = _likely_errors(sensitivity, specificity)
    grid = (np.arange(1000) + 0.5) / 1000
    called = falses + grid[:, None] * gains
    fit = positives * np.log(called) + (n - positives) * np.log1p(-called)
    likelihood, tail = np.exp(fit - fit.max()).sum(axis=1), (1 - CONFIDENCE) / 2
    weight = likelihood / np.sqrt(grid * (1 - grid))
    low, high = np.interp([tail, 1 - tail], weight.cumsum() / weight.sum(), grid)
    zero, one = likelihood[[0, -1]] > likelihood.max() * np.exp(-(norm.isf(tail) ** 2) / 2)
    return share, Interval(0.0 if zero else min(share, float(low)), 1.0 if one else max(share, float(high)))


def rogan_gladen_difference(
    difference: float, interval: Interval, sensitivity: Counts, specificity: Counts
) -> tuple[float, Interval]:
    """A difference of two shares that one judge counted, corrected for its errors, and its interval; within -1 to 1.

    The difference is divided by sensitivity + specificity - 1: errors that are the same before and after cancel else.
    ``interval`` is that of the difference as counted; each side is taken for that of a normal distribution, and the
    quotients with errors as likely as the counts say have these percentiles. One that excludes 0 still does. NaN, and
    -1 to 1, by a judge no better than chance. ValueError for impossible counts or an interval without the difference.
    """
    if interval.low > difference or interval.high < difference:
        raise ValueError(f"{interval} does not hold {difference}")
    gain = _gain(sensitivity, specificity)
    if gain <= 0:
        return np.nan, Interval(-1.0, 1.0)
    steps = norm.ppf((np.arange(400) + 0.5) / 400) / norm.isf((1 - CONFIDENCE) / 2)
    likely = difference + steps * np.where(steps < 0, difference - interval.low, interval.high - difference)
    quotients = np.clip(likely[:, None] / _likely_errors(sensitivity, specificity)[1], -1, 1)
    return min(1.0, max(-1.0, difference / gain)), percentiles(quotients.ravel())


def _gain(sensitivity: Counts, specificity: Counts) -> float:
    """Sensitivity + specificity - 1 (Youden's J); ValueError for impossible counts."""
    for right, of in (sensitivity, specificity):
        if not 0 <= right <= of or of <= 0:
            raise ValueError(f"{right} of {of} is no share")
    return sensitivity[0] / sensitivity[1] + specificity[0] / specificity[1] - 1


def _likely_errors(sensitivity: Counts, specificity: Counts) -> tuple[FloatArray, FloatArray]:
    """Pairs of 1 - specificity and Youden's J, equally likely by Jeffreys' posteriors; those above chance."""
    middles = (np.arange(40) + 0.5) / 40
    right, wrong = (beta.ppf(middles, is_so + 0.5, of - is_so + 0.5) for is_so, of in (sensitivity, specificity))
    gains = (right[:, None] + wrong - 1).ravel()
    falses = np.tile(1 - wrong, len(right))
    return falses[gains > 0], gains[gains > 0]


def run_difference(runs: npt.ArrayLike, control: npt.ArrayLike, *, fixed: bool = False) -> RunDifference:
    """The difference of two groups of runs, the run being the unit: a new draw of rows and a new order.

    Its variance is that of the mean of the runs' rates in each group, and the prompts' part: the variance over prompts
    of the seed-averaged difference, over their number, one prompt more counted in either direction (Bonett & Price
    2012). What runs and prompts vary in together counts in both, which is cautious. Degrees of freedom by Welch and
    Satterthwaite. A group of one run has no variance of its own: nothing is said of other runs, unless ``fixed`` says
    that one of the groups is a model that no run made. Both are outcomes ``(prompts, runs)`` of the same prompts.
    """
    groups = _paired(runs, control)
    differences = seed_differences(*groups)
    n = len(differences)
    counted = [table for table in groups if not fixed or table.shape[1] > 1]
    parts = [(smoothed_spread(differences) ** 2 / (n + 2), n + 1.0)]
    error, degrees = _put_together([*parts, *(part for table in counted for part in _of_mean(table.mean(axis=0)))])
    difference = float(differences.mean())
    reach = float(t.isf((1 - CONFIDENCE) / 2, degrees)) * error
    p = 2 * float(t.sf(abs(difference) / error, degrees))
    by_runs = bool(counted) and all(table.shape[1] > 1 for table in counted)
    return RunDifference(difference, max(-1.0, difference - reach), min(1.0, difference + reach), p, degrees, by_runs)


def _of_mean(values: FloatArray) -> list[tuple[float, float]]:
    """The variance of their mean, and its degrees of freedom; nothing of one value."""
    count = len(values)
    return [(float(np.var(values, ddof=1)) / count, count - 1.0)] if count > 1 else []


def _put_together(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Standard error of a variance in parts, and its degrees of freedom (Welch 1947, Satterthwaite 1946)."""
    variance = sum(part for part, _ in parts)
    return sqrt(variance), variance**2 / sum(part**2 / free for part, free in parts)


def smoothed_spread(differences: FloatArray) -> float:
    """Standard deviation over prompts with one prompt more in either direction: never 0."""
    return float(np.std([*differences, 1.0, -1.0]))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979)."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def pooled_spread(tables: Sequence[FloatArray]) -> float | None:
    """Standard deviation of a run's rate around its group's mean, over groups; None where none has two runs."""
    rates = [table.mean(axis=0) for table in tables if table.shape[1] > 1]
    degrees = sum(len(group) - 1 for group in rates)
    return sqrt(sum(float(np.var(group)) * len(group) for group in rates) / degrees) if degrees else None


def minimum_detectable_effect(
    differences: FloatArray, runs: Sequence[int], spread: float | None, *, alpha: float = 0.05, power: float = 0.8
) -> float:
    """The smallest true difference that `run_difference` finds with this power.

    ``(t_(1 - alpha/2) + t_power)`` standard errors. ``differences`` are the seed-averaged ones of the prompts, ``runs``
    how many each group that varies has, two or more, and ``spread`` is the standard deviation of a run's rate,
    `RUN_SPREAD` if None. ``alpha`` is of one comparison: divide it by the number of arms for Holm's first step.
    """
    n, own = len(differences), RUN_SPREAD if spread is None else spread
    parts = [(smoothed_spread(differences) ** 2 / (n + 2), n + 1.0), *((own**2 / k, k - 1.0) for k in runs)]
    error, degrees = _put_together(parts)
    return float(t.isf(alpha / 2, degrees) + t.isf(1 - power, degrees)) * error


def d_prime(hit_rate: float, false_alarm_rate: float) -> float:
    """``z(hit rate) - z(false-alarm rate)`` (Macmillan & Creelman); infinite at rates of 0 or 1."""
    return float(norm.ppf(hit_rate) - norm.ppf(false_alarm_rate))


def discrimination(harmful_refused: FloatArray, benign_refused: FloatArray) -> Discrimination | None:
    """Refusals of harmful requests against refusals of benign ones that sound dangerous; None without either.

    The distances of both rates to the ends of their own intervals are put together by their squares (Newcombe 1998,
    method 10), as though they varied apart: runs that refuse more of either make it too wide. Both are outcomes of
    refusal, shape ``(prompts, seeds)``, of the same runs; prompts with NaN are left out.
    """
    kinds = [table[np.isfinite(table).all(axis=1)] for table in (harmful_refused, benign_refused)]
    if not all(table.size for table in kinds):
        return None
    first, second = (float(table.mean()) for table in kinds)
    difference = first - second
    harmful, benign = (rate_interval(table) for table in kinds)
    low = difference - np.hypot(first - harmful.low, benign.high - second)
    high = difference + np.hypot(harmful.high - first, second - benign.low)
    interval = Interval(max(-1.0, float(low)), min(1.0, float(high)))
    corrected = [(table.sum() + 0.5) / (table.size + 1) for table in kinds]
    return Discrimination(first, second, difference, interval, d_prime(*corrected))


def _as_outcomes(outcomes: npt.ArrayLike) -> FloatArray:
    """Outcomes as an array ``(prompts, seeds)``."""
    table = np.asarray(outcomes, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or table.size == 0 or not np.isfinite(table).all():
        raise ValueError(f"outcomes are finite and of shape (prompts, seeds), not {table.shape}")
    return table


def _paired(arm: npt.ArrayLike, control: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Two outcome tables of the same prompts; raises ValueError where their numbers of prompts differ."""
    first, second = _as_outcomes(arm), _as_outcomes(control)
    if first.shape[0] != second.shape[0]:
        raise ValueError(f"arms answer different prompts: {first.shape[0]} and {second.shape[0]}")
    return first, second


def seed_differences(arm: npt.ArrayLike, control: npt.ArrayLike) -> FloatArray:
    """Each prompt's outcome averaged over the arm's seeds less that over the control's, shape ``(prompts,)``."""
    first, second = _paired(arm, control)
    differences: FloatArray = first.mean(axis=1) - second.mean(axis=1)
    return differences


def percentiles(values: FloatArray) -> Interval:
    """The interval that holds the middle of what was drawn; NaN of nothing."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail]) if len(values) else (np.nan, np.nan)
    return Interval(float(low), float(high))


def spearman(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Spearman's rank correlation of two columns, average ranks for ties.

    Rows where either column is not finite are left out. NaN where it is not defined: fewer than three complete rows, or
    a constant column. ValueError for columns of different lengths.
    """
    first, second = (np.asarray(column, dtype=np.float64).ravel() for column in (x, y))
    if len(first) != len(second):
        raise ValueError(f"columns of different lengths: {len(first)} and {len(second)}")
    complete = np.isfinite(first) & np.isfinite(second)
    first, second = first[complete], second[complete]
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def auroc(positives: npt.ArrayLike, negatives: npt.ArrayLike) -> float:
    """The chance that a positive scores above a negative, ties counting one half (area under the ROC curve).

    ValueError where a group is empty or holds NaN: no separation was measured, and a number would hide it.
    """
    high, low = (np.asarray(group, dtype=np.float64).ravel() for group in (positives, negatives))
    scores = np.concatenate([high, low])
    if not (len(high) and len(low)) or np.isnan(scores).any():
        raise ValueError("auroc needs scores of positives and of negatives, without NaN")
    wins = float(rankdata(scores)[: len(high)].sum()) - len(high) * (len(high) + 1) / 2
    return wins / (len(high) * len(low))


def quantiles(values: npt.ArrayLike, at: Sequence[float] = USUAL_QUANTILES) -> dict[float, float]:
    """From probability to quantile of the finite values of a column, linear between neighbours; NaN without any."""
    column = np.asarray(values, dtype=np.float64)
    finite = column[np.isfinite(column)]
    return dict(zip(at, np.quantile(finite, at).tolist() if len(finite) else [float("nan")] * len(at), strict=True))
