"""Rank correlations given length against a plain loop over bootstrap draws."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from ripcurrent.experiment._rank_intervals import rank_correlations


def columns(rows: int = 40) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    random = np.random.default_rng(5)
    length = random.integers(5, 60, size=rows).astype(float)
    a = length + 20 * random.normal(size=rows)
    return {"a": a, "tied": np.round(a, -1)}, {"b": 2 * length + 40 * random.normal(size=rows)}, length


def residual_correlation(x: np.ndarray, y: np.ndarray, given: np.ndarray) -> float:
    """Pearson between what a straight line in the length's ranks leaves of both columns' ranks."""
    ranks = [rankdata(column) for column in (x, y, given)]
    lines = [np.polyval(np.polyfit(ranks[2], rank, 1), ranks[2]) for rank in ranks[:2]]
    return float(np.corrcoef(ranks[0] - lines[0], ranks[1] - lines[1])[0, 1])


def test_point_and_interval_are_those_of_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right, length = columns()
    found = {one.left: one for one in rank_correlations(left, right, length, draws=300, seed=2)}
    random = np.random.default_rng(2)
    rows = random.integers(40, size=(300, 40))
    for name, column in left.items():
        one = found[name]
        assert one.rows == 40
        assert one.spearman == pytest.approx(spearmanr(column, right["b"]).statistic)
        assert one.given_length == pytest.approx(residual_correlation(column, right["b"], length))
        raw = [spearmanr(column[draw], right["b"][draw]).statistic for draw in rows]
        given = [residual_correlation(column[draw], right["b"][draw], length[draw]) for draw in rows]
        assert (one.interval.low, one.interval.high) == pytest.approx(tuple(np.quantile(raw, [0.025, 0.975])))
        assert (one.given_length_interval.low, one.given_length_interval.high) == pytest.approx(
            tuple(np.quantile(given, [0.025, 0.975])), abs=1e-9
        )
    # draws are ranked in parts, which changes nothing
    monkeypatch.setattr(import_module("ripcurrent.experiment._rank_intervals"), "CELLS", 400)
    assert {one.left: one for one in rank_correlations(left, right, length, draws=300, seed=2)} == found


def test_rows_that_lack_a_value_are_left_out() -> None:
    left, right, length = columns()
    left["a"][3], right["b"][7], length[9] = np.nan, np.inf, np.nan
    kept = np.delete(np.arange(40), [3, 7, 9])
    whole = {name: column[kept] for name, column in left.items()}
    expected = rank_correlations(whole, {"b": right["b"][kept]}, length[kept], draws=50)
    assert rank_correlations(left, right, length, draws=50) == expected
    assert expected[0].rows == 37


def test_what_is_not_defined_is_null() -> None:
    length = np.arange(10.0)
    same, one = rank_correlations({"length": length, "flat": np.ones(10)}, {"b": length[::-1]}, length, draws=50)
    assert same.spearman == pytest.approx(-1)
    assert same.as_json()["given_length"] is None
    assert one.as_json()["spearman"] is None
    assert one.as_json()["low"] is None
    few = rank_correlations({"a": [1, 2, 3]}, {"b": [1, 3, 2]}, [1, 1, 2], draws=50)[0].as_json()
    assert (few["rows"], few["low"], few["given_length"]) == (3, None, None)
