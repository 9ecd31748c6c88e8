"""Intervals, tests and rank statistics against plain loops, scipy's own counterparts, and textbook values."""

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from research.tables import partial_spearman

from ripcurrent.statistics import (
    DRAWS,
    Interval,
    auroc,
    bootstrap_rate,
    d_prime,
    difference_interval,
    discrimination,
    holm,
    mcnemar,
    minimum_detectable_effect,
    quantiles,
    rate_interval,
    rogan_gladen,
    rogan_gladen_difference,
    sign_flip_test,
    spearman,
    wilson_interval,
)

# Few distinct values, so that ties are common.
value = st.integers(min_value=-4, max_value=4).map(float)


def runs(rates, prompts, seeds, generator):
    """Outcomes with a prompt's own difficulty, as real prompts have."""
    ease = generator.normal(size=(prompts, 1))
    threshold = np.quantile(generator.normal(size=4000) * 2**0.5, rates)
    return (ease + generator.normal(size=(prompts, seeds)) < threshold) * 1


def width(interval):
    return interval.high - interval.low


@given(st.integers(1, 300), st.data())
def test_wilson_interval_by_its_formula_and_of_a_published_example(n, data):
    """81 of 263: 0.2553 to 0.3662 (Newcombe, Statistics in Medicine 1998, table I, method 3)."""
    k, z = data.draw(st.integers(0, n)), 1.959963984540054
    share = k / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    found, published = wilson_interval(k, n), wilson_interval(81, 263)
    assert (found.low, found.high) == pytest.approx((max(0, middle - reach), min(1, middle + reach)), abs=1e-9)
    assert (published.low, published.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def loop_bootstrap(arm, control, draws, generator):
    values = []
    for _ in range(draws):
        prompts = generator.integers(len(arm), size=len(arm))
        mine = generator.integers(arm.shape[1], size=arm.shape[1])
        theirs = generator.integers(control.shape[1], size=control.shape[1])
        a = [arm[p][s] for p in prompts for s in mine]
        c = [control[p][s] for p in prompts for s in theirs]
        values.append(sum(a) / len(a) - sum(c) / len(c))
    return np.quantile(values, [0.025, 0.975])


def test_bootstrap_draws_prompts_together_and_seeds_apart():
    generator = np.random.default_rng(1)
    arm, control = runs(0.6, 40, 3, generator), runs(0.4, 40, 2, generator)
    for found, against in ((difference_interval(arm, control), control), (bootstrap_rate(arm), np.zeros((40, 1)))):
        low, high = loop_bootstrap(arm, against, 1500, generator)
        assert (found.low, found.high) == pytest.approx((low, high), abs=0.03)
    assert bootstrap_rate(arm, seed=3) == bootstrap_rate(arm, seed=3)


def test_bootstrap_of_one_run_has_the_width_of_its_binomial_and_seeds_that_differ_widen_it():
    one = np.repeat([0, 1], 100)
    assert width(bootstrap_rate(one)) == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 200), abs=0.015)
    agreeing, differing = np.stack([one] * 3, axis=1), np.stack([np.zeros(200), one, np.ones(200)], axis=1)
    assert width(bootstrap_rate(differing)) > 3 * width(bootstrap_rate(agreeing))


def test_a_rates_interval_is_wilsons_of_one_run_and_of_equal_outcomes():
    one = np.array([1, 0, 0, math.nan, 1, 0])[:, None]
    assert rate_interval(one) == wilson_interval(2, 5)
    assert rate_interval(np.zeros((10, 2))) == wilson_interval(0, 10)
    several = runs([0.2, 0.4, 0.6], 20, 3, np.random.default_rng(0)).astype(float)
    assert rate_interval(several) == bootstrap_rate(several)
    several[::2, 1] = math.nan
    assert rate_interval(several).low < np.nanmean(several) < rate_interval(several).high
    assert math.isnan(rate_interval(np.full((2, 2), math.nan)).low)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=9))
def test_sign_flip_test_is_exact_for_few_prompts(pairs):
    arm, control = (np.array(side) / 2 for side in zip(*pairs, strict=True))
    differences = arm - control
    patterns = list(itertools.product([1, -1], repeat=len(differences)))
    extreme = sum(abs(signs @ differences) >= abs(sum(differences)) - 1e-12 for signs in np.array(patterns))
    assert sign_flip_test(arm, control) == pytest.approx(extreme / len(patterns))


