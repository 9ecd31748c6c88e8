"""The file that `build_report` writes, and what it says when it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ripcurrent.errors import RipcurrentError
from ripcurrent.report import build_report
from ripcurrent.report._offline_page import embed_json
from ripcurrent.report._page import format_number
from tests.report.fabricate import fabricate_run


def test_importing_the_room_loads_no_plotting_library():
    code = "import sys, ripcurrent.report; sys.exit(any(m in sys.modules for m in ('altair', 'pyarrow', 'scipy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_page_of_a_thousand_long_rows_is_one_small_file(tmp_path):
    long = [("<i>" * 500, "<p>é" * 4000)] * 1000
    report = build_report(fabricate_run(tmp_path / "run", rows=1000, texts=long))
    assert report == tmp_path / "run" / "report.html"
    assert report.stat().st_size < 3_000_000
    assert not list((tmp_path / "run").glob("*.part"))


def test_page_is_the_same_to_the_byte(tmp_path):
    run = fabricate_run(tmp_path / "run", rows=1800)
    first = build_report(run).read_bytes()
    assert build_report(run).read_bytes() == first


def test_a_failed_write_leaves_the_earlier_page(tmp_path, monkeypatch):
    run = fabricate_run(tmp_path / "run", rows=20)
    report = build_report(run)
    before = report.read_bytes()

    def full(self: Path, *_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(RipcurrentError, match="No space left"):
        build_report(run)
    assert report.read_bytes() == before
    assert not list(run.glob("*.part"))


@pytest.mark.parametrize("name", ["scores.parquet", "manifest.json"])
def test_unfinished_or_damaged_run_names_the_file(tmp_path, name):
    run = fabricate_run(tmp_path / "run", rows=20)
    (run / name).write_bytes(b"{ not whole")
    with pytest.raises(RipcurrentError, match="is damaged: ") as damaged:
        build_report(run)
    assert damaged.value.hint
    (run / name).unlink()
    with pytest.raises(RipcurrentError, match=name):
        build_report(run)


def test_missing_folder_and_foreign_table_are_told_apart(tmp_path):
    with pytest.raises(RipcurrentError, match="no run folder"):
        build_report(tmp_path / "nowhere")
    (tmp_path / "answers").mkdir()
    (tmp_path / "answers" / "config.yaml").write_text("command: evaluate\n")
    with pytest.raises(RipcurrentError, match="answers holds a run of evaluate, not of scan"):
        build_report(tmp_path / "answers")
    run = fabricate_run(tmp_path / "run", rows=20)
    table = pq.read_table(run / "scores.parquet").replace_schema_metadata(None)
    pq.write_table(table, run / "scores.parquet")
    with pytest.raises(RipcurrentError, match="which way its columns run"):
        build_report(run)


def test_directions_of_risk_are_the_files_own(tmp_path):
    run = fabricate_run(tmp_path / "run", rows=40)
    table = pq.read_table(run / "scores.parquet")
    metadata = json.loads(table.schema.metadata[b"ripcurrent"])
    metadata["default_ranking"] = "gradient_safe"
    pq.write_table(table.replace_schema_metadata({"ripcurrent": json.dumps(metadata)}), run / "scores.parquet")
    page = build_report(run).read_text(encoding="utf-8")
    data = json.loads(page.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    ranked = sorted((rank, i) for i, rank in enumerate(data["rows"]["rank"]) if rank is not None)
    safe = [data["rows"]["values"]["gradient_safe"][i] for _, i in ranked]
    assert safe == sorted(safe), "gradient_safe is riskier when lower"


def test_names_from_the_manifest_are_escaped(tmp_path):
    run = fabricate_run(tmp_path / "run", rows=20)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["dataset"]["name"] = "<img src=x onerror=alert(1)>"
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert "<img" not in build_report(run).read_text(encoding="utf-8").split("<script>")[0]


def test_embedded_json_cannot_end_its_element():
    value = {"text": "</script><!-- <script> \u2028 ü"}
    assert "<" not in embed_json(value)
    assert json.loads(embed_json(value)) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (0.0, "0.000"),
        (-0.1234, "−0.123"),
        (0.00012, "1.20e−4"),
        (0.00149, "0.00149"),
        (-0.0188, "−0.0188"),
        (-12.34, "−12.3"),
        (250000.0, "2.50e+5"),
    ],
)
def test_numbers_read_alike(value, text):
    assert format_number(value).replace("e−04", "e−4").replace("e+05", "e+5") == text
