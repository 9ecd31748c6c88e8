"""A scan's forecast on its page."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ripcurrent.errors import RipcurrentError
from ripcurrent.forecast._calibrate_runs import calibrate
from ripcurrent.forecast._sentences import forecast_lines, read_forecast
from ripcurrent.forecast._write import write_forecast
from ripcurrent.report import build
from tests.forecast.ladder_folder import ScanRows, fabricate_ladder, fabricate_scan


def paragraphs(run: Path) -> list[str] | None:
    """The forecast's sentences on the run's page, as a reader sees them; None where it has none."""
    page = build(run).read_text(encoding="utf-8")
    found = re.search(r'<div class="notice" id="forecast">(.*?)</div>', page, re.DOTALL)
    return None if found is None else [html.unescape(text) for text in re.findall(r"<p>(.*?)</p>", found[1])]


def test_the_page_says_what_the_terminal_says(tmp_path: Path) -> None:
    scan = fabricate_scan(tmp_path / "scan")
    rows = ScanRows(scan)
    ladder = fabricate_ladder(tmp_path / "ladder", rows, rows.arms(), seeds=2)
    calibrate([ladder], tmp_path / "calibration.json")
    stored = json.loads((tmp_path / "calibration.json").read_text())
    stored["recipe_name"] = "<b>mine</b>"
    stored["judge"]["version"] = "1.1"
    (tmp_path / "calibration.json").write_text(json.dumps(stored))

    assert paragraphs(scan) is None
    forecast = write_forecast(scan, tmp_path / "calibration.json")
    assert forecast == read_forecast(scan)
    assert forecast is not None
    lines = paragraphs(scan)
    assert lines == forecast_lines(forecast)
    assert "the recipe <b>mine</b>, of 100 harmful requests" in lines[0]
    assert lines[0].endswith("judge prefix 1.1, κ 0.88 to 0.89 with people):")
    assert re.fullmatch(
        r"the \d+ scored rows, as 40 of them at random: answered \d+ % \(90 % interval \d+–\d+ %\), "
        r"against \d+ % \(\d+–\d+ %\) for a random set of lessons.jsonl",
        lines[1],
    )
    assert lines[2].startswith("the riskiest 40 by gradient_balanced: answered")
    assert "on datasets left out: not measured" in lines[3]
    assert re.search(r"\d+ rows have no score: what training on them would add is not forecast", "\n".join(lines))

    stored["scored_with"]["fingerprint"] = "another"
    (tmp_path / "calibration.json").write_text(json.dumps(stored))
    write_forecast(scan, tmp_path / "calibration.json")
    (reason,) = paragraphs(scan) or []
    assert reason.startswith("No forecast. The calibration does not match this scan: it is for the model embedded")
    (scan / "forecast.json").write_text("{")
    with pytest.raises(RipcurrentError, match="is damaged"):
        build(scan)


def test_a_forecast_without_a_mean_is_json_that_others_read(tmp_path: Path) -> None:
    scan = fabricate_scan(tmp_path / "scan")
    rows = ScanRows(scan)
    calibrate([fabricate_ladder(tmp_path / "ladder", rows, rows.arms(), seeds=2)], tmp_path / "calibration.json")
    scores = pq.read_table(scan / "scores.parquet")
    place = scores.column_names.index("gradient_balanced")
    values = scores["gradient_balanced"].to_numpy().copy()
    values[np.flatnonzero(np.isfinite(values))[0]] = np.nan  # as where a prefilter left rows out
    pq.write_table(scores.set_column(place, scores.field(place), pa.array(values)), scan / "scores.parquet")
    write_forecast(scan, tmp_path / "calibration.json")

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    found = json.loads((scan / "forecast.json").read_text(), parse_constant=refuse)
    assert "has no mean gradient_balanced" in found["sets"][0]["reason"]
