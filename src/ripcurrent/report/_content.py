"""Everything the page says, measured and gathered, before any markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ripcurrent.report._charts import POINTS, distribution_spec, formats_spec, length_spec
from ripcurrent.report._row_texts import RowTexts, read_row_texts
from ripcurrent.report._shown_rows import SAMPLE_SEED, ShownRows, choose_shown_rows, nearest_anchors, take_columns
from ripcurrent.report._summary import ScoreSummary, read_traits, risk_order, summarise_score
from ripcurrent.report._token_shares import PageShares, read_page_shares
from ripcurrent.scan._columns import Column
from ripcurrent.scan._scan_run import Bools, Floats, Indices, ScanRun

EXACT = 7
"""Digits of points and of the cuts that colour them: as many as a score has, so that a cut parts the rows it should."""


@dataclass(frozen=True, slots=True)
class PageContent:
    """What the template shows and what the page's script reads."""

    run: ScanRun
    """The run."""
    status_counts: Mapping[str, int]
    """Rows per status."""
    ranking: str | None
    """The score that ranks the rows; None where no row has any score."""
    ranked: int
    """Rows that have it."""
    summaries: tuple[ScoreSummary, ...]
    """Every score that some row has, in the contract's order."""
    columns: tuple[Column, ...]
    """The measures of the table, for the glossary."""
    shown: ShownRows
    """The rows in the page."""
    text_note: str
    """Why some texts are absent; empty if none is."""
    points_note: str
    """How the points of the length plot were drawn."""
    token_shares: PageShares | None
    """Token shares of the rows that have them; None where the run kept none."""
    data: Mapping[str, Any]
    """What the script reads, as JSON values."""


def page_content(run: ScanRun) -> PageContent:
    """Measure and gather everything for the page of a run."""
    columns = run.measures()
    lengths = run.floats("response_tokens")
    traits = read_traits(run)
    directed = [(c.name, run.direction(c.name)) for c in columns if run.direction(c.name) != "none"]
    summed = (summarise_score(name, way, run.floats(name), lengths, traits) for name, way in directed)
    summaries = tuple(summary for summary in summed if summary is not None)
    ranking = _ranking(run, summaries)
    order = np.zeros(0, dtype=np.int64)
    if ranking is not None:
        order = risk_order(run.floats(ranking), run.direction(ranking))
    shown = choose_shown_rows(order, run.scored())
    # with --prefilter most rows have representation scores alone
    unranked = np.setdiff1d(np.flatnonzero(run.scored()), order)
    points = _choose_points(order, unranked, lengths)
    shown_columns = take_columns(
        run, shown.indices, ["row", "id", "status", "truncated", *(c.name for c in columns), *traits]
    )
    texts = read_row_texts(run, shown.indices, shown_columns["id"])
    token_shares = read_page_shares(run, shown.indices, shown_columns["gradient_norm"], texts.texts)
    drawable = len(order) + len(unranked)
    drawn = f"All {len(points):,} scored rows are drawn."
    if len(points) < drawable:
        drawn = (
            f"{len(points):,} of {drawable:,} scored rows are drawn: both ends of the {ranking} ranking and a random "
            "sample of the rest. The line and the band are of all rows."
        )
    if len(unranked):
        drawn += f" Of them {np.isin(points, order).sum():,} have a {ranking}; a score is drawn where there is one."
    data = {
        "ranking": ranking,
        "scores": [summary.name for summary in summaries],
        "columns": {
            c.name: {"direction": run.direction(c.name), "meaning": c.meaning, "whole": c.kind == "int"}
            for c in columns
        },
        "traits": list(traits),
        "anchors": [[str(name), int(number)] for name, number in run.manifest.get("anchors", {}).get("order") or []],
        "charts": _chart_data(run, summaries, lengths, traits, points),
        "rows": _row_data(run, shown, shown_columns, [c.name for c in columns], list(traits), texts),
        "shares": token_shares and {"safe_sets": token_shares.safe_sets, "rows": token_shares.data},
    }
    return PageContent(
        run, run.status_counts(), ranking, len(order), summaries, columns, shown, texts.note, drawn, token_shares, data,
    )  # fmt: skip


