"""Paired changes against plain loops, and where nothing is there to test."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from ripcurrent.experiment._paired_changes import paired_change


def signed_rank_p(changes: list[float]) -> float:
    """Exact two-sided Wilcoxon signed-rank p by all patterns of signs; no ties, no zeros."""
    ranks = [sorted(map(abs, changes)).index(abs(change)) + 1 for change in changes]
    centre = sum(ranks) / 2
    observed = abs(sum(rank for rank, change in zip(ranks, changes, strict=True) if change > 0) - centre)
    extreme = [
        abs(sum(rank for rank, up in zip(ranks, signs, strict=True) if up) - centre) >= observed - 1e-9
        for signs in product((0, 1), repeat=len(changes))
    ]
    return sum(extreme) / len(extreme)


def sign_p(changes: list[float]) -> float:
    """Exact two-sided sign test by counting coins."""
    rises, n = sum(change > 0 for change in changes), sum(change != 0 for change in changes)
    chances = [math.comb(n, k) / 2**n for k in range(n + 1)]
    return min(1.0, sum(chance for chance in chances if chance <= chances[rises] + 1e-12))


def test_against_plain_loops() -> None:
    random = np.random.default_rng(3)
    before = random.normal(size=9)
    changes = random.normal(0.6, 1.0, size=9)
    found = paired_change(before, before + changes)
    assert found.rows == 9
    assert found.mean == pytest.approx(sum(changes) / 9)
    assert found.after - found.before == pytest.approx(found.mean)
    assert found.median == pytest.approx(sorted(changes)[4])
    assert found.increased == sum(change > 0 for change in changes) / 9
    assert found.increased + found.decreased == pytest.approx(1.0)
    assert found.sign_p == pytest.approx(sign_p(changes.tolist()))
    assert found.wilcoxon_p == pytest.approx(signed_rank_p(changes.tolist()))
    assert found.interval.low < found.mean < found.interval.high


def test_the_interval_is_that_of_a_mean() -> None:
    changes = np.random.default_rng(0).normal(0.2, 1.0, size=400)
    found = paired_change(np.zeros(400), changes)
    half = 1.96 * changes.std(ddof=1) / 20
    assert found.interval.low == pytest.approx(changes.mean() - half, abs=0.01)
    assert found.interval.high == pytest.approx(changes.mean() + half, abs=0.01)
    assert paired_change(np.zeros(400), changes) == found
    assert paired_change(np.zeros(400), changes, seed=1).interval != found.interval


def test_rows_without_a_value_and_without_a_change() -> None:
    found = paired_change([1.0, np.nan, 3.0, 4.0], [2.0, 2.0, np.inf, 4.0])
    assert (found.rows, found.mean, found.increased, found.decreased) == (2, 0.5, 0.5, 0.0)
    same = paired_change([1.0, 2.0], [1.0, 2.0])
    assert (same.sign_p, same.wilcoxon_p, same.mean) == (1.0, 1.0, 0.0)
    nothing = paired_change([np.nan], [1.0])
    assert nothing.rows == 0
    assert set(nothing.as_json().values()) == {0, None}
    with pytest.raises(ValueError, match="shapes"):
        paired_change([1.0], [1.0, 2.0])
