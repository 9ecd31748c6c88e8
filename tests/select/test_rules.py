"""Rankings, ranges, the per-anchor union and controls, against plain loops."""

import math
import re
import tempfile
from collections import Counter
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.select import between, bottom, generator, match_format, match_length, of_format, random, top, union
from ripcurrent.select._controls import FORMAT_TRAITS, controls_for, distance, match_loss, match_on_line
from tests.select.fabricate import HARMFUL_PLACES, fabricate, fabricate_cosines


def made(**changes):
    with tempfile.TemporaryDirectory() as folder:
        run = fabricate(Path(folder), **changes)
        for name in set(run.columns) - {"row", "id", "status"}:
            # read while the folder is there: columns are kept
            (run.flags if name.startswith(("is_", "has_", "opens_", "trunc")) else run.floats)(name)
        return run


runs = st.builds(
    made,
    rows=st.integers(12, 40),
    seed=st.integers(0, 10_000),
    distinct=st.sampled_from([2, 5, 1000]),
    unscored=st.sampled_from([0.0, 0.3]),
)
whole = settings(deadline=None)


def scored(run, column):
    """(row, score) of the rows that may be ranked."""
    return [(row, v) for row, (ok, v) in enumerate(zip(run.scored, run.floats(column), strict=True)) if ok and v == v]


@whole
@given(runs, st.integers(1, 50), st.sampled_from(["gradient_bidirectional", "gradient_safe"]))
def test_top_and_bottom_follow_the_columns_own_direction_with_ties_by_row(run, k, column):
    riskier = -1 if column == "gradient_bidirectional" else 1
    for found, sign in ((top(run, k, column), riskier), (bottom(run, k, column), -riskier)):
        expected = sorted(scored(run, column), key=lambda pair: (sign * pair[1], pair[0]))
        assert list(zip(found.indices, found.scores, strict=True)) == expected[:k]
        assert found.shortfall == max(0, k - len(expected))


def test_ties_at_the_edge_are_noted_and_nan_never_ranks():
    run = made(rows=8, unscored=0.0, columns={"gradient_balanced": [0.1, 0.9, 0.5, 0.5, 0.2, 0.5, math.nan, None]})
    assert top(run, 3, "gradient_balanced").indices == (1, 2, 3)
    assert "tied" in top(run, 3, "gradient_balanced").notes[0]
    assert top(run, 4, "gradient_balanced").notes == ()
    assert bottom(run, 10, "gradient_balanced").indices == (0, 4, 2, 3, 5, 1)


@whole
@given(runs, st.floats(-1, 1), st.floats(0, 1))
def test_a_range_takes_both_its_ends_in_rank_order(run, low, width):
    inside = [(row, value) for row, value in scored(run, "gradient_safe") if low <= value <= low + width]
    expected = sorted(inside, key=lambda pair: (pair[1], pair[0]))
    if not expected:
        with pytest.raises(RipcurrentError, match="No row's gradient_safe lies between"):
            between(run, "gradient_safe", low, low + width)
        return
    assert list(between(run, "gradient_safe", low, low + width).indices) == [row for row, _ in expected]


@whole
@given(runs, st.integers(1, 20), st.integers(1, 7), st.integers(0, 50))
def test_the_union_holds_each_harmful_anchors_nearest_rows_in_any_batches(run, k, batch_rows, shuffle):
    cosines = fabricate_cosines(run.scored)
    cosines[3] = np.nan
    known, expected = np.flatnonzero(np.isfinite(cosines[:, 0])).tolist(), set()
    for anchor in HARMFUL_PLACES:
        expected |= set(sorted(known, key=lambda row: (-cosines[row, anchor], row))[:k])
    order = np.random.default_rng(shuffle).permutation(len(cosines))
    parts = np.array_split(order, range(batch_rows, len(order), batch_rows))
    run.cosines = lambda: ((part, cosines[part]) for part in parts)
    found = union(run, k)
    assert set(found.indices) == expected
    assert list(found.scores) == sorted(found.scores, reverse=True)


def test_the_cosines_of_every_row_that_has_some_are_read_from_the_shards(tmp_path):
    run = fabricate(tmp_path, 50)
    rows, read = (np.concatenate(parts) for parts in zip(*run.cosines(), strict=True))
    assert sorted(rows) == [row for row in range(50) if run.scored[row] or row % 2]
    np.testing.assert_array_equal(read, fabricate_cosines(run.scored)[rows])