def _ranking(run: ScanRun, summaries: Sequence[ScoreSummary]) -> str | None:
    measured = [summary.name for summary in summaries]
    default = str(run.metadata.get("default_ranking"))
    if default in measured:
        return default
    higher = [summary.name for summary in summaries if summary.direction == "higher"]
    return next(iter(higher + measured), None)


def _choose_points(order: Indices, unranked: Indices, lengths: Floats) -> Indices:
    """Rows to draw: both ends of the ranking, and a random sample of the other scored ones, ranked or not."""
    order, unranked = order[lengths[order] >= 1], unranked[lengths[unranked] >= 1]
    if len(order) + len(unranked) <= POINTS:
        return np.sort(np.concatenate([order, unranked]))
    end = min(100, len(order) // 2)
    ends = np.concatenate([order[:end], order[len(order) - end :]])
    rest = np.concatenate([order[end : len(order) - end], unranked])
    random = np.random.default_rng(SAMPLE_SEED)
    return np.sort(np.concatenate([ends, random.choice(rest, POINTS - len(ends), replace=False)]))


def _chart_data(
    run: ScanRun,
    summaries: Sequence[ScoreSummary],
    lengths: Floats,
    traits: Mapping[str, Bools],
    points: Indices,
) -> dict[str, Any]:
    shortest, longest = (float(lengths[points].min()), float(lengths[points].max())) if len(points) else (1.0, 1.0)
    return {
        "points": {
            "row": points.tolist(),
            "length": lengths[points].astype(int).tolist(),
            "scores": {s.name: _short(run.floats(s.name)[points].tolist(), EXACT) for s in summaries},
        },
        "scores": {
            summary.name: {
                "distribution": distribution_spec(summary),
                "length": length_spec(summary, shortest, longest),
                "formats": formats_spec(summary, list(traits)),
                "ends": summary.end_rows,
                "cuts": _short([summary.safest_cut, summary.quantiles[3], summary.riskiest_cut], EXACT),
                "range": [summary.quantiles[0], summary.quantiles[-1]],
                "edges": _short(summary.bins.edges, 6),
                "counts": summary.bins.rows,
                "beyond": summary.bins.beyond,
                "bands": [asdict(band) for band in summary.bands],
                "shares": [asdict(share) for share in summary.shares],
                "correlation": summary.length_correlation,
            }
            for summary in summaries
        },
    }


def _row_data(
    run: ScanRun,
    shown: ShownRows,
    columns: Mapping[str, list[Any]],
    measures: Sequence[str],
    traits: Sequence[str],
    texts: RowTexts,
) -> dict[str, Any]:
    held = [texts.texts.get(index) for index in shown.indices.tolist()]
    return {
        "row": columns["row"],
        "id": columns["id"],
        "status": columns["status"],
        "truncated": [bool(value) for value in columns["truncated"]],
        "rank": shown.ranks,
        "group": shown.groups,
        "traits": [[trait for trait in traits if columns[trait][i]] for i in range(len(held))],
        "values": {name: _short(columns[name], 6) for name in measures},
        "prompt": [pair and pair[0].text for pair in held],
        "response": [pair and pair[1].text for pair in held],
        "whole": [pair and [pair[0].characters, pair[1].characters] for pair in held],
        "nearest": nearest_anchors(run, shown.indices),
    }


def _short(values: Sequence[Any], digits: int) -> list[int | float | None]:
    """Numbers to so many digits, for JSON: whole numbers as they are, NaN and null as None."""
    return [
        value
        if isinstance(value, int)
        else float(f"{value:.{digits}g}")
        if value is not None and value == value
        else None
        for value in values
    ]
