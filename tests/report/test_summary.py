"""What a scan's page says about all rows together, and which rows it holds, against plain loops."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ripcurrent.report._charts import length_ticks
from ripcurrent.report._rows import choose_shown_rows, clip_text
from ripcurrent.report._summary import histogram, length_bands, summarise_score


@given(st.lists(st.floats(-5, 5, allow_subnormal=False), min_size=1, max_size=60))
def test_a_histogram_counts_every_row(values):
    bins = histogram(np.array(values))
    assert sum(bins["counts"]) == len(values)
    assert bins["edges"] == sorted(set(bins["edges"]))


def test_one_far_row_does_not_squeeze_the_histogram():
    bins = histogram(np.append(np.linspace(0, 1, 1000), 1000.0))
    assert bins["edges"][-1] < 2
    assert bins["beyond"] >= 1
    assert sum(bins["counts"]) == 1001


def test_bands_are_medians_of_stretches_and_break_where_rows_are_missing():
    lengths = np.concatenate([np.full(20, 2.0), np.full(20, 500.0), [50.0]])
    values = np.concatenate([np.arange(20.0), 100 + np.arange(20.0), [7.0]])
    bands = length_bands(values, lengths)
    assert [band["rows"] for band in bands] == [20, 20]
    assert [band["median"] for band in bands] == [9.5, 109.5]
    assert bands[0]["segment"] != bands[1]["segment"]


def test_a_summary_is_of_the_rows_that_have_the_score_and_its_cuts_are_the_ends_own_scores():
    values = np.concatenate([np.arange(300.0), [math.nan]])
    lengths = np.arange(1.0, 302)
    long = {"long": lengths > 250}
    higher = summarise_score("gradient_harmful", "higher", values, np.arange(299, -1, -1), lengths, long)
    assert (higher.scored, higher.ends, higher.cuts) == (300, 100, (99.0, 149.5, 200.0))
    assert (higher.quantiles[0], higher.quantiles[-1]) == (0, 299)
    assert higher.correlation == pytest.approx(1)
    assert higher.shares == [{"trait": "long", "riskiest": 0.5, "safest": 0.0, "all": pytest.approx(50 / 300)}]
    lower = summarise_score("gradient_safe", "lower", values, np.arange(300), lengths, long)
    assert lower.cuts == (200.0, 149.5, 99.0)
    assert lower.shares[0]["safest"] == 0.5


@pytest.mark.parametrize("rows", [1, 3])
def test_a_few_rows_of_one_value_still_sum_up(rows):
    summary = summarise_score("loss", "higher", np.ones(rows), np.arange(rows), np.arange(1.0, rows + 1), {})
    assert (summary.scored, summary.correlation) == (rows, None)


def test_the_axis_of_lengths_has_numbers():
    assert length_ticks(3, 40) == [5, 10, 20]
    assert length_ticks(21, 49) is None
    assert length_ticks(1, 9_000_000) == [1, 10, 100, 1000, 10_000, 100_000, 1_000_000]
    assert length_ticks(11_000, 90_000) == [20_000, 50_000]


def test_a_small_table_is_shown_whole():
    shown = choose_shown_rows(np.array([2, 0]), np.array([True, False, True]))
    assert shown.whole
    assert shown.indices.tolist() == [0, 1, 2]
    assert shown.ranks == (2, None, 1)


@pytest.mark.parametrize("scored_rows", [0, 1, 600, 1200, 2500])
def test_a_large_table_shows_both_ends_a_sample_and_unscored_rows_once_each(scored_rows):
    scored = np.zeros(3000, dtype=bool)
    ranked = np.random.default_rng(1).permutation(3000)[:scored_rows]
    scored[ranked] = True
    shown = choose_shown_rows(ranked, scored)
    groups = dict(zip(shown.indices.tolist(), shown.groups, strict=True))
    ranks = dict(zip(shown.indices.tolist(), shown.ranks, strict=True))
    assert shown.indices.tolist() == sorted(groups)
    end = min(500, scored_rows // 2)
    assert [index for index in ranked.tolist() if groups.get(index) == "riskiest"] == ranked[:end].tolist()
    assert [index for index in ranked.tolist() if groups.get(index) == "safest"] == ranked[scored_rows - end :].tolist()
    assert sum(group == "sample" for group in groups.values()) == min(300, max(0, scored_rows - 2 * end))
    assert sum(group == "unscored" for group in groups.values()) == min(200, 3000 - scored_rows)
    assert all(ranks.get(index, place) == place for place, index in enumerate(ranked.tolist(), 1))


@given(st.text(st.characters(categories=["L", "P", "S", "C"]), max_size=300), st.integers(0, 200))
def test_a_clip_stays_in_its_budget_and_is_a_head_of_the_text(text, budget):
    clip = clip_text(text, budget)
    escaped = json.dumps(clip.text, ensure_ascii=False).replace("<", "\\u003c")
    assert len(escaped.encode()) - 2 <= budget
    assert clip.characters == len(text)
    assert text.encode("utf-8", "replace").decode().startswith(clip.text)
    assert clip_text("A lantern.", 100).text == "A lantern."
