"""Draws and matched controls: disjoint, one to one, repeatable, and as near as they can be."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ripcurrent.errors import RipcurrentError
from ripcurrent.select import (
    FORMAT_TRAITS,
    between,
    controls_for,
    distance,
    draw_format,
    draw_random,
    highest,
    match_format,
    match_length,
    match_loss,
    top,
)
from ripcurrent.select._draw import generator
from ripcurrent.select._line_match import match_on_line
from tests.select.fabricate import fabricate_table

tables = st.builds(
    fabricate_table, rows=st.integers(12, 60), seed=st.integers(0, 10_000), unscored=st.sampled_from([0.0, 0.3])
)


def column(table, name, rows):
    values = table[name].to_pylist()
    return [values[row] for row in rows]


def ok_rows(table):
    return {row for row, status in enumerate(table["status"].to_pylist()) if status == "ok"}


def sorted_difference(table, selection, rows):
    pairs = zip(
        sorted(column(table, "response_tokens", selection.indices)),
        sorted(column(table, "response_tokens", rows)),
        strict=True,
    )
    return sum(abs(a - b) for a, b in pairs) / len(rows)


@settings(deadline=None)
@given(tables, st.integers(1, 20), st.sampled_from([(0,), (0, 1, 2), (7, 3)]))
def test_controls_share_no_row_with_their_selection_and_have_its_size_or_say_what_is_missing(table, k, seeds):
    selection = top(table, k)
    assume(len(selection.indices) < len(ok_rows(table)))
    controls = controls_for(table, selection, seeds, losses=True)
    assert len(controls) == 4 * len(seeds) + 1
    assert len({control.name for control in controls}) == len(controls)
    room = len(ok_rows(table)) - len(selection.indices)
    for control in controls:
        assert not set(control.indices) & set(selection.indices)
        assert set(control.indices) <= ok_rows(table)
        assert len(set(control.indices)) == len(control.indices) == min(len(selection.indices), room)
        assert control.shortfall == len(selection.indices) - len(control.indices)
        assert control.control_of == selection.name
        assert control.distances[0].column == "response_tokens"
        assert len(control.scores) == len(control.indices)
    assert [control.kind for control in controls[-1:]] == ["bottom"]


@settings(deadline=None)
@given(tables, st.integers(1, 15), st.integers(0, 50), st.integers(0, 100))
def test_equal_seeds_give_equal_controls_whatever_the_order_of_the_table(table, k, seed, shuffle):
    selection = top(table, k)
    assume(len(selection.indices) < len(ok_rows(table)))
    shuffled = table.take(np.random.default_rng(shuffle).permutation(len(table)))
    # repr: NaN scores are equal in it
    assert repr(controls_for(table, selection, (seed,))) == repr(controls_for(shuffled, selection, (seed,)))


def test_another_seed_gives_other_rows():
    table = fabricate_table(400)
    selection = top(table, 30)
    by_seed = [
        {c.kind: set(c.indices) for c in controls_for(table, selection, (seed,), losses=True)} for seed in (0, 1)
    ]
    for kind in ("random", "length-matched", "format-matched"):
        assert by_seed[0][kind] != by_seed[1][kind]
    assert by_seed[0]["bottom"] == by_seed[1]["bottom"]


@settings(deadline=None)
@given(tables, st.integers(1, 25), st.integers(0, 20))
def test_the_length_match_is_never_farther_than_a_random_draw(table, k, seed):
    selection = top(table, k)
    assume(len(ok_rows(table)) >= 2 * len(selection.indices))
    matched = match_length(table, selection, seed)
    drawn = draw_random(table, len(selection.indices), seed, without=selection.indices)
    of_match = sorted_difference(table, selection, matched.indices)
    assert of_match <= sorted_difference(table, selection, drawn.indices)
    assert matched.distances[0].mean_absolute_difference == pytest.approx(of_match)


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


def test_rows_of_equal_length_are_equally_likely_to_be_matched():
    table = fabricate_table(40, unscored=0.0)
    lengths = [20] * 40
    table = table.set_column(table.column_names.index("response_tokens"), "response_tokens", [lengths])
    selection = top(table, 5)
    counts = np.zeros(40)
    for seed in range(300):
        counts[list(match_length(table, selection, seed).indices)] += 1
    drawn = np.delete(counts, list(selection.indices))
    # 1,500 draws over 35 rows: 43 each, standard deviation 6.
    assert drawn.min() > 15
    assert drawn.max() < 75


def test_the_length_match_stands_in_the_order_of_the_rows_it_stands_for():
    table = fabricate_table(500, unscored=0.0)
    selection = top(table, 20)
    matched = match_length(table, selection, 0)
    mine, theirs = (column(table, "response_tokens", s.indices) for s in (selection, matched))
    assert max(abs(a - b) for a, b in zip(mine, theirs, strict=True)) <= 1


@settings(deadline=None)
@given(tables, st.integers(1, 20), st.integers(0, 20))
def test_the_format_match_takes_the_same_combination_while_there_is_one(table, k, seed):
    selection = top(table, k)
    assume(len(selection.indices) < len(ok_rows(table)))
    matched = match_format(table, selection, seed)
    combination = [tuple(traits) for traits in zip(*(table[t].to_pylist() for t in FORMAT_TRAITS), strict=True)]
    outside = ok_rows(table) - set(selection.indices)
    filled = 0
    for wanted in {combination[row] for row in selection.indices}:
        asked = sum(combination[row] == wanted for row in selection.indices)
        there = sum(combination[row] == wanted for row in outside)
        got = sum(combination[row] == wanted for row in matched.indices)
        assert got >= min(asked, there)
        filled += max(0, asked - there)
    assert matched.filled == filled - matched.shortfall


def test_a_combination_that_runs_out_is_filled_from_the_nearest():
    table = fabricate_table(6, unscored=0.0)
    traits = {
        # Row 0 is selected: a bulleted list with code. Row 3 differs in one trait, all others in more.
        "is_list": [True, False, False, True, False, False],
        "is_bullet": [True, False, False, True, False, False],
        "is_code": [True, False, False, False, False, False],
    }
    for name in FORMAT_TRAITS:
        place = table.column_names.index(name)
        table = table.set_column(place, name, [traits.get(name, [False] * 6)])
    scores = [1.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    table = table.set_column(table.column_names.index("gradient_balanced"), "gradient_balanced", [scores])
    matched = match_format(table, top(table, 1, "gradient_balanced"), seed=0)
    assert matched.indices == (3,)
    assert matched.filled == 1
    assert matched.shortfall == 0
    assert "1 traits differing" in matched.notes[0]


def test_the_loss_match_is_nearer_in_loss_than_random_rows():
    table = fabricate_table(300, unscored=0.0)
    selection = highest(table, 30, "loss")
    nearer = 0
    for seed in range(5):
        matched = match_loss(table, selection, seed)
        drawn = draw_random(table, 30, seed, without=selection.indices)
        of_random = distance(
            "loss", *(np.array(column(table, "loss", rows)) for rows in (selection.indices, drawn.indices))
        )
        of_match = next(d for d in matched.distances if d.column == "loss")
        nearer += of_match.mean_absolute_difference < of_random.mean_absolute_difference
    assert nearer == 5


def test_the_loss_match_needs_losses():
    table = fabricate_table(gradient=False)
    with pytest.raises(RipcurrentError, match="no losses to match by"):
        match_loss(table, top(table, 5), 0)


def test_a_selection_of_every_row_leaves_no_control_and_says_so():
    table = fabricate_table(20)
    with pytest.raises(RipcurrentError, match="No usable row is left"):
        controls_for(table, top(table, 20))


def test_the_other_end_fits_the_selection():
    table = fabricate_table(60)
    assert controls_for(table, highest(table, 5, "loss"))[-1].kind == "lowest"
    assert "gradient_bidirectional" in controls_for(table, between(table, "loss", 0.0, None))[-1].rule
    assert controls_for(table, draw_random(table, 5, 0))[-1].kind == "bottom"


@pytest.mark.parametrize("seeds", [(), (1, 1)])
def test_controls_need_distinct_seeds(seeds):
    table = fabricate_table()
    with pytest.raises(RipcurrentError, match="at least one seed"):
        controls_for(table, top(table, 5), seeds)


@settings(deadline=None)
@given(tables, st.integers(1, 80), st.integers(0, 20), st.sampled_from(["list", "bullet", "numbered", "maths", "code"]))
def test_format_draws_hold_only_usable_rows_of_the_format(table, k, seed, trait):
    having = {row for row in ok_rows(table) if table[f"is_{trait}"][row].as_py()}
    assume(having)
    drawn = draw_format(table, trait, k, seed)
    assert set(drawn.indices) <= having
    assert len(set(drawn.indices)) == len(drawn.indices) == min(k, len(having))
    assert drawn.shortfall == k - len(drawn.indices)


def test_draws_refuse_unknown_formats_and_negative_seeds():
    with pytest.raises(RipcurrentError, match="no format 'poem'"):
        draw_format(fabricate_table(), "poem", 5, 0)
    with pytest.raises(RipcurrentError, match="Seed -1 is negative"):
        draw_random(fabricate_table(), 5, -1)


def test_the_distance_is_that_of_the_distributions():
    apart = distance("response_tokens", np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0]))
    assert apart.mean_absolute_difference == pytest.approx(3.0)
    assert apart.ks_statistic == pytest.approx(1.0)
    assert (apart.selection_mean, apart.control_mean) == (2.0, 5.0)
    same = distance("response_tokens", np.array([1.0, 2.0]), np.array([2.0, 1.0]))
    assert same.mean_absolute_difference == same.ks_statistic == 0.0


def test_the_loss_match_is_the_nearest_free_row_of_a_plain_search():
    table = fabricate_table(200, unscored=0.0)
    # many equal losses, so that ties are common
    for name in ("loss", "loss_first_10"):
        values = np.round(np.array(table[name].to_pylist()), 1)
        table = table.set_column(table.column_names.index(name), name, [values.tolist()])
    selection = top(table, 60)
    matched = match_loss(table, selection, 3)
    losses = np.stack([np.array(table[name].to_pylist()) for name in ("loss", "loss_first_10")], axis=1)
    losses /= losses.std(axis=0)
    random = generator(3, "loss")
    pool = random.permutation([n for n in range(200) if n not in selection.indices]).tolist()
    expected = {}
    for place in random.permutation(np.arange(60)).tolist():
        apart = [((losses[n] - losses[selection.indices[place]]) ** 2).sum() for n in pool]
        expected[place] = pool.pop(int(np.argmin(apart)))
    found = losses[list(matched.indices)] - losses[list(selection.indices)]
    by_hand = losses[[expected[place] for place in range(60)]] - losses[list(selection.indices)]
    assert (found**2).sum(axis=1).tolist() == pytest.approx((by_hand**2).sum(axis=1).tolist())
    assert matched.indices == tuple(expected[place] for place in range(60))
