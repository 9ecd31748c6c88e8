"""Intervals, tests and rank statistics against plain loops, scipy's own counterparts, and textbook values."""

import math
import random
from statistics import variance

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from research.tables import partial_spearman
from scipy.stats import t, ttest_1samp, ttest_ind

from ripcurrent.statistics import (
    Interval,
    auroc,
    d_prime,
    discrimination,
    holm,
    mean_interval,
    minimum_detectable_effect,
    pooled_spread,
    quantiles,
    rate_interval,
    rogan_gladen,
    rogan_gladen_difference,
    run_difference,
    spearman,
    wilson_interval,
)

# Few distinct values, so that ties are common.
value = st.integers(min_value=-4, max_value=4).map(float)


def runs(share, prompts, seeds, generator, shift=0.15):
    """Outcomes with a prompt's own difficulty and a run's own shift, as real ones have."""
    ease = np.random.default_rng(prompts).normal(size=(prompts, 1)) + shift * generator.normal(size=(1, seeds))
    threshold = t.ppf(share, 10**6) * (2 + shift**2) ** 0.5
    return (ease + generator.normal(size=(prompts, seeds)) < threshold) * 1.0


def test_wilson_interval_of_a_published_example():
    """81 of 263: 0.2553 to 0.3662 (Newcombe, Statistics in Medicine 1998, table I, method 3)."""
    found = wilson_interval(81, 263)
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def loop_parts(differences, *groups):
    """Parts of a variance with their degrees of freedom: of prompts, then of each group of runs' rates."""
    n = len(differences)
    parts = [(variance(differences) * (n - 1) / n / n, n - 1)]
    return parts + [(variance(rates) / len(rates), len(rates) - 1) for rates in groups if len(rates) > 1]


def reach(parts):
    """Half an interval, its standard error and its degrees of freedom."""
    whole = sum(part for part, _ in parts)
    degrees = whole**2 / sum(part**2 / free for part, free in parts)
    return t.isf(0.025, degrees) * math.sqrt(whole), math.sqrt(whole), degrees


@settings(deadline=None)
@given(st.integers(2, 30), st.integers(1, 4), st.integers(1, 4), st.booleans(), st.integers(0, 99))
def test_the_difference_of_runs_by_plain_loops(n, first, second, fixed, seed):
    generator = np.random.default_rng(seed)
    arm, control = (generator.integers(0, 2, (n, k)).astype(float) for k in (first, second))
    differences = [sum(a) / first - sum(c) / second for a, c in zip(arm.tolist(), control.tolist(), strict=True)]
    rates = [[sum(column) / n for column in table.T.tolist()] for table in (arm, control)]
    half, error, degrees = reach(loop_parts([*differences, 1, -1], *rates))
    found, middle = run_difference(arm, control, fixed=fixed), sum(differences) / n
    assert (found.difference, found.degrees) == pytest.approx((middle, degrees))
    assert (found.low, found.high) == pytest.approx((max(-1, middle - half), min(1, middle + half)))
    assert found.p == pytest.approx(2 * t.sf(abs(middle) / error, degrees))
    assert found.by_runs == ((first > 1 or second > 1) if fixed else (first > 1 and second > 1))


def test_the_difference_of_runs_is_welchs_where_prompts_do_not_vary():
    rates, others = [0.52, 0.31, 0.40], [0.22, 0.25]
    arm, control = (np.tile(one, (200_000, 1)) for one in (rates, others))
    welch, found = ttest_ind(rates, others, equal_var=False), run_difference(arm, control)
    interval = welch.confidence_interval()
    assert (found.p, found.degrees) == pytest.approx((welch.pvalue, welch.df), rel=1e-4)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-4)
    # a model that no run made has no spread
    alone = run_difference(arm, control[:, :1], fixed=True)
    assert alone.p == pytest.approx(ttest_1samp(rates, others[0]).pvalue, rel=1e-4)
    for first, says in (
        ([], "outcomes are finite"),
        ([math.nan], "outcomes are finite"),
        ([1, 1], "different prompts"),
    ):
        with pytest.raises(ValueError, match=says):
            run_difference(first, [1])


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_runs_that_differ_in_luck_alone_are_seldom_called_different(seeds):
    generator = np.random.default_rng(0)
    found = [run_difference(*(runs(0.3, 60, seeds, generator) for _ in range(2))) for _ in range(400)]
    assert np.mean([one.p < 0.05 for one in found]) <= 0.06
    assert np.mean([one.low > 0 for one in found]) <= 0.035


