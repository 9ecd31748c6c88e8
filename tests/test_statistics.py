"""Rank statistics against plain loops."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from research.tables import partial_spearman

from ripcurrent.statistics import auroc, quantiles, spearman

# Few distinct values, so that ties are common.
value = st.integers(min_value=-4, max_value=4).map(float)


def loop_ranks(values):
    """Average rank of each value, counted pair by pair."""
    return [sum(other < v for other in values) + (sum(other == v for other in values) + 1) / 2 for v in values]


def loop_correlation(x, y):
    n = len(x)
    mean_x, mean_y = sum(x) / n, sum(y) / n
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    spread = math.sqrt(sum((a - mean_x) ** 2 for a in x) * sum((b - mean_y) ** 2 for b in y))
    return covariance / spread if spread else math.nan


def residual(x, z):
    """What a straight line in z leaves of x."""
    n = len(x)
    mean_x, mean_z = sum(x) / n, sum(z) / n
    slope = sum((a - mean_x) * (b - mean_z) for a, b in zip(x, z, strict=True)) / sum((b - mean_z) ** 2 for b in z)
    return [a - mean_x - slope * (b - mean_z) for a, b in zip(x, z, strict=True)]


@given(st.lists(st.tuples(value, value), min_size=3, max_size=30))
def test_spearman_is_the_correlation_of_average_ranks(pairs):
    x, y = zip(*pairs, strict=True)
    expected = loop_correlation(loop_ranks(x), loop_ranks(y))
    assert spearman(x, y) == pytest.approx(expected, abs=1e-12, nan_ok=True)


@given(st.lists(st.tuples(value, value, value), min_size=4, max_size=30))
def test_partial_spearman_is_the_correlation_of_what_length_leaves_of_the_ranks(triples):
    x, y, z = (loop_ranks(column) for column in zip(*triples, strict=True))
    assume(len(set(z)) > 1)
    left_x, left_y = residual(x, z), residual(y, z)
    assume(sum(a * a for a in left_x) > 1e-6 and sum(b * b for b in left_y) > 1e-6)
    expected = loop_correlation(left_x, left_y)
    assert partial_spearman(*zip(*triples, strict=True)) == pytest.approx(expected, abs=1e-9)


def test_a_correlation_that_runs_through_length_alone_disappears_given_length():
    generator = np.random.default_rng(0)
    length = generator.normal(size=4000)
    x, y = length + 0.5 * generator.normal(size=(2, 4000))
    assert spearman(x, y) > 0.7
    assert abs(partial_spearman(x, y, length)) < 0.06


def test_correlation_leaves_out_unscored_rows_and_says_nan_when_it_is_undefined():
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
    ordered = sorted(values)
    position = probability * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    expected = ordered[below] + (position - below) * (ordered[above] - ordered[below])
    assert quantiles([*values, math.nan], [probability])[probability] == pytest.approx(expected, abs=1e-9)


def test_quantiles_without_a_value_are_nan():
    assert all(math.isnan(v) for v in quantiles([math.nan]).values())
