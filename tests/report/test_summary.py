"""Aggregates against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ripcurrent.report._charts import _length_ticks
from ripcurrent.report._summary import (
    format_shares,
    histogram,
    length_bands,
    length_correlation,
    risk_order,
    summarise_score,
)

scores = st.lists(st.one_of(st.floats(-5, 5, allow_subnormal=False), st.just(math.nan)), min_size=1, max_size=60)


@given(scores, st.sampled_from(["higher", "lower"]))
def test_risk_order_is_every_scored_row_riskiest_first_ties_in_input_order(values, direction):
    sign = -1 if direction == "higher" else 1
    expected = sorted((i for i, v in enumerate(values) if v == v), key=lambda i: (sign * values[i], i))
    assert risk_order(np.array(values), direction).tolist() == expected


@given(scores.filter(lambda values: any(v == v for v in values)))
def test_histogram_counts_every_row(values):
    finite = np.array([v for v in values if v == v])
    bins = histogram(finite)
    assert sum(bins.rows) == len(finite)
    assert list(bins.edges) == sorted(set(bins.edges))


def test_one_far_row_does_not_squeeze_the_histogram():
    values = np.append(np.linspace(0, 1, 1000), 1000.0)
    bins = histogram(values)
    assert bins.edges[-1] < 2
    assert bins.beyond >= 1
    assert sum(bins.rows) == 1001


def test_length_correlation_follows_ranks_and_knows_when_it_is_undefined():
    lengths = np.array([1.0, 10, 100, 1000, 5])
    assert length_correlation(np.array([1.0, 4, 9, 16, math.nan]), lengths) == pytest.approx(1)
    assert length_correlation(-lengths, lengths) == pytest.approx(-1)
    assert length_correlation(np.ones(5), lengths) is None
    assert length_correlation(np.full(5, math.nan), lengths) is None


def test_bands_are_medians_of_stretches_and_break_where_rows_are_missing():
    lengths = np.concatenate([np.full(20, 2.0), np.full(20, 500.0), [50.0]])
    values = np.concatenate([np.arange(20.0), 100 + np.arange(20.0), [7.0]])
    bands = length_bands(values, lengths)
    assert [band.rows for band in bands] == [20, 20]
    assert [band.median for band in bands] == [9.5, 109.5]
    assert bands[0].segment != bands[1].segment


def test_format_shares_of_ends_and_all():
    order = np.array([3, 0, 2, 1])
    (share,) = format_shares(order, 2, {"is_list": np.array([True, False, False, True, True])})
    assert (share.riskiest, share.safest, share.all) == (1.0, 0.0, 0.5)


def test_summary_cuts_are_the_ends_own_scores():
    values = np.concatenate([np.arange(300.0), [math.nan]])
    lengths = np.arange(1.0, 302)
    summary = summarise_score("gradient_harmful", "higher", values, lengths, {})
    assert summary is not None
    assert (summary.end_rows, summary.riskiest_cut, summary.safest_cut) == (100, 200.0, 99.0)
    assert summary.quantiles[0] == 0
    assert summary.quantiles[-1] == 299
    lower = summarise_score("gradient_safe", "lower", values, lengths, {})
    assert lower is not None
    assert (lower.riskiest_cut, lower.safest_cut) == (99.0, 200.0)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_few_rows_still_sum_up(rows):
    summary = summarise_score(
        "loss", "higher", np.arange(float(rows)), np.arange(1.0, rows + 1), {"t": np.ones(rows, bool)}
    )
    assert summary is not None
    assert summary.scored == rows
    assert summarise_score("loss", "higher", np.full(rows, math.nan), np.ones(rows), {}) is None


@pytest.mark.parametrize(
    ("shortest", "longest", "ticks"),
    [
        (3, 40, [5, 10, 20]),
        (21, 49, None),
        (37, 37, None),
        (1, 9_000_000, [1, 10, 100, 1000, 10_000, 100_000, 1_000_000]),
        (11_000, 90_000, [20_000, 50_000]),
    ],
)
def test_the_axis_of_lengths_has_numbers(shortest, longest, ticks):
    """Ticks outside of the data are not drawn; where fewer than two lie inside, the plot's library chooses."""
    assert _length_ticks(shortest, longest) == ticks