@settings(deadline=None)
@given(st.integers(2, 30), st.integers(2, 4), st.integers(0, 99))
def test_a_rates_interval_over_runs_by_plain_loops(n, seeds, seed):
    table = np.random.default_rng(seed).integers(0, 2, (n, seeds)).astype(float)
    middle, prompts = table.mean(), table.mean(axis=1).tolist()
    assume(middle not in (0, 1))
    half, *_ = reach(loop_parts([*prompts, 0, 1], table.mean(axis=0).tolist()))
    found = rate_interval(table)
    assert (found.low, found.high) == pytest.approx((max(0, middle - half), min(1, middle + half)))


def test_a_rates_interval_is_wilsons_of_one_run_and_of_equal_outcomes():
    one = np.array([1, 0, 0, math.nan, 1, 0])[:, None]
    assert rate_interval(one) == wilson_interval(2, 5)
    assert rate_interval(np.zeros((10, 2))) == wilson_interval(0, 10)
    several = runs(0.4, 20, 3, np.random.default_rng(0))
    several[::2, 1] = math.nan
    assert rate_interval(several).low < np.nanmean(several) < rate_interval(several).high
    assert math.isnan(rate_interval(np.full((2, 2), math.nan)).low)
    # of scores of one run: the usual one over prompts
    scores = np.array([1.0, 2.0, 2.0, 5.0])
    usual = ttest_1samp(scores, 0).confidence_interval()
    found = mean_interval(scores[:, None])
    assert (found.low, found.high) == pytest.approx((usual.low, usual.high))


@pytest.mark.parametrize(("positives", "right", "of"), [(60, 40, 50), (12, 9.2, 10), (0, 40, 50), (170, 40, 50)])
def test_a_corrected_share_and_difference_are_those_of_a_loop_over_draws(positives, right, of):
    draw, n, sensitivity, specificity = random.Random(0), 179, (45, 50), (right, of)
    shares, weights, quotients = [], [], []
    for _ in range(60_000):
        yes, no = (draw.betavariate(is_so + 0.5, all_of - is_so + 0.5) for is_so, all_of in (sensitivity, specificity))
        share = draw.betavariate(0.5, 0.5)
        called = share * yes + (1 - share) * (1 - no)
        shares.append(share)
        weights.append(called**positives * (1 - called) ** (n - positives) if yes + no > 1 else 0.0)
        quotients.append(draw.gauss(0.2, 0.05) / (yes + no - 1))
    order = np.argsort(shares)
    passed = np.cumsum(np.array(weights)[order]) / sum(weights)
    low, high = (shares[order[np.searchsorted(passed, at)]] for at in (0.025, 0.975))
    share, interval = rogan_gladen(positives, n, sensitivity, specificity)
    assert share == pytest.approx(min(1, max(0, (positives / n + right / of - 1) / (0.9 + right / of - 1))))
    assert interval.low in (0.0, pytest.approx(low, abs=0.02))
    assert interval.high in (1.0, pytest.approx(high, abs=0.02))
    assert interval.low <= share <= interval.high
    reach = 0.05 * 1.959964
    difference, around = rogan_gladen_difference(0.2, Interval(0.2 - reach, 0.2 + reach), sensitivity, specificity)
    assert difference == pytest.approx(0.2 / (0.9 + right / of - 1))
    assert (around.low, around.high) == pytest.approx(np.quantile(quotients, [0.025, 0.975]), abs=0.02)


def test_what_corrections_are_at_their_ends():
    """Few answered by a judge that errs often do not prove that none are, and a good judge leaves what it counts."""
    share, interval = rogan_gladen(0, 179, (20, 21), (9, 10))
    assert (share, interval.low) == (0.0, 0.0)
    assert 0.01 < interval.high < 0.03
    assert rogan_gladen(50, 100, (10**6, 10**6), (10**6, 10**6))[1].low == pytest.approx(0.403, abs=0.003)
    assert math.isnan(rogan_gladen(5, 10, (1, 2), (1, 2))[0])
    assert math.isnan(rogan_gladen_difference(0.1, Interval(0, 0.2), (1, 2), (1, 2))[0])
    assert rogan_gladen_difference(0.1, Interval(0.001, 0.2), (20, 21), (2, 2.5))[1].low > 0
    for bad in ((1, 2, (0, 0), (1, 1)), (1, 2, (3, 2), (1, 1)), (3, 2, (1, 1), (1, 1))):
        with pytest.raises(ValueError, match="is no share"):
            rogan_gladen(*bad)


