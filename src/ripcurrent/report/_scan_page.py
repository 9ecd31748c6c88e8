"""A scan's page: everything that it says, measured and gathered."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ripcurrent.forecast import read_forecast
from ripcurrent.report import without_plots
from ripcurrent.report._page import Data, render_page
from ripcurrent.report._rows import (
    ScoreSummary,
    choose_shown_rows,
    histogram,
    read_page_shares,
    read_row_texts,
    summarise_score,
)
from ripcurrent.report._table import HIDDEN, RowTable, short
from ripcurrent.scan import REQUESTS, ScanAnswer, ScanRun, scan_answer, weakly_separated
from ripcurrent.select import number_of_rows

LEFT_OUT = (0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 40, 50)
"""Shares of the ranking, in percent, that the page offers to leave out."""
MUCH = 0.3
"""A rank correlation with length from which the page warns."""


def scan_table(run: ScanRun) -> RowTable:
    """The rows of a scan, ranked by its default column, or where that was not measured by another."""
    measured = [name for name in run.ranking_columns if np.isfinite(run.floats(name)[run.scored]).any()]
    if run.default_ranking in measured:
        return RowTable(run, run.default_ranking)
    directions = {name: run.risk_direction(name) for name in measured}
    higher = [name for name, direction in directions.items() if direction == "higher"]
    lower = [name for name, direction in directions.items() if direction == "lower"]
    return RowTable(run, next(iter(higher + lower), None))


def render_scan_page(run: ScanRun, live: bool = False) -> str:
    """The whole page of a scan as text; the rows of a ``live`` one come from the viewer, and their texts with them."""
    table = scan_table(run)
    summaries = _summaries(table)
    shown = choose_shown_rows(table.ranked, run.scored)
    texts, text_note = ({}, "") if live else read_row_texts(run, shown.indices)
    norms = run.take(shown.indices, ["gradient_norm"])["gradient_norm"].to_pylist() if not live else []
    shares = None if live else read_page_shares(run, shown.indices, norms, texts)
    steps = _steps(table)
    answer = scan_answer(run) if table.ranking == run.default_ranking else None
    data: Data = {
        **{"live": live, "ranking": table.ranking, "ranked": len(table.ranked)},
        **{"dataset": run.manifest.dataset.sha256, "hidden": HIDDEN, "steps": steps},
        "scores": [summary.name for summary in summaries],
        "columns": {
            c.name: {"direction": run.risk_direction(c.name), "meaning": c.meaning, "whole": c.kind == "int"}
            for c in table.columns
        },
        "kinds": _kinds(table, answer),
        "counts": {"all": run.rows, "unscored": run.rows - int(run.scored.sum())},
        "charts": _chart_data(run, summaries, list(table.traits.values())),
        "rows": table.records(shown.indices, texts, shares),
        "safeSets": None if run.manifest.tokens is None else run.manifest.tokens["safe_sets"],
    }
    if live and shown.indices.size:
        data["counts"]["hidden"] = int(table.texts.flags("hidden").sum())
    if table.ranking:
        data["bins"] = histogram(run.scores(table.ranking)[table.ranked])
    forecast = read_forecast(run)
    page = {
        "run": run,
        "answer": answer,
        "much": MUCH,
        "ranking": table.ranking,
        "truncated": int((run.flags("truncated") & run.scored).sum()),
        "weak_anchors": list(weakly_separated(run.manifest.anchors.separation)),
        "forecast": [] if forecast is None else forecast.lines(),
        "forecasts": [one for one in forecast.sets if one.forecast] if forecast else [],
        "commands": _commands(run, live),
        "steps": steps,
        "summaries": summaries,
        "columns": table.columns,
        "shown": shown,
        "live": live,
        "text_note": text_note,
        "with_shares": 0 if shares is None else sum(row is not None for row in shares["rows"]),
        "provenance": run.manifest.model_dump(mode="json", exclude={"anchors": {"order", "measurements"}}),
    }
    styles, scripts = ["_base.css", "_scan.css"], ["_common.js", "_tokens.js", "_scan.js"]
    return render_page("_scan.html.j2", page, data, styles=styles, scripts=scripts, connect=live)


def _summaries(table: RowTable) -> list[ScoreSummary]:
    run = table.run
    flags = {name: run.flags(column) for column, name in table.traits.items()}
    lengths = run.floats("response_tokens")
    summaries = []
    for name in (column.name for column in table.columns):
        direction = run.risk_direction(name)
        if direction != "none" and np.isfinite(run.floats(name)[run.scored]).any():
            summaries.append(summarise_score(name, direction, run.scores(name), run.ranked(name), lengths, flags))
    return summaries


def _steps(table: RowTable) -> list[Data]:
    """What leaving out the riskiest rows takes away, by share: rows, trained tokens, rows of each trait."""
    if not len(table.ranked):
        return []
    run, ranked = table.run, table.ranked
    tokens = run.floats("response_tokens")[ranked].cumsum()
    traits = {name: run.flags(column)[ranked].cumsum() for column, name in table.traits.items()}
    steps = {share: number_of_rows(f"{share}%", len(ranked)) for share in LEFT_OUT}
    scores = run.scores(table.ranking or "")[ranked]
    return [
        {
            **{"share": share, "rows": rows, "cut": float(scores[rows - 1])},
            **{"tokenShare": float(tokens[rows - 1] / max(tokens[-1], 1))},
            "traits": {name: int(counts[rows - 1]) for name, counts in traits.items() if counts[rows - 1]},
        }
        for share, rows in steps.items()
    ]


def _kinds(table: RowTable, answer: ScanAnswer | None) -> list[Data]:
    """Kinds of rows that a reader can filter by: first those that the riskiest hold more of than rows as long do."""
    groups = {one.name: one for one in (answer.groups if answer else ())}
    others = [name for column, name in table.traits.items() if name not in groups and table.run.flags(column).any()]
    kinds: list[Data] = []
    for name in (*groups, *others):
        kind: Data = {"name": name}
        if (one := groups.get(name)) is not None:
            kind |= {"riskiest": one.riskiest, "expected": one.equal_lengths, "over": one.over}
        if name in REQUESTS:
            kind["pattern"] = REQUESTS[name].replace(r"\A", "^")
        kinds.append(kind)
    return kinds


def _commands(run: ScanRun, live: bool) -> dict[str, str]:
    """What to do next, each with this run's own paths; ``{share}`` is what the reader chooses."""
    data = Path(run.manifest.dataset.path)
    if not run.folder.is_absolute() and data.is_relative_to(Path.cwd()):
        # as the run's own path, from where the reader is
        data = data.relative_to(Path.cwd())
    folder, dataset = shlex.quote(str(run.folder)), shlex.quote(str(data))
    model, out = shlex.quote(run.options.model), shlex.quote(f"{run.folder}-check")
    options = f"--model {model} --recipe lora --out {out}"
    found = {
        "Write the data without these rows": f"ripcurrent select {folder} --top {{share}}% --drop",
        "Measure what training on all rows does": f"ripcurrent check {dataset} {options}",
    }
    return found if live else found | {"See every row": f"ripcurrent view {folder}"}


def _chart_data(run: ScanRun, summaries: Sequence[ScoreSummary], traits: Sequence[str]) -> Data:
    lengths = run.floats("response_tokens")[run.scored]
    lengths = lengths[lengths >= 1]
    shortest, longest = (float(lengths.min()), float(lengths.max())) if len(lengths) else (1.0, 1.0)
    charts: Data = {summary.name: {**asdict(summary), "cuts": short(summary.cuts)} for summary in summaries}
    if not without_plots():
        from ripcurrent.report._charts import distribution_spec, formats_spec, length_spec

        for summary in summaries:
            charts[summary.name] |= {
                "distribution": distribution_spec(summary),
                "length": length_spec(summary, shortest, longest),
                "formats": formats_spec(summary, traits),
            }
    return charts
