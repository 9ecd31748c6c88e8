"""Every interval and test: shares and their differences, several comparisons, rank statistics of score columns.

Outcomes are arrays of shape ``(prompts, seeds)``, or ``(prompts,)`` for one run: 1 where the answer has the property
that is counted, 0 where not; a judge's score works too. Arms that are compared answer the same prompts in the same
order. Tests over prompts are conditional on the runs at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, norm, permutation_test, rankdata

FloatArray = npt.NDArray[np.float64]

CONFIDENCE = 0.95
"""Of every interval."""
DRAWS = 10_000
"""Draws of a bootstrap or of a permutation test that is not exact."""
_BATCH = 500

USUAL_QUANTILES: tuple[float, ...] = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
"""The probabilities that tables and pages show unless told otherwise."""

SMALLEST_SAMPLE = 3
"""Fewer complete rows than this carry no correlation."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval."""

    low: float
    """Lower end."""
    high: float
    """Upper end."""


@dataclass(frozen=True, slots=True)
class Flips:
    """How two runs differ, prompt by prompt (McNemar)."""

    gained: int
    """Prompts with the property in the second run alone."""
    lost: int
    """Prompts with the property in the first run alone."""
    p: float
    """Exact two-sided p: gains and losses are equally likely."""


@dataclass(frozen=True, slots=True)
class Trend:
    """Whether a rate rises over ordered bins."""

    slope: float
    """Least-squares rise of the rate from one bin to the next."""
    p: float
    """Two-sided permutation p over prompts; never 0."""


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
    """Of the difference, prompts of either kind and seeds drawn anew."""
    d_prime: float
    """Distance of the two in standard deviations, counts corrected by one half (Hautus 1995): always finite."""


def wilson_interval(successes: int, n: int) -> Interval:
    """Wilson's score interval of a share in one run (Wilson 1927).

    Raises:
        ValueError: No trials, or more successes than trials.
    """
    found = binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(float(found.low), float(found.high))


def rate(outcomes: npt.ArrayLike) -> float:
    """The mean outcome over prompts and seeds."""
    return float(as_outcomes(outcomes).mean())


def seed_rates(outcomes: npt.ArrayLike) -> tuple[float, ...]:
    """The rate of each seed: the spread that stands beside every claim."""
    return tuple(as_outcomes(outcomes).mean(axis=0).tolist())


def bootstrap_rate(outcomes: npt.ArrayLike, *, seed: int = 0) -> Interval:
    """Two-level bootstrap interval of the rate: prompts and seeds are each drawn anew with replacement.

    A draw takes whole runs and whole prompts (they are crossed: every run answers every prompt). With few seeds it
    understates the spread between them, by a factor of (seeds - 1) / seeds in variance: one seed has none.
    """
    table = as_outcomes(outcomes)
    generator = np.random.default_rng(seed)
    prompts = _draw(table.shape[0], generator)
    return _percentiles(_weighted(table, prompts, _draw(table.shape[1], generator)))


def bootstrap_difference(arm: npt.ArrayLike, control: npt.ArrayLike, *, seed: int = 0) -> Interval:
    """Two-level bootstrap interval of ``rate(arm) - rate(control)``: the same prompts drawn for both, seeds for each.

    Raises:
        ValueError: The two do not answer the same number of prompts.
    """
    first, second = paired(arm, control)
    generator = np.random.default_rng(seed)
    prompts = _draw(first.shape[0], generator)
    drawn_first = _weighted(first, prompts, _draw(first.shape[1], generator))
    return _percentiles(drawn_first - _weighted(second, prompts, _draw(second.shape[1], generator)))