def test_holm_worked_by_hand():
    """0.01, 0.04, 0.03, 0.005 at four tests become 0.03, 0.06, 0.06, 0.02: 4·0.005, 3·0.01, 2·0.03, then no smaller."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.6, 0.5]) == [1.0, 1.0, 1.0]
    assert holm([]) == []


def test_minimum_detectable_effect_by_its_formula():
    """Five runs an arm that spread by 4.6 points find 9.3 at 80 % power: (2.306 + 0.889) · 0.046 · sqrt(2/5)."""
    assert minimum_detectable_effect(np.zeros(10**6), (5, 5), 0.046) == pytest.approx(0.0930, abs=2e-4)
    first, second = (runs(share, 100, 4, np.random.default_rng(0)) for share in (0.3, 0.4))
    differences = first.mean(axis=1) - second.mean(axis=1)
    effect = minimum_detectable_effect(differences, (4, 4), None)
    assert minimum_detectable_effect(differences, (4, 4), 0.1) > effect
    assert minimum_detectable_effect(differences, (4, 4), None, alpha=0.01) > effect
    rates = np.array([[0.0, 0.2, 0.4], [0.3, 0.3, 0.3]])
    assert pooled_spread([np.tile(own, (5, 1)) for own in rates]) == pytest.approx(0.2 / math.sqrt(2))
    assert pooled_spread([np.ones((5, 1))]) is None


def test_discrimination_tells_lost_judgement_from_lost_over_caution():
    """d′ of 20 of 25 hits and 10 of 25 false alarms: 0.842 + 0.253 (Stanislaw & Todorov 1999)."""
    assert d_prime(20 / 25, 10 / 25) == pytest.approx(1.095, abs=1e-3)

    def refused(harmful, benign):
        return discrimination(*(np.repeat([[1.0], [0.0]], [of, 100 - of], axis=0) for of in (harmful, benign)))

    judging = refused(90, 10)
    assert judging.difference == pytest.approx(0.8)
    assert judging.difference_interval.low < 0.8 < judging.difference_interval.high
    assert judging.d_prime == pytest.approx(d_prime(90.5 / 101, 10.5 / 101))
    for other in (refused(100, 100), refused(0, 0)):
        assert (other.difference, other.d_prime) == (0, pytest.approx(0))
    assert math.isfinite(refused(100, 0).d_prime)
    assert discrimination(np.full((2, 1), math.nan), np.ones((3, 1))) is None


def loop_ranks(values):
    """Average rank of each value, counted pair by pair."""
    return [sum(other < v for other in values) + (sum(other == v for other in values) + 1) / 2 for v in values]


@given(st.lists(st.tuples(value, value), min_size=3, max_size=30))
def test_spearman_is_the_correlation_of_average_ranks(pairs):
    x, y = zip(*pairs, strict=True)
    defined = len(set(x)) > 1 < len(set(y))
    expected = np.corrcoef(loop_ranks(x), loop_ranks(y))[0, 1] if defined else math.nan
    assert spearman(x, y) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_correlation_leaves_out_unscored_rows_and_says_nan_when_it_is_undefined():
    length = np.random.default_rng(0).normal(size=4000)
    x, y = length + 0.5 * np.random.default_rng(1).normal(size=(2, 4000))
    assert spearman(x, y) > 0.7
    assert abs(partial_spearman(x, y, length)) < 0.06, "it runs through length alone"
    assert spearman([1, 2, math.nan, 3], [1, 2, 9, 3]) == pytest.approx(1.0)
    assert math.isnan(spearman([1, 2], [1, 2]))
    assert math.isnan(spearman([5, 5, 5, 5], [1, 2, 3, 4]))
    assert math.isnan(partial_spearman([1, 2, 3, 4], [4, 1, 3, 2], [1, 2, 3, 4]))
    with pytest.raises(ValueError, match="different lengths"):
        spearman([1, 2, 3], [1, 2])


@given(st.lists(value, min_size=1, max_size=25), st.lists(value, min_size=1, max_size=25))
def test_auroc_counts_pairs_with_half_for_ties(positives, negatives):
    wins = sum(1.0 if p > n else 0.5 if p == n else 0.0 for p in positives for n in negatives)
    assert auroc(positives, negatives) == pytest.approx(wins / (len(positives) * len(negatives)), abs=1e-12)
    assert auroc(positives, negatives) + auroc(negatives, positives) == pytest.approx(1.0)


@pytest.mark.parametrize(("positives", "negatives"), [([], [1.0]), ([1.0], []), ([math.nan], [1.0])])
def test_auroc_refuses_to_invent_a_number(positives, negatives):
    with pytest.raises(ValueError, match="auroc needs"):
        auroc(positives, negatives)


@given(st.lists(value, min_size=1, max_size=40), st.floats(min_value=0, max_value=1))
def test_quantiles_interpolate_between_sorted_neighbours(values, probability):
    expected = np.interp(probability * (len(values) - 1), range(len(values)), sorted(values))
    assert quantiles([*values, math.nan], [probability])[probability] == pytest.approx(expected, abs=1e-9)
    assert all(math.isnan(v) for v in quantiles([math.nan]).values())
