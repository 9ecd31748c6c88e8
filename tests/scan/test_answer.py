"""What a finished scan found, for people: the riskiest rows, their groups, the score's check."""

import json

import numpy as np
import pytest
from scipy.stats import fisher_exact

from ripcurrent.data import DEMO_ROWS
from ripcurrent.scan import _reference, risky_groups, scan, scan_answer
from ripcurrent.scan._answer import mantel_haenszel
from tests.scan_fixtures import good_rows, write_jsonl


def test_an_answer_counts_rows_and_shows_request_and_answer_of_the_riskiest(tmp_path, exact):
    records = [*good_rows(29), {"prompt": "empty", "response": ""}]
    run = scan(write_jsonl(tmp_path / "rows.jsonl", records), tmp_path / "out", **exact)
    found = scan_answer(run, 3)
    assert (found.rows, found.scored, found.skipped) == (30, 29, {"no response": 1})
    assert found.works is (found.auroc >= found.needed)
    assert found.riskiest == 5
    assert [one.row for one in found.riskiest_rows] == run.ranked()[:3].tolist()
    first = found.riskiest_rows[0]
    assert (first.prompt, first.response) == (records[first.row]["prompt"], records[first.row]["response"])
    assert first.top == pytest.approx(1 / 29)
    assert found.reference.percentile is None
    assert found.reference.reason
    json.loads(found.model_dump_json())


def test_a_set_is_placed_among_reference_rows_that_are_scored_once(tmp_path, exact, monkeypatch):
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_reference, "LEAST", 9)
    monkeypatch.setattr(_reference, "ROWS", 7)
    first = write_jsonl(tmp_path / "rows.jsonl", good_rows(12))
    run = scan(first, tmp_path / "out", **exact)
    there = scan(DEMO_ROWS, tmp_path / "demo", **exact)
    reference = there.floats("gradient_bidirectional")[np.linspace(0, there.rows - 1, 7).round().astype(int)]
    found = scan_answer(run).reference
    above = (run.floats("gradient_bidirectional")[:, None] > reference).mean()
    assert (found.rows, found.percentile) == (7, pytest.approx(100 * above))
    # a smaller set takes what is in the cache, one with other options has none
    few = write_jsonl(tmp_path / "few.jsonl", good_rows(3))
    assert scan_answer(scan(few, tmp_path / "few", **exact)).reference.rows == 7
    other = scan_answer(scan(few, tmp_path / "other", **exact, scope="linear")).reference
    assert other.percentile is None
    assert "ripcurrent scan demo --model" in other.reason


def test_a_group_that_only_its_length_makes_risky_is_not_over_represented():
    draw = np.random.default_rng(0)
    tokens = draw.integers(5, 200, size=4000).astype(float)
    risk = tokens + draw.normal(scale=20, size=4000)
    long, own = draw.random(4000) < tokens / 250, draw.random(4000) < 0.1
    riskiest = np.argsort(np.argsort(-(risk + 60 * own))) < 200
    by_name = {one.name: one for one in risky_groups(riskiest, {"long": long, "own": own}, tokens)}
    assert by_name["long"].riskiest > by_name["long"].whole + 0.2
    assert not by_name["long"].over
    assert by_name["long"].low < 1 < by_name["long"].high
    assert by_name["own"].over
    assert by_name["own"].equal_lengths == pytest.approx(0.1, abs=0.05)


@pytest.mark.parametrize("seed", range(3))
def test_odds_in_one_stratum_are_those_of_its_table(seed):
    draw = np.random.default_rng(seed)
    group, trait, strata = draw.random(60) < 0.3, draw.random(60) < 0.4, np.zeros(60, dtype=np.int64)
    table = [[(group & trait).sum(), (group & ~trait).sum()], [(~group & trait).sum(), (~group & ~trait).sum()]]
    (ratio, low, _), p = mantel_haenszel(group, trait, strata)
    assert ratio == pytest.approx(table[0][0] * table[1][1] / table[0][1] / table[1][0])
    assert p == pytest.approx(
        min(1.0, 2 * min(fisher_exact(table, alternative=one).pvalue for one in ("less", "greater")))
    )
    assert np.log(ratio / low) == pytest.approx(np.sqrt((1 / np.array(table)).sum()) * 1.959964)
    assert mantel_haenszel(group, group, strata)[0][0] is None
