"""Scores by redrawn anchors against plain loops, and what stability says of anchors that agree or do not."""

from __future__ import annotations

from functools import partial
from importlib import import_module

import numpy as np
import pytest

from ripcurrent.scan._resampled_anchors import (
    gradient_scores,
    resample_anchors,
)
from ripcurrent.scan._score import representation_scores
from ripcurrent.scan._separation import AnchorMeasurements

ORDER = [(name, number) for name in ("harmful", "safe_1", "safe_2") for number in range(4)]
OWN = AnchorMeasurements(ORDER).by_set()


def cosines(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (rows, len(ORDER)))


@pytest.mark.parametrize("avg_n", [1, 3])
def test_scores_are_the_plain_loops(avg_n: int) -> None:
    values = cosines(7)
    places = {"harmful": [0, 0, 3, 2], "safe_1": [4, 5, 5, 5], "safe_2": [8, 9, 10, 11]}
    gradient = gradient_scores(values, places)
    representation = representation_scores(values, places, avg_n)
    for row in range(7):
        means, largest = {}, {}
        for name, of in places.items():
            found = [values[row, place] for place in of]
            means[name] = sum(found) / 4
            largest[name] = sum(sorted(found, reverse=True)[:avg_n]) / avg_n
        safe = (means["safe_1"] + means["safe_2"]) / 2
        assert gradient["gradient_bidirectional"][row] == pytest.approx(
            means["harmful"] - means["safe_1"] - means["safe_2"]
        )
        assert gradient["gradient_balanced"][row] == pytest.approx(means["harmful"] - safe)
        assert gradient["gradient_safe"][row] == pytest.approx(safe)
        both = (largest["safe_1"] + largest["safe_2"]) / 2
        assert representation["representation_bidirectional"][row] == pytest.approx(largest["harmful"] - both)


def test_anchors_that_are_all_alike_leave_every_row_where_it_was() -> None:
    one = cosines(300)
    values = np.repeat(one[:, [0, 4, 8]], 4, axis=1)
    stabilities, bounds = resample_anchors(gradient_scores, values, OWN, draws=20, top=30, seed=0)
    for stability in stabilities:
        assert (stability.spearman, stability.overlap) == (pytest.approx(1.0), 1.0)
        assert stability.width == pytest.approx(0.0, abs=1e-12)
    low, high = bounds["gradient_bidirectional"]
    np.testing.assert_allclose(low, gradient_scores(values, OWN)["gradient_bidirectional"])
    np.testing.assert_allclose(high, low)


def test_anchors_that_disagree_move_the_ranking_and_the_intervals_hold_the_score() -> None:
    values = cosines(400)
    own = OWN
    stabilities, bounds = resample_anchors(gradient_scores, values, own, draws=200, top=40, seed=1)
    by_column = {one.column: one for one in stabilities}
    assert by_column["gradient_bidirectional"].spearman < 0.9
    assert by_column["gradient_bidirectional"].spearman_low < by_column["gradient_bidirectional"].spearman
    assert 0.2 < by_column["gradient_bidirectional"].overlap < 0.9
    assert by_column["gradient_bidirectional"].rows == 400
    scores = gradient_scores(values, own)
    for name, (low, high) in bounds.items():
        assert ((low <= scores[name]) & (scores[name] <= high)).mean() > 0.9


def test_a_seed_gives_the_same_draws_and_rows_do_not_depend_on_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    values, own = cosines(50), OWN
    score_of = partial(representation_scores, avg_n=2)
    first, bounds = resample_anchors(score_of, values, own, draws=30, top=5, seed=3)
    monkeypatch.setattr(import_module("ripcurrent.scan._resampled_anchors"), "CHUNK_ROWS", 7)
    again, chunked = resample_anchors(score_of, values, own, draws=30, top=5, seed=3)
    assert first == again
    half = resample_anchors(score_of, values[:20], own, draws=30, top=5, seed=3)[1]
    for name, (low, high) in bounds.items():
        np.testing.assert_array_equal(low, chunked[name][0])
        np.testing.assert_array_equal(high[:20], half[name][1])
    assert resample_anchors(score_of, values, own, draws=30, top=5, seed=4)[0] != first


def test_the_riskiest_of_a_safe_score_are_its_lowest() -> None:
    values = np.zeros((10, len(ORDER)))
    values[:, 4:] = np.arange(10)[:, None] / 10
    stabilities, _ = resample_anchors(gradient_scores, values, OWN, draws=5, top=3, seed=0)
    assert {one.column: one.overlap for one in stabilities}["gradient_safe"] == 1.0
