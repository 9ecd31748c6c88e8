"""Batches: a partition within the budget that depends on the lengths alone."""

from __future__ import annotations

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from ripcurrent.gradients import plan_batches

LENGTHS = st.lists(st.integers(0, 60), max_size=60)
BUDGETS = st.integers(1, 200)


@given(LENGTHS, BUDGETS)
def test_every_row_with_tokens_is_in_exactly_one_batch(lengths: list[int], budget: int) -> None:
    placed = sorted(place for batch in plan_batches(lengths, budget) for place in batch)
    assert placed == [place for place, length in enumerate(lengths) if length > 0]


@given(LENGTHS, BUDGETS)
def test_padded_size_stays_within_the_budget_but_for_a_single_long_row(lengths: list[int], budget: int) -> None:
    for batch in plan_batches(lengths, budget):
        assert len(batch) == 1 or len(batch) * max(lengths[place] for place in batch) <= budget


@given(LENGTHS, BUDGETS)
def test_no_batch_stops_short_of_a_row_that_would_fit(lengths: list[int], budget: int) -> None:
    plan = plan_batches(lengths, budget)
    for batch, _following in itertools.pairwise(plan):
        assert (len(batch) + 1) * max(lengths[place] for place in batch) > budget


@given(LENGTHS, BUDGETS, st.randoms(use_true_random=False))
def test_another_order_of_the_rows_gives_batches_of_the_same_lengths(
    lengths: list[int], budget: int, chance: random.Random
) -> None:
    shuffled = lengths[:]
    chance.shuffle(shuffled)

    def contents(of: list[int]) -> list[list[int]]:
        return [[of[place] for place in batch] for batch in plan_batches(of, budget)]

    assert contents(lengths) == contents(shuffled)


def test_rows_of_one_length_keep_their_order() -> None:
    assert plan_batches([3, 3, 3, 5, 3], 6) == [[3], [0, 1], [2, 4]]