@whole
@given(runs, st.integers(1, 20), st.sampled_from([(0,), (0, 1, 2), (7, 3)]))
def test_controls_share_no_row_with_their_selection_and_have_its_size_or_say_what_is_missing(run, k, seeds):
    selection, usable = top(run, k), set(np.flatnonzero(run.scored).tolist())
    assume(len(selection.indices) < len(usable))
    controls = controls_for(run, selection, seeds)
    assert len({control.name for control in controls}) == len(controls) == 4 * len(seeds) + 1
    asked, outside = len(selection.indices), usable - set(selection.indices)
    for control in controls:
        assert set(control.indices) <= outside
        assert len(set(control.indices)) == len(control.scores) == min(asked, len(outside)) == asked - control.shortfall
        assert (control.control_of, control.distances[0].column) == (selection.name, "response_tokens")
    assert controls[-1].kind == "bottom"


def test_equal_seeds_give_equal_controls_and_another_seed_other_rows():
    run = made(rows=400)
    selection = top(run, 30)
    first, again, other = (controls_for(run, selection, (seed,)) for seed in (0, 0, 1))
    assert repr(first) == repr(again)
    assert [one.kind for one, two in zip(first, other, strict=True) if one.indices == two.indices] == ["bottom"]


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=4),
    st.lists(st.integers(0, 9), min_size=1, max_size=6),
    st.integers(0, 9),
)
def test_the_line_match_is_the_cheapest_of_all_matchings(wanted, offered, seed):
    few, many = sorted((wanted, offered), key=len)
    cheapest = min(sum(abs(a - b) for a, b in zip(few, chosen, strict=True)) for chosen in permutations(many, len(few)))
    left, right = match_on_line(np.array(wanted, float), np.array(offered, float), np.random.default_rng(seed))
    assert len(set(left.tolist())) == len(set(right.tolist())) == len(left) == len(right) == len(few)
    assert sum(abs(wanted[a] - offered[b]) for a, b in zip(left, right, strict=True)) == cheapest


def test_the_length_match_stands_in_the_order_of_the_rows_it_stands_for():
    run = made(rows=500, unscored=0.0)
    selection = top(run, 20)
    matched = match_length(run, selection, 0)
    lengths = run.floats("response_tokens")
    apart = np.abs(lengths[list(selection.indices)] - lengths[list(matched.indices)])
    assert apart.max() <= 1
    assert matched.distances[0].mean_absolute_difference == pytest.approx(apart.mean())


def test_rows_of_equal_length_are_equally_likely_to_be_matched():
    run = made(rows=40, unscored=0.0, columns={"response_tokens": [20] * 40})
    selection = top(run, 5)
    rows = [row for seed in range(300) for row in match_length(run, selection, seed).indices]
    drawn = np.delete(np.bincount(rows, minlength=40), list(selection.indices))
    # 1,500 draws over 35 rows: 43 each, standard deviation 6
    assert 15 < drawn.min() <= drawn.max() < 75


@whole
@given(runs, st.integers(1, 20), st.integers(0, 20))
def test_the_format_match_takes_the_same_combination_while_there_is_one(run, k, seed):
    selection, usable = top(run, k), set(np.flatnonzero(run.scored).tolist())
    assume(len(selection.indices) < len(usable))
    matched = match_format(run, selection, seed)
    combination = list(zip(*(run.flags(trait).tolist() for trait in FORMAT_TRAITS), strict=True))
    asked, there, got = (
        Counter(combination[row] for row in rows)
        for rows in (selection.indices, usable - set(selection.indices), matched.indices)
    )
    assert got >= asked & there
    assert matched.filled == (asked - there).total() - matched.shortfall


def test_a_combination_that_runs_out_is_filled_from_the_nearest():
    # row 0 is selected: a bulleted list with code; row 3 differs in one trait, all others in more
    having = {"is_list": (0, 3), "is_bullet": (0, 3), "is_code": (0,)}
    traits = {trait: [row in having.get(trait, ()) for row in range(6)] for trait in FORMAT_TRAITS}
    run = made(rows=6, unscored=0.0, columns={**traits, "gradient_balanced": [1.0, 0.1, 0.2, 0.3, 0.4, 0.5]})
    matched = match_format(run, top(run, 1, "gradient_balanced"), seed=0)
    assert (matched.indices, matched.filled, matched.shortfall) == ((3,), 1, 0)
    assert "1 traits differing" in matched.notes[0]


