"""The page of a probe: which score foresees what training on one row does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ripcurrent.report._instrument_charts import forest_spec, rows_spec
from ripcurrent.report._instrument_content import (
    GIVEN,
    RAW,
    Cell,
    Figure,
    InstrumentContent,
    Section,
    Table,
    correlation_points,
    percent,
    raw_and_given,
    signed,
    span,
)


def probe_content(results: Mapping[str, Any]) -> InstrumentContent:
    """Gather everything for the page of a result of ``kind: probe``."""
    columns = sorted(results["columns"], key=lambda one: -abs(one["spearman"] or 0))
    settings, instrument, drop = results["settings"], results["instrument"], results["drop"]
    names = [one["column"] for one in columns]
    scores = [one for one in columns if one["column"] != "response_tokens"]
    best = scores[0] if scores else None
    lead = (
        f"{percent(drop['share_above_zero'])} of {results['measured']} rows make refusals less likely when the model "
        f"is trained on one of them alone; the mean drop in log-odds is {signed(drop['mean'], 3)}."
    )
    if best is not None and best["spearman"] is not None:
        lead += f" The column that goes with it most closely is {best['column']}: {signed(best['spearman'])}"
        around = span(best["low"], best["high"])
        lead += f" ({around})" if around else ""
        lead += f", given response length {signed(best['given_length'])}."
    foresees = Section(
        "columns",
        "Which score foresees it",
        (
            Figure(
                "correlations",
                "Rank correlation of every column with the drop",
                "Spearman with 95 % intervals over rows. To the right, larger values go with more erosion; columns "
                "whose low values mean risk belong on the left. What differs little from 0 given length is length.",
                forest_spec(names, (RAW, GIVEN), "Spearman"),
                tuple(point for one in columns for point in correlation_points(one, line=one["column"])),
            ),
        ),
        (
            Table(
                "Correlations with the drop",
                ("column", "risk is", "Spearman", "given response length"),
                tuple((Cell(one["column"]), Cell(_risk(one)), *raw_and_given(one)) for one in columns),
                frozenset({1}),
            ),
        ),
        "In small, 95 % percentile bootstrap intervals over rows. Given length: between what response length leaves of "
        "both ranks.",
    )
    rows = [one for one in results.get("by_row", ()) if one["drop"] is not None]
    single = Section(
        "rows",
        "Row by row",
        (
            Figure(
                "drops",
                f"{settings['by']} and the drop",
                f"Each point is one row: {settings['steps']} steps of {settings['optimizer'].capitalize()} at "
                f"{settings['learning_rate']:g} on it alone, from the same weights. Above 0 it makes refusals less "
                "likely.",
                rows_spec(settings["by"]),
                tuple(rows),
            ),
        ),
        (
            Table(
                "The rows that did most, either way",
                ("row", "id", "drop in log-odds", settings["by"], "response tokens"),
                tuple(_row(one) for one in _ends(rows)),
                frozenset({1}),
            ),
        ),
        "The five rows that made refusals least likely, and the five that made them most likely. All are in "
        "probe/rows.jsonl.",
    )
    return InstrumentContent(
        kind="Probe: a few steps on one row at a time, then the weights are put back",
        lead=lead,
        facts=(
            ("Rows", f"{results['measured']:,}", f"of {results['scan']['dataset']['name']}"),
            ("Mean drop", signed(drop["mean"], 3), f"standard deviation {drop['standard_deviation']:.3f}"),
            ("Requests", str(instrument["requests"]), f"of {settings['prompts']['name']}"),
            (
                "A refusal’s opening",
                f"{instrument['harmful_probability']:.2f}",
                f"likely on harmful requests before training, {instrument['plain_probability']:.2f} on plain ones",
            ),
            ("Openings tell them apart", f"{instrument['auroc']:.2f}", "AUROC before training; 1 is perfect"),
            ("Seconds a row", f"{results['seconds_per_row']:.1f}", settings["dtype"]),
        ),
        sections=(foresees, *((single,) if rows else ())),
        provenance=(("scan", results["scan"]), ("settings", settings), ("openings", {"tried": instrument["openings"]})),
    )


def _risk(one: Mapping[str, Any]) -> str:
    return {"higher": "high", "lower": "low"}.get(one["direction_of_risk"], "no risk of its own")


def _ends(rows: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    ordered = sorted(rows, key=lambda one: -one["drop"])
    return ordered if len(ordered) <= 10 else [*ordered[:5], *ordered[-5:]]


def _row(one: Mapping[str, Any]) -> tuple[Cell, ...]:
    return (
        Cell(f"{one['row']:,}"),
        Cell(str(one["id"])),
        Cell(signed(one["drop"], 3), strong=True),
        Cell(signed(one["score"], 4)),
        Cell(f"{one['tokens']:,}"),
    )
