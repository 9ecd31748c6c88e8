"""Rankings, ranges and the per-anchor union, against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.select import (
    CosineBatch,
    between,
    between_quantiles,
    bottom,
    highest,
    lowest,
    read_cosines,
    top,
    union_per_anchor,
)
from tests.select.fabricate import ANCHOR_ORDER, HARMFUL_PLACES, fabricate_cosines, fabricate_run, fabricate_table

tables = st.builds(
    fabricate_table,
    rows=st.integers(4, 40),
    seed=st.integers(0, 10_000),
    distinct=st.sampled_from([2, 5, 1000]),
    unscored=st.sampled_from([0.0, 0.3]),
)


def scored(table, column):
    """(row, score) of the rows that may be ranked."""
    return [
        (row, value)
        for row, status, value in zip(*(table[c].to_pylist() for c in ("row", "status", column)), strict=True)
        if status == "ok" and value is not None and not math.isnan(value)
    ]


@settings(deadline=None)
@given(tables, st.integers(1, 50), st.sampled_from(["gradient_bidirectional", "gradient_safe"]))
def test_top_and_bottom_follow_the_columns_own_direction_with_ties_by_row(table, k, column):
    sign = -1 if column == "gradient_bidirectional" else 1
    riskiest = sorted(scored(table, column), key=lambda pair: (sign * pair[1], pair[0]))
    safest = sorted(scored(table, column), key=lambda pair: (-sign * pair[1], pair[0]))
    risky, protective = top(table, k, column), bottom(table, k, column)
    assert list(risky.indices) == [row for row, _ in riskiest[:k]]
    assert list(risky.scores) == [value for _, value in riskiest[:k]]
    assert list(protective.indices) == [row for row, _ in safest[:k]]
    assert risky.shortfall == max(0, k - len(riskiest))


@settings(deadline=None)
@given(st.integers(0, 10_000), st.data())
def test_without_ties_top_k_and_bottom_of_the_rest_part_the_scored_rows(seed, data):
    table = fabricate_table(40, seed, distinct=10**9)
    rankable = {row for row, _ in scored(table, "gradient_balanced")}
    k = data.draw(st.integers(1, len(rankable) - 1))
    risky = top(table, k, "gradient_balanced")
    protective = bottom(table, len(rankable) - k, "gradient_balanced")
    assert set(risky.indices) | set(protective.indices) == rankable
    assert not set(risky.indices) & set(protective.indices)


@settings(deadline=None)
@given(tables, st.integers(1, 10), st.integers(0, 100))
def test_the_order_of_the_table_does_not_matter(table, k, shuffle):
    shuffled = table.take(np.random.default_rng(shuffle).permutation(len(table)))
    assert top(table, k) == top(shuffled, k)
    assert lowest(table, k, "loss") == lowest(shuffled, k, "loss")
    assert between(table, "loss", None, 2.0) == between(shuffled, "loss", None, 2.0)


def test_a_column_that_ranks_no_risk_needs_an_end():
    table = fabricate_table()
    with pytest.raises(RipcurrentError, match="ranks no risk") as caught:
        top(table, 5, "loss")
    assert "--highest 5 --by loss" in caught.value.hint
    assert "--lowest 5 --by loss" in caught.value.hint
    values = dict(scored(table, "loss"))
    assert list(highest(table, 5, "loss").scores) == sorted(values.values(), reverse=True)[:5]
    assert list(lowest(table, 5, "loss").scores) == sorted(values.values())[:5]


def test_an_unknown_column_names_the_nearest_and_a_text_column_is_no_ranking():
    table = fabricate_table()
    with pytest.raises(RipcurrentError, match="'gradient_bidirectonal' is not in these scores") as caught:
        top(table, 5, "gradient_bidirectonal")
    assert "Did you mean 'gradient_bidirectional'?" in caught.value.hint
    with pytest.raises(RipcurrentError, match="'status' is not a number to rank by"):
        top(table, 5, "status")


def test_a_tie_at_the_edge_is_noted():
    table = fabricate_table(8, unscored=0.0)
    scores = [0.1, 0.9, 0.5, 0.5, 0.2, 0.5, 0.0, 0.1]
    table = table.set_column(table.column_names.index("gradient_balanced"), "gradient_balanced", [scores])
    assert top(table, 3, "gradient_balanced").indices == (1, 2, 3)
    assert "tied" in top(table, 3, "gradient_balanced").notes[0]
    assert top(table, 4, "gradient_balanced").notes == ()


def test_a_column_that_was_not_measured_names_those_that_were():
    table = fabricate_table(gradient=False)
    with pytest.raises(RipcurrentError, match="No row has a value in column 'gradient_balanced'") as caught:
        top(table, 5, "gradient_balanced")
    assert caught.value.code is ExitCode.NOT_MEASURED
    assert "representation_bidirectional" in caught.value.hint
    assert "gradient_harmful" not in caught.value.hint


def test_a_nan_score_of_an_ok_row_never_ranks():
    table = fabricate_table(10, unscored=0.0)
    values = table["loss"].to_pylist()
    values[3] = float("nan")
    values[4] = None
    table = table.set_column(table.column_names.index("loss"), "loss", [values])
    assert len(highest(table, 10, "loss").indices) == 8
    assert not {3, 4} & set(lowest(table, 10, "loss").indices)


@pytest.mark.parametrize("k", [0, -3])
def test_an_empty_selection_is_refused(k):
    with pytest.raises(RipcurrentError, match="is empty"):
        top(fabricate_table(), k)


@settings(deadline=None)
@given(tables, st.floats(-1, 1), st.floats(0, 1))
def test_a_range_takes_both_its_ends_in_rank_order(table, low, width):
    expected = sorted(
        ((row, value) for row, value in scored(table, "gradient_safe") if low <= value <= low + width),
        key=lambda pair: (pair[1], pair[0]),
    )
    if not expected:
        with pytest.raises(RipcurrentError, match="No row's gradient_safe lies between"):
            between(table, "gradient_safe", low, low + width)
        return
    assert list(between(table, "gradient_safe", low, low + width).indices) == [row for row, _ in expected]


def test_quantile_ranges_take_their_share_and_bad_ranges_are_refused():
    table = fabricate_table(101, unscored=0.0, distinct=10**9)
    ninth = between_quantiles(table, None, 0.9, 1.0)
    assert ninth.indices == top(table, 11).indices
    with pytest.raises(RipcurrentError, match="not a range"):
        between_quantiles(table, None, 0.9, 1.5)
    with pytest.raises(RipcurrentError, match="is empty"):
        between(table, None, 0.5, 0.1)


@settings(deadline=None)
@given(tables, st.integers(1, 8), st.integers(1, 7), st.integers(0, 50))
def test_the_union_holds_each_harmful_anchors_nearest_rows_in_any_batches(table, k, batch_rows, shuffle):
    cosines = fabricate_cosines(table)
    expected = set()
    for anchor in HARMFUL_PLACES:
        near = [(-np.float32(c[anchor]), row) for row, c in enumerate(cosines) if c is not None]
        expected |= {row for _, row in sorted(near)[:k]}
    order = np.random.default_rng(shuffle).permutation(len(table))
    nothing = [math.nan] * len(ANCHOR_ORDER)
    batches = [
        CosineBatch(part, np.array([cosines[row] or nothing for row in part], dtype=np.float32)[:, HARMFUL_PLACES])
        for part in np.array_split(order, range(batch_rows, len(order), batch_rows))
    ]
    union = union_per_anchor(table, batches, k)
    assert set(union.indices) == expected
    assert list(union.scores) == sorted(union.scores, reverse=True)


def test_the_union_reads_only_harmful_anchors_from_the_shards(tmp_path):
    table = fabricate_table(50)
    run = fabricate_run(tmp_path, table, shards=3)
    cosines = fabricate_cosines(table)
    read = {row: values for batch in read_cosines(run) for row, values in zip(batch.rows, batch.cosines, strict=True)}
    assert sorted(read) == list(range(50))
    for row, values in enumerate(cosines):
        if values is None:
            assert np.isnan(read[row]).all()
        else:
            assert read[row].tolist() == np.float32([values[place] for place in HARMFUL_PLACES]).tolist()


def test_a_union_without_cosines_says_what_to_do(tmp_path):
    run = fabricate_run(tmp_path, fabricate_table(10))
    for shard in (run / "signals").iterdir():
        shard.unlink()
    with pytest.raises(RipcurrentError, match="signal shards"):
        list(read_cosines(run))
    with pytest.raises(RipcurrentError, match="No row has a cosine") as caught:
        union_per_anchor(fabricate_table(10), [], 3)
    assert caught.value.code is ExitCode.NOT_MEASURED
