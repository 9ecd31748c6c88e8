"""Intervals and tests against plain loops, scipy's own counterparts, and textbook values."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ripcurrent.statistics import (
    DRAWS,
    bootstrap_rate,
    d_prime,
    difference_interval,
    discrimination,
    holm,
    mcnemar,
    minimum_detectable_effect,
    rate_interval,
    sign_flip_test,
    wilson_interval,
)

few = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=9)


def runs(rates, prompts, seeds, generator):
    """Outcomes with a prompt's own difficulty, as real prompts have."""
    ease = generator.normal(size=(prompts, 1))
    return (
        ease + generator.normal(size=(prompts, seeds)) < np.quantile(generator.normal(size=4000) * 2**0.5, rates)
    ) * 1


def test_no_difference_on_the_whole_is_no_evidence_whatever_the_rounding() -> None:
    arm = np.array([[1, 0], [0, 1], [1, 1], [0, 0], [1, 0], [0, 0], [1, 1], [0, 1]])
    control = np.array([[1, 0, 0], [0, 1, 1], [1, 1, 1], [0, 0, 1], [1, 1, 0], [0, 0, 0], [1, 1, 0], [0, 0, 1]])
    assert abs((arm.mean(axis=1) - control.mean(axis=1)).sum()) < 1e-12
    assert (arm.mean(axis=1) != control.mean(axis=1)).any()
    assert sign_flip_test(arm, control) == 1.0


def test_wilson_interval_of_a_published_example():
    """81 of 263: 0.2553 to 0.3662 (Newcombe, Statistics in Medicine 1998, table I, method 3)."""
    found = wilson_interval(81, 263)
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    none = wilson_interval(0, 20)
    assert (none.low, none.high) == pytest.approx((0.0, 0.1611), abs=5e-5)


@given(st.integers(1, 300), st.data())
def test_wilson_interval_by_its_formula(n, data):
    k, z = data.draw(st.integers(0, n)), 1.959963984540054
    share = k / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    found = wilson_interval(k, n)
    assert (found.low, found.high) == pytest.approx((max(0, middle - reach), min(1, middle + reach)), abs=1e-9)


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
    low, high = loop_bootstrap(arm, control, 1500, generator)
    found = difference_interval(arm, control)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.03)
    alone = bootstrap_rate(arm)
    low, high = loop_bootstrap(arm, np.zeros((40, 1)), 1500, generator)
    assert (alone.low, alone.high) == pytest.approx((low, high), abs=0.03)


def test_bootstrap_of_one_run_has_the_width_of_its_binomial_and_seeds_that_differ_widen_it():
    one = np.repeat([0, 1], 100)
    found = bootstrap_rate(one)
    assert found.high - found.low == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 200), abs=0.015)
    agreeing = np.stack([one, one, one], axis=1)
    differing = np.stack([np.zeros(200), one, np.ones(200)], axis=1)
    wide, narrow = bootstrap_rate(differing), bootstrap_rate(agreeing)
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_same_seed_same_interval():
    outcomes = runs(0.5, 30, 2, np.random.default_rng(0))
    assert bootstrap_rate(outcomes, seed=3) == bootstrap_rate(outcomes, seed=3)
    assert sign_flip_test(*outcomes.T) == sign_flip_test(*outcomes.T)


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
@given(few)
def test_sign_flip_test_is_exact_for_few_prompts(pairs):
    arm, control = (np.array(side) / 2 for side in zip(*pairs, strict=True))
    differences = arm - control
    extreme = total = 0
    for signs in itertools.product([1, -1], repeat=len(differences)):
        total += 1
        extreme += abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= abs(sum(differences)) - 1e-12
    assert sign_flip_test(arm, control) == pytest.approx(extreme / total)


