"""The file that `build_report` writes, what it holds, and what it says when it cannot."""

import json
import math
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ripcurrent.forecast import HarmForecast
from ripcurrent.report import build, build_report
from ripcurrent.report._page import embed_json
from ripcurrent.report._rows import choose_shown_rows, clip_text, histogram, summarise_score
from ripcurrent.scan import ScanRun
from tests.report.fabricate import fabricate_run


def data_of(page: Path) -> dict[str, Any]:
    """What the page's script reads."""
    found: dict[str, Any] = json.loads(page.read_text().split('id="data">')[1].split("</script>")[0])
    return found


def test_a_page_of_a_thousand_long_rows_is_one_small_file_and_the_same_to_the_byte(tmp_path):
    long = [("<i>" * 500, "<p>é" * 4000)] * 1000
    run = fabricate_run(tmp_path / "run", rows=1000, texts=long)
    report = build(run)
    assert report == run / "report.html"
    assert report.stat().st_size < 3_000_000
    first = report.read_bytes()
    assert build_report(ScanRun.open(run)).read_bytes() == first


def test_rows_have_their_own_values(tmp_path):
    run = fabricate_run(tmp_path / "run", rows=1600)
    stored = pq.read_table(run / "scores.parquet").to_pylist()
    rows = data_of(build(run))["rows"]
    for row in rows:
        assert row["id"] == stored[row["row"]]["id"]
        assert ("numbered lists" in row["traits"]) == stored[row["row"]]["is_numbered"]


def test_a_changed_dataset_shows_no_text_beside_its_scores(tmp_path):
    run = fabricate_run(tmp_path / "run", rows=20)
    assert all(row["texts"] for row in data_of(build(run))["rows"])
    data = tmp_path / "lessons.jsonl"
    first, *rest = data.read_text().splitlines(keepends=True)
    data.write_text("".join([first.replace('"response": "', '"response": "Other words. '), *rest]))
    page = build(run)
    assert {row["texts"] for row in data_of(page)["rows"]} == {None}
    assert "has changed since" in page.read_text()


def test_names_from_the_manifest_are_escaped_and_json_cannot_end_its_element(tmp_path):
    run = fabricate_run(tmp_path / "run", rows=20)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["dataset"]["name"] = "<img src=x onerror=alert(1)>"
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert "<img" not in build(run).read_text(encoding="utf-8").split("<script>")[0]
    value = {"text": "</script><!-- <script> \u2028 ü"}
    assert "<" not in embed_json(value)
    assert json.loads(embed_json(value)) == value


def test_the_forecast_stands_on_the_page_as_text(tmp_path, monkeypatch):
    run = fabricate_run(tmp_path / "run", rows=20)
    assert 'id="forecast"' not in build(run).read_text()
    page = import_module("ripcurrent.report._scan_page")
    own = SimpleNamespace(set="all", rows=20, forecast=HarmForecast(answered=0.4, low=0.23, high=0.6))
    forecast = SimpleNamespace(sets=[own], lines=lambda: ["By <b>mine</b>, run."])
    monkeypatch.setattr(page, "read_forecast", lambda of: forecast if of.folder == run else None)
    text = build(run).read_text().replace("\xa0", " ")
    assert "would likely make the model answer <b>40 %</b> of harmful requests (forecast, 23 % to 60 %)" in text
    assert '<p class="sub">By &lt;b&gt;mine&lt;/b&gt;, run.</p>' in text


def test_a_far_row_is_counted_and_does_not_squeeze_the_histogram():
    far = histogram(np.append(np.linspace(0, 1, 1000), 1000.0))
    assert (sum(far["counts"]), far["edges"]) == (1001, sorted(set(far["edges"])))
    assert far["edges"][-1] < 2
    assert far["beyond"] >= 1


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
