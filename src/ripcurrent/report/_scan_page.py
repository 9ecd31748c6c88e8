"""A scan's page: everything that it says, measured and gathered."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

import numpy as np

from ripcurrent.forecast import read_forecast
from ripcurrent.report import without_plots
from ripcurrent.report._page import Data, render_page
from ripcurrent.report._rows import (
    ScoreSummary,
    ShownRows,
    choose_shown_rows,
    read_page_shares,
    read_row_texts,
    summarise_score,
)
from ripcurrent.scan import COLUMNS, TRAIT_COLUMNS, Column, ScanRun, weakly_separated

DIGITS = 7
"""Of numbers in the page: as many as a score has, so that a cut parts the rows that it should."""


def render_scan_page(run: ScanRun) -> str:
    """The whole page of a scan as text."""
    columns = [column for column in COLUMNS if column.name in run.ranking_columns]
    traits = {
        c: c.removeprefix("is_").removeprefix("has_").replace("_", " ") for c in TRAIT_COLUMNS if c in run.columns
    }
    summaries = _summaries(run, columns, traits)
    ranking = _ranking(run, summaries)
    ranked = run.ranked(ranking) if ranking else np.zeros(0, dtype=np.int64)
    shown = choose_shown_rows(ranked, run.scored)
    texts, text_note = read_row_texts(run, shown.indices)
    rows = _row_data(run, shown, [column.name for column in columns], traits)
    shares = read_page_shares(run, shown.indices, rows["values"].get("gradient_norm", []), texts)
    data: Data = {
        "ranking": ranking,
        "scores": [summary.name for summary in summaries],
        "columns": {
            c.name: {"direction": run.risk_direction(c.name), "meaning": c.meaning, "whole": c.kind == "int"}
            for c in columns
        },
        "traits": list(traits.values()),
        "charts": _chart_data(run, summaries, list(traits.values())),
        "rows": {**rows, "texts": [texts.get(index) for index in shown.indices.tolist()]},
        "shares": shares,
    }
    forecast = read_forecast(run)
    page = {
        "run": run,
        "ranking": ranking,
        "ranked": len(ranked),
        "truncated": int((run.flags("truncated") & run.scored).sum()),
        "weak_anchors": list(weakly_separated(run.manifest.anchors.separation)),
        "forecast": [] if forecast is None else forecast.lines(),
        "summaries": summaries,
        "columns": columns,
        "shown": shown,
        "text_note": text_note,
        "with_shares": 0 if shares is None else sum(row is not None for row in shares["rows"]),
        "provenance": run.manifest.model_dump(mode="json", exclude={"anchors": {"order", "measurements"}}),
    }
    styles, scripts = ["_base.css", "_scan.css"], ["_common.js", "_tokens.js", "_scan.js"]
    return render_page("_scan.html.j2", page, data, styles=styles, scripts=scripts)


def _summaries(run: ScanRun, columns: Iterable[Column], traits: Mapping[str, str]) -> list[ScoreSummary]:
    flags = {name: run.flags(column) for column, name in traits.items()}
    lengths = run.floats("response_tokens")
    summaries = []
    for name in (column.name for column in columns):
        direction = run.risk_direction(name)
        if direction != "none" and np.isfinite(run.floats(name)[run.scored]).any():
            summaries.append(summarise_score(name, direction, run.scores(name), run.ranked(name), lengths, flags))
    return summaries


def _ranking(run: ScanRun, summaries: Sequence[ScoreSummary]) -> str | None:
    measured = [summary.name for summary in summaries]
    if run.default_ranking in measured:
        return run.default_ranking
    higher = [summary.name for summary in summaries if summary.direction == "higher"]
    return next(iter(higher + measured), None)


def _chart_data(run: ScanRun, summaries: Sequence[ScoreSummary], traits: Sequence[str]) -> Data:
    lengths = run.floats("response_tokens")[run.scored]
    lengths = lengths[lengths >= 1]
    shortest, longest = (float(lengths.min()), float(lengths.max())) if len(lengths) else (1.0, 1.0)
    charts: Data = {summary.name: {**asdict(summary), "cuts": _short(summary.cuts)} for summary in summaries}
    if not without_plots():
        from ripcurrent.report._charts import distribution_spec, formats_spec, length_spec

        for summary in summaries:
            charts[summary.name] |= {
                "distribution": distribution_spec(summary),
                "length": length_spec(summary, shortest, longest),
                "formats": formats_spec(summary, traits),
            }
    return charts


def _row_data(run: ScanRun, shown: ShownRows, measures: Sequence[str], traits: Mapping[str, str]) -> Data:
    taken = run.take(shown.indices, ["id", "status", "truncated", *measures, *traits]).to_pydict()
    return {
        "row": shown.indices.tolist(),
        "id": taken["id"],
        "status": taken["status"],
        "truncated": taken["truncated"],
        "rank": shown.ranks,
        "group": shown.groups,
        "traits": [[name for column, name in traits.items() if taken[column][i]] for i in range(len(shown.ranks))],
        "values": {name: _short(taken[name]) for name in measures},
    }


def _short(values: Iterable[float | None]) -> list[float | None]:
    """Numbers for JSON: whole numbers as they are, others rounded, NaN and null as None."""
    return [
        value if isinstance(value, int) else None if value is None or value != value else float(f"{value:.{DIGITS}g}")
        for value in values
    ]
