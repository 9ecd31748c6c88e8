"""The file that `build_report` writes, what it holds, and what it says when it cannot."""

import json
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq

from ripcurrent.report import build, build_report
from ripcurrent.report._page import embed_json, number
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


def test_each_column_and_the_dataset_are_read_once(tmp_path, monkeypatch):
    run = ScanRun.open(fabricate_run(tmp_path / "run", rows=50))
    opened: list[object] = []
    dataset, file = ScanRun.dataset, pq.ParquetFile
    monkeypatch.setattr(ScanRun, "dataset", lambda self: opened.append("dataset") or dataset(self))
    monkeypatch.setattr(pq, "ParquetFile", lambda path, **how: opened.append(Path(path).name) or file(path, **how))
    build_report(run)
    assert opened.count("dataset") == opened.count("scores.parquet") == 1


def test_directions_of_risk_are_the_files_own(tmp_path):
    run = fabricate_run(tmp_path / "run", rows=40)
    table = pq.read_table(run / "scores.parquet")
    metadata = json.loads(table.schema.metadata[b"ripcurrent"])
    metadata["default_ranking"] = "gradient_safe"
    pq.write_table(table.replace_schema_metadata({"ripcurrent": json.dumps(metadata)}), run / "scores.parquet")
    rows = data_of(build(run))["rows"]
    ranked = sorted((rank, i) for i, rank in enumerate(rows["rank"]) if rank is not None)
    safe = [rows["values"]["gradient_safe"][i] for _, i in ranked]
    assert safe == sorted(safe), "gradient_safe is riskier when lower"


def test_rows_have_their_own_values_and_nearest_anchors(tmp_path):
    run = fabricate_run(tmp_path / "run", rows=1600)
    stored = pq.read_table(run / "scores.parquet").to_pylist()
    cosines = {
        entry["row"]: entry["representation_cosines"]
        for shard in (run / "signals").glob("*.parquet")
        for entry in pq.read_table(shard).to_pylist()
    }
    rows = data_of(build(run))["rows"]
    for at, row in enumerate(rows["row"]):
        assert rows["id"][at] == stored[row]["id"]
        assert ("list" in rows["traits"][at]) == stored[row]["is_list"]
        own = cosines.get(row, [])
        sets = [range(first, first + 6) for first in (0, 6, 12) if own]
        nearest = [place for places in sets for place in sorted(places, key=lambda place, own=own: -own[place])[:2]]
        found, values = zip(*rows["nearest"][at], strict=True) if own else ((), ())
        assert (set(found), list(values)) == (set(nearest), sorted(values, reverse=True))


def test_a_changed_dataset_shows_no_text_beside_its_scores(tmp_path):
    run = fabricate_run(tmp_path / "run", rows=20)
    assert None not in data_of(build(run))["rows"]["texts"]
    data = tmp_path / "lessons.jsonl"
    first, *rest = data.read_text().splitlines(keepends=True)
    data.write_text("".join([first.replace('"response": "', '"response": "Other words. '), *rest]))
    page = build(run)
    assert set(data_of(page)["rows"]["texts"]) == {None}
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
    forecast = SimpleNamespace(lines=lambda: ["By <b>mine</b>, run."])
    monkeypatch.setattr(page, "read_forecast", lambda of: forecast if of.folder == run else None)
    assert '<div class="notice" id="forecast"><p>By &lt;b&gt;mine&lt;/b&gt;, run.</p></div>' in build(run).read_text()


def test_numbers_read_alike():
    written = {0.0: "0.000", -0.1234: "−0.123", 0.00012: "1.20e−04", -0.0188: "−0.0188", 250_000.0: "2.50e+05"}
    assert {value: number(value) for value in written} == written
    assert number(-12.34) == "−12.3"
    assert number(None) == number(float("nan")) == "–"
