"""What two sets of rows have in common, told by sketches."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ripcurrent.experiment._shared_rows import DIGITS, KEPT, neighbours, shared_rows, sketch_rows


def hashes(rows: object) -> list[str]:
    return [hashlib.sha256(str(row).encode()).hexdigest() for row in rows]  # type: ignore[attr-defined]


@given(st.sets(st.integers(0, 300), max_size=KEPT - 1), st.sets(st.integers(0, 300), max_size=KEPT - 1))
def test_small_sets_are_compared_exactly(first: set[int], second: set[int]) -> None:
    either = first | second
    exact = len(first & second) / len(either) if either else 0.0
    a, b = sketch_rows(hashes(first)), sketch_rows(hashes(second))
    assert shared_rows(a, b) == shared_rows(b, a) == pytest.approx(exact)


@pytest.mark.parametrize(("first", "second"), [(1000, 1000), (1000, 400), (3000, 100), (848, 1060)])
def test_large_sets_are_told_nearly(first: int, second: int) -> None:
    """The estimate has a standard deviation of at most 1/√(4 · KEPT), 4.4 points."""
    gaps = []
    for common in (0, second // 4, second // 2, second):
        for draw in range(10):
            a = [f"{draw} {row}" for row in range(first)]
            b = [f"{draw} {row}" for row in range(first - common, first - common + second)]
            exact = len({*a} & {*b}) / len({*a, *b})
            gaps.append(shared_rows(sketch_rows(hashes(a)), sketch_rows(hashes(b))) - exact)
    assert abs(np.mean(gaps)) < 0.02
    assert np.std(gaps) < 0.06


def test_a_sketch_is_small_and_in_order() -> None:
    found = sketch_rows(hashes([*range(1000), *range(10)]))
    assert len(found) == KEPT
    assert list(found) == sorted(set(found))
    assert {len(one) for one in found} == {DIGITS}


def test_neighbours_are_those_with_a_fifth_in_common() -> None:
    sets = [range(100), range(20), range(19), range(81, 181), range(500, 600)]
    found = neighbours([sketch_rows(hashes(one)) for one in sets])
    by_hand = np.array([[len({*a} & {*b}) / len({*a, *b}) >= 0.2 for b in sets] for a in sets])
    assert np.array_equal(found, by_hand)
    assert found[0].tolist() == [True, True, False, False, False]