def test_the_loss_match_is_the_nearest_free_row_of_a_plain_search():
    # many equal losses, so that ties are common
    drawn = np.round(10 * np.random.default_rng(5).random(size=(2, 200)))
    columns = {"response_tokens": drawn[0].astype(int).tolist(), "loss_first_10": drawn[1].tolist()}
    run = made(rows=200, unscored=0.0, columns=columns)
    selection = top(run, 60)
    matched = match_loss(run, selection, 3)
    losses = np.array([[((one < own).sum() + (one <= own).sum()) / 2 for own in one] for one in drawn]).T
    stream = generator(3, "loss")
    pool = stream.permutation([n for n in range(200) if n not in selection.indices]).tolist()
    expected = {}
    for place in stream.permutation(np.arange(60)).tolist():
        apart = [((losses[n] - losses[selection.indices[place]]) ** 2).sum() for n in pool]
        expected[place] = pool.pop(int(np.argmin(apart)))
    assert matched.indices == tuple(expected[place] for place in range(60))
    assert [one.column for one in matched.distances] == ["response_tokens", "loss_first_10"]
    assert "loss-matched" not in {one.kind for one in controls_for(made(gradient=False), top(made(gradient=False), 5))}


HALF = "a scan of representations alone"


@pytest.mark.parametrize(
    "case",
    [
        (lambda run: top(run, 5, "loss"), r"does not rank risk(.|\n)*--between LOW:HIGH --by loss"),
        (lambda run: top(run, 5, "gradient_bidirectonal"), r"not in these scores(.|\n)*'gradient_bidirectional'\?"),
        (lambda run: top(run, 5, "status"), "'status' is not a number to rank by"),
        (lambda run: top(run, 0), "is empty"),
        (lambda run: between(run, None, 0.9, 1.5, quantiles=True), "not a range"),
        (lambda run: between(run, None, 0.5, 0.1), "is empty"),
        (lambda run: controls_for(run, top(run, 60)), "No usable row is left"),
        (lambda run: controls_for(run, top(run, 5), ()), "at least one seed"),
        (lambda run: controls_for(run, top(run, 5), (1, 1)), "at least one seed"),
        (lambda run: of_format(run, "poem", 5, 0), "no format 'poem'"),
        (lambda run: random(run, 5, -1), "Seed -1 is negative"),
        (HALF, lambda run: top(run, 5, "gradient_balanced"), r"'gradient_balanced'(.|\n)*representation_bidirectional"),
        (HALF, lambda run: match_loss(run, top(run, 5), 0), "no losses to match by"),
        (HALF, lambda run: union(run, 3), "no cosines of rows"),
    ],
)
def test_what_cannot_be_selected_or_was_not_measured_is_refused(case):
    *half, call, said = case
    run = made(gradient=not half)
    run.cosines = lambda: iter(())
    with pytest.raises(RipcurrentError) as caught:
        call(run)
    assert re.search(said, str(caught.value))
    assert caught.value.code is (ExitCode.NOT_MEASURED if half else ExitCode.USAGE)
    assert not half or "gradient_harmful" not in str(caught.value)


def test_the_other_end_fits_the_selection():
    run = made(rows=101, unscored=0.0, distinct=10**9)
    assert "gradient_bidirectional" in controls_for(run, between(run, "loss", 0.0, None))[-1].rule
    assert controls_for(run, bottom(run, 5))[-1].kind == "top"
    assert between(run, None, 0.9, None, quantiles=True).indices == top(run, 11).indices


@whole
@given(runs, st.integers(1, 80), st.sampled_from(["list", "bullet", "numbered", "maths", "code"]))
def test_format_draws_hold_only_usable_rows_of_the_format(run, k, trait):
    having = set(np.flatnonzero(run.scored & run.flags(f"is_{trait}")).tolist())
    assume(having)
    drawn = of_format(run, trait, k, 0)
    assert set(drawn.indices) <= having
    assert len(set(drawn.indices)) == len(drawn.indices) == min(k, len(having)) == k - drawn.shortfall


def test_the_distance_is_that_of_the_distributions():
    apart = distance("response_tokens", np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0]))
    assert (apart.mean_absolute_difference, apart.ks_statistic) == (pytest.approx(3.0), pytest.approx(1.0))
    assert (apart.selection_mean, apart.control_mean) == (2.0, 5.0)
    same = distance("response_tokens", np.array([1.0, 2.0]), np.array([2.0, 1.0]))
    assert same.mean_absolute_difference == same.ks_statistic == 0.0