def test_fishers_sign_flip_of_darwins_maize():
    """15 pairs; 1,726 of 32,768 patterns are as extreme (Fisher, The Design of Experiments, section 21)."""
    inches = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48])
    assert sign_flip_test(inches, np.zeros(15), draws=2**15) == pytest.approx(1726 / 32768, abs=1e-9)
    assert sign_flip_test(inches, np.zeros(15)) == pytest.approx(1726 / 32768, abs=0.01)


def test_many_prompts_never_give_zero_and_order_of_arms_does_not_matter():
    arm, control = np.ones((200, 1)), np.zeros((200, 3))
    assert sign_flip_test(arm, control) == pytest.approx(2 / (DRAWS + 1), rel=0.51)
    assert sign_flip_test(control, arm) == sign_flip_test(arm, control) > 0
    assert sign_flip_test(arm, arm) == 1.0


def test_sign_flip_test_holds_its_level():
    generator = np.random.default_rng(0)
    p_values = [sign_flip_test(*(generator.random((60, 1)) < 0.4 for _ in range(2)), draws=400) for _ in range(200)]
    assert 0.005 <= np.mean(np.array(p_values) < 0.05) <= 0.095


def test_mcnemar_counts_flips_both_ways():
    first, second = np.array([0] * 6 + [1] * 2 + [1, 0, 1]), np.array([1] * 6 + [0] * 2 + [1, 0, 1])
    found = mcnemar(first, second)
    assert (found.gained, found.lost) == (6, 2)
    tail = sum(math.comb(8, k) for k in (6, 7, 8)) / 2**8
    assert found.p == pytest.approx(2 * tail)
    assert mcnemar(first, first).p == 1.0
    with pytest.raises(ValueError, match="single runs"):
        mcnemar(np.ones((3, 2)), np.ones((3, 1)))


def test_exact_mcnemar_equals_the_sign_flip_test_of_two_runs():
    generator = np.random.default_rng(2)
    first, second = (generator.random((2, 12)) < 0.5) * 1
    assert mcnemar(first, second).p == pytest.approx(sign_flip_test(second, first))


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
    assert minimum_detectable_effect(100, 1.0, alpha=0.01) > minimum_detectable_effect(100, 1.0)


def test_minimum_detectable_effect_is_found_with_its_power():
    generator = np.random.default_rng(0)
    effect = minimum_detectable_effect(100, 1.0)
    found = [sign_flip_test(generator.normal(effect, 1, 100), np.zeros(100), draws=300) < 0.05 for _ in range(150)]
    assert 0.69 <= np.mean(found) <= 0.91


def test_d_prime_of_a_published_example():
    """20 of 25 hits, 10 of 25 false alarms: 0.842 + 0.253 (Stanislaw & Todorov 1999)."""
    assert d_prime(20 / 25, 10 / 25) == pytest.approx(1.095, abs=1e-3)


def test_discrimination_tells_lost_judgement_from_lost_over_caution():
    def refused(harmful, benign):
        return discrimination(*(np.repeat([[1.0], [0.0]], [of, 100 - of], axis=0) for of in (harmful, benign)))

    judging, refusing, willing = refused(90, 10), refused(100, 100), refused(0, 0)
    assert judging.difference == pytest.approx(0.8)
    assert judging.difference_interval.low < 0.8 < judging.difference_interval.high
    assert judging.d_prime == pytest.approx(d_prime(90.5 / 101, 10.5 / 101))
    for other in (refusing, willing):
        assert other.difference == 0
        assert other.d_prime == pytest.approx(0)
    assert math.isfinite(refused(100, 0).d_prime)
    assert discrimination(np.full((2, 1), math.nan), np.ones((3, 1))) is None


@pytest.mark.parametrize("outcomes", [[], [[[1]]], [math.nan, 1]])
def test_outcomes_that_are_none(outcomes):
    with pytest.raises(ValueError, match="outcomes are finite"):
        sign_flip_test(outcomes, outcomes)


def test_arms_of_other_prompts():
    with pytest.raises(ValueError, match="different prompts"):
        sign_flip_test(np.ones(3), np.ones(4))