def sign_flip_test(arm: npt.ArrayLike, control: npt.ArrayLike, *, draws: int = DRAWS, seed: int = 0) -> float:
    """Two-sided permutation p of "no difference": each prompt's difference, averaged over seeds, may change its sign.

    Exact where there are at most ``draws`` patterns of signs over the prompts that differ, else Monte Carlo with the
    observed pattern counted in (Phipson & Smyth 2010), so that p is never 0.

    Raises:
        ValueError: The two do not answer the same number of prompts.
    """
    differences = seed_differences(arm, control)
    # A prompt without a difference has the same one under either sign: leaving it out makes more cases exact.
    differing = differences[np.abs(differences) > 1e-12]
    if len(differing) == 0:
        return 1.0
    if len(differing) == 1 or abs(differing.sum()) < 1e-9:
        # Both signs of one difference are as extreme (scipy asks for two observations), and every pattern of signs is
        # at least as extreme as no difference on the whole, which rounding would hide from scipy.
        return 1.0
    found = permutation_test(
        (differing,),
        lambda values, axis: values.sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=draws,
        batch=_BATCH,
        random_state=np.random.default_rng(seed),
    )
    return min(1.0, float(found.pvalue))


def mcnemar(first: npt.ArrayLike, second: npt.ArrayLike) -> Flips:
    """Exact McNemar test of the flips between two single runs on the same prompts (McNemar 1947).

    Raises:
        ValueError: Not one run each, not the same prompts, or outcomes that are not 0 or 1.
    """
    before, after = paired(first, second)
    if before.shape[1] != 1 or after.shape[1] != 1:
        raise ValueError("McNemar's test compares two single runs; several seeds need the sign-flip test")
    if not np.isin([before, after], (0, 1)).all():
        raise ValueError("McNemar's test needs outcomes of 0 or 1")
    gained, lost = int(((before == 0) & (after == 1)).sum()), int(((before == 1) & (after == 0)).sum())
    p = float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0
    return Flips(gained=gained, lost=lost, p=p)