def test_sign_flip_test_at_its_ends():
    """Fisher's maize: 1,726 of 32,768 patterns are as extreme (The Design of Experiments, section 21)."""
    inches = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48])
    assert sign_flip_test(inches, np.zeros(15), draws=2**15) == pytest.approx(1726 / 32768, abs=1e-9)
    assert sign_flip_test(inches, np.zeros(15)) == pytest.approx(1726 / 32768, abs=0.01)
    # many prompts never give zero, and the order of arms does not matter
    arm, control = np.ones((200, 1)), np.zeros((200, 3))
    assert sign_flip_test(arm, control) == pytest.approx(2 / (DRAWS + 1), rel=0.51)
    assert sign_flip_test(control, arm) == sign_flip_test(arm, control) > 0
    assert sign_flip_test(arm, arm) == 1.0
    # no difference on the whole is no evidence, whatever the rounding
    arm = np.array([[1, 0], [0, 1], [1, 1], [0, 0], [1, 0], [0, 0], [1, 1], [0, 1]])
    control = np.array([[1, 0, 0], [0, 1, 1], [1, 1, 1], [0, 0, 1], [1, 1, 0], [0, 0, 0], [1, 1, 0], [0, 0, 1]])
    assert abs((arm.mean(axis=1) - control.mean(axis=1)).sum()) < 1e-12
    assert sign_flip_test(arm, control) == 1.0
    for first, second, says in (
        ([], [], "outcomes are finite"),
        ([[[1]]], [[[1]]], "outcomes are finite"),
        ([math.nan, 1], [math.nan, 1], "outcomes are finite"),
        (np.ones(3), np.ones(4), "different prompts"),
    ):
        with pytest.raises(ValueError, match=says):
            sign_flip_test(first, second)


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


def test_sign_flip_test_holds_its_level():
    generator = np.random.default_rng(0)
    p_values = [sign_flip_test(*(generator.random((60, 1)) < 0.4 for _ in range(2)), draws=400) for _ in range(200)]
    assert 0.005 <= np.mean(np.array(p_values) < 0.05) <= 0.095


def test_mcnemar_counts_flips_both_ways():
    first, second = np.array([0] * 6 + [1] * 2 + [1, 0, 1]), np.array([1] * 6 + [0] * 2 + [1, 0, 1])
    found = mcnemar(first, second)
    assert (found.gained, found.lost) == (6, 2)
    assert found.p == pytest.approx(2 * sum(math.comb(8, k) for k in (6, 7, 8)) / 2**8)
    assert found.p == pytest.approx(sign_flip_test(second, first)), "exact as the sign-flip test of two runs"
    assert mcnemar(first, first).p == 1.0
    with pytest.raises(ValueError, match="single runs"):
        mcnemar(np.ones((3, 2)), np.ones((3, 1)))


def test_holm_worked_by_hand():
    """0.01, 0.04, 0.03, 0.005 at four tests become 0.03, 0.06, 0.06, 0.02: 4·0.005, 3·0.01, 2·0.03, then no smaller."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_rejects_exactly_what_the_step_down_rejects(p_values):
    adjusted = holm(p_values)
    for alpha in (0.01, 0.05, 0.2):
        rejected = set()
        for step, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
            if p_values[place] * (len(p_values) - step) > alpha:
                break
            rejected.add(place)
        assert {place for place, p in enumerate(adjusted) if p <= alpha} == rejected


def test_minimum_detectable_effect_of_the_usual_sample_size_formula():
    """A standardised effect of 0.5 needs 7.849 / 0.25 = 31.4 pairs at 80 % power and 5 % (normal approximation)."""
    assert minimum_detectable_effect(1, 1.0) ** 2 == pytest.approx(7.849, abs=1e-3)
    assert minimum_detectable_effect(32, 1.0) < 0.5 < minimum_detectable_effect(31, 1.0)
    effect = minimum_detectable_effect(100, 1.0)
    assert minimum_detectable_effect(100, 1.0, alpha=0.01) > effect
    # it is found with its power
    generator = np.random.default_rng(0)
    found = [sign_flip_test(generator.normal(effect, 1, 100), np.zeros(100), draws=300) < 0.05 for _ in range(150)]
    assert 0.69 <= np.mean(found) <= 0.91


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


def correlation(x, y):
    return np.corrcoef(x, y)[0, 1] if len(set(x)) > 1 < len(set(y)) else math.nan


def without(x, z):
    """What a straight line in z leaves of x."""
    return x - np.polyval(np.polyfit(z, x, 1), z)


@given(st.lists(st.tuples(value, value, value), min_size=3, max_size=30))
def test_spearman_is_the_correlation_of_average_ranks_and_partly_of_what_length_leaves_of_them(triples):
    x, y, z = (np.array(loop_ranks(column)) for column in zip(*triples, strict=True))
    columns = list(zip(*triples, strict=True))
    assert spearman(*columns[:2]) == pytest.approx(correlation(x, y), abs=1e-12, nan_ok=True)
    assume(len(triples) > 3 and len(set(z)) > 1)
    left_x, left_y = without(x, z), without(y, z)
    assume(min(left_x @ left_x, left_y @ left_y) > 1e-6)
    assert partial_spearman(*columns) == pytest.approx(correlation(left_x, left_y), abs=1e-9)


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