def trend_test(bins: Sequence[npt.ArrayLike], *, draws: int = DRAWS, seed: int = 0) -> Trend:
    """Whether the rate rises over equally spaced bins; the bins of each prompt are permuted.

    The statistic is that of the Cochran-Armitage test, ``sum_k (k - mean k) rate_k``; as the same prompts answer in
    every bin, its null distribution comes from permuting each prompt's seed-averaged outcomes among the bins.

    Args:
        bins: Outcomes of each bin, lowest first, all on the same prompts; two bins or more.
        draws: Permutations; the observed order is counted in, so that p is never 0.
        seed: Seed of the permutations.

    Raises:
        ValueError: Fewer than two bins, or bins of different prompts.
    """
    if len(bins) < 2:
        raise ValueError("a trend needs two bins or more")
    tables = [as_outcomes(outcomes).mean(axis=1) for outcomes in bins]
    if len({len(table) for table in tables}) != 1:
        raise ValueError(f"bins of different prompts: {[len(table) for table in tables]}")
    by_prompt = np.stack(tables, axis=1)
    scores = np.arange(len(bins)) - (len(bins) - 1) / 2
    observed = float((by_prompt @ scores).sum())
    generator = np.random.default_rng(seed)
    extreme = 0
    for _ in range(draws):
        permuted = float((generator.permuted(by_prompt, axis=1) @ scores).sum())
        extreme += abs(permuted) >= abs(observed) - 1e-9
    slope = observed / by_prompt.shape[0] / float((scores**2).sum())
    return Trend(slope=slope, p=(extreme + 1) / (draws + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979).

    Raises:
        ValueError: A p outside [0, 1].
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError("a p-value lies between 0 and 1")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def minimum_detectable_effect(prompts: int, spread: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest true mean difference that a paired two-sided comparison finds with this power.

    ``(z_(1 - alpha/2) + z_power) * spread / sqrt(prompts)``, the normal approximation (Cohen 1988, chapter 2).

    Args:
        prompts: Number of prompts.
        spread: Standard deviation over prompts of the seed-averaged differences; for single runs of 0 and 1 about
            the root of the share of prompts that flip.
        alpha: Level of one comparison; divide by the number of arms for Holm's first step.
        power: Chance of finding it.
    """
    return float((norm.isf(alpha / 2) + norm.isf(1 - power)) * spread / sqrt(prompts))


def d_prime(hit_rate: float, false_alarm_rate: float) -> float:
    """``z(hit rate) - z(false-alarm rate)`` (Macmillan & Creelman); infinite at rates of 0 or 1."""
    return float(norm.ppf(hit_rate) - norm.ppf(false_alarm_rate))


def discrimination(harmful_refused: npt.ArrayLike, benign_refused: npt.ArrayLike, *, seed: int = 0) -> Discrimination:
    """Refusals of harmful requests against refusals of benign ones that sound dangerous, from the same runs.

    Args:
        harmful_refused: Outcomes of refusal, shape ``(harmful prompts, seeds)``.
        benign_refused: The same of other prompts and the same runs, shape ``(benign prompts, seeds)``.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: Different numbers of seeds.
    """
    harmful, benign = as_outcomes(harmful_refused), as_outcomes(benign_refused)
    if harmful.shape[1] != benign.shape[1]:
        raise ValueError(f"runs differ: {harmful.shape[1]} seeds of harmful and {benign.shape[1]} of benign prompts")
    generator = np.random.default_rng(seed)
    runs = _draw(harmful.shape[1], generator)
    drawn = [_weighted(table, _draw(table.shape[0], generator), runs) for table in (harmful, benign)]
    corrected = [(table.sum() + 0.5) / (table.size + 1) for table in (harmful, benign)]
    return Discrimination(
        harmful_refused=float(harmful.mean()),
        benign_refused=float(benign.mean()),
        difference=float(harmful.mean() - benign.mean()),
        difference_interval=_percentiles(drawn[0] - drawn[1]),
        d_prime=d_prime(*corrected),
    )


def as_outcomes(outcomes: npt.ArrayLike) -> FloatArray:
    """Outcomes as an array ``(prompts, seeds)``.

    Raises:
        ValueError: No outcome, more than two axes, or a value that is not finite.
    """
    table = np.asarray(outcomes, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or table.size == 0 or not np.isfinite(table).all():
        raise ValueError(f"outcomes are finite and of shape (prompts, seeds), not {table.shape}")
    return table


def paired(arm: npt.ArrayLike, control: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Two outcome tables of the same prompts; raises ValueError where their numbers of prompts differ."""
    first, second = as_outcomes(arm), as_outcomes(control)
    if first.shape[0] != second.shape[0]:
        raise ValueError(f"arms answer different prompts: {first.shape[0]} and {second.shape[0]}")
    return first, second


def seed_differences(arm: npt.ArrayLike, control: npt.ArrayLike) -> FloatArray:
    """Each prompt's outcome averaged over the arm's seeds less that over the control's, shape ``(prompts,)``."""
    first, second = paired(arm, control)
    differences: FloatArray = first.mean(axis=1) - second.mean(axis=1)
    return differences


def _draw(count: int, generator: np.random.Generator) -> FloatArray:
    """How often each of ``count`` things is drawn, as shares, in each of `DRAWS` draws with replacement."""
    return generator.multinomial(count, np.full(count, 1 / count), size=DRAWS) / count


def _weighted(table: FloatArray, prompts: FloatArray, seeds: FloatArray) -> FloatArray:
    rates: FloatArray = ((prompts @ table) * seeds).sum(axis=1)
    return rates


def _percentiles(values: FloatArray) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))


def spearman(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Spearman's rank correlation of two columns, average ranks for ties.

    Rows where either column is not finite are left out. NaN where it is not defined: fewer than three complete rows, or
    a constant column.

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

    Rows where any column is not finite are left out. NaN where it is not defined: fewer than four complete rows, a
    constant column, or a column whose ranks ``given`` determines entirely.

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

    Returns probability to quantile, in the order asked for; NaN throughout when no value is finite.

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
