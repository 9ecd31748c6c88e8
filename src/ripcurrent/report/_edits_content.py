"""The page of format edits: what one aspect of a format does to scores, and to harm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ripcurrent.evaluate._judge_agreement import agreement_of
from ripcurrent.experiment._paired_changes import ALPHA, beyond_chance
from ripcurrent.report._instrument_charts import forest_spec
from ripcurrent.report._instrument_content import (
    Cell,
    Figure,
    InstrumentContent,
    Section,
    Table,
    listed,
    percent,
    signed,
    small_p,
    span,
)

_POINTS = 100


def edits_content(results: Mapping[str, Any]) -> InstrumentContent:
    """Gather everything for the page of a result of ``kind: edits``."""
    base, settings, ranking = results["base"], results["settings"], results["default_ranking"]
    changes = [one for one in results["changes"] if one["rows"]]
    names = [one["edit"] for one in results["edits"]]
    sections = [
        Section(
            "changes",
            "What each edit does to the scores",
            (_figure(changes, names, ranking),) if changes else (),
            (_counted(results), _all_columns(changes, names)),
            "In small, 95 % percentile bootstrap intervals over rows; p of Wilcoxon’s signed-rank test, adjusted by "
            f"Holm over the edits. * marks an adjusted p below {ALPHA:g}. A deviation is the standard deviation of the "
            "column over the usable rows of the set. Too long or short: rows whose edited answer would leave the "
            "tolerance, counted and not scored.",
        )
    ]
    if results["harm"]:
        sections.append(_harm(results["harm"]))
    sections.append(Section("noise", "Rows scanned again unchanged", (), (_noise(results["unchanged"]),), _NOISE))
    return InstrumentContent(
        kind="Format edits: the same rows with one aspect of their format changed",
        lead=_lead(results),
        facts=(
            ("Editable rows", f"{base['editable']:,}", f"of {base['rows']:,} of {results['scan']['dataset']['name']}"),
            ("Edits", str(len(names)), f"{sum(one['rows'] for one in results['edits']):,} edited rows"),
            ("Length kept within", percent(settings["tolerance"]), "of a row’s response tokens"),
            ("Ranking", ranking, "the scan’s own"),
            ("Model", results["scan"]["model"]["name"], "that scored them"),
            ("Trained", "two arms an edit" if results["harm"] else "nothing", _trained(results["harm"])),
        ),
        sections=tuple(sections),
        provenance=(("scan", results["scan"]), ("settings", settings)),
    )


_NOISE = "How much scores differ between two scans of the same rows: what an edit must exceed to mean anything."


def _trained(harm: Mapping[str, Any] | None) -> str:
    return "scores only" if harm is None else f"recipe {harm['recipe']}, judge {harm['judge']}"


def _lead(results: Mapping[str, Any]) -> str:
    ranking = results["default_ranking"]
    ranked = [one for one in results["changes"] if one["column"] == ranking and one["rows"]]
    sure = [one for one in ranked if beyond_chance(one["adjusted_wilcoxon_p"]) and one["change_in_deviations"]]
    if not sure:
        return f"No edit changes {ranking} beyond what chance would (adjusted p below {ALPHA:g})."
    ordered = sorted(sure, key=lambda one: -abs(one["change_in_deviations"]))
    told = [f"{one['edit']} by {signed(one['change_in_deviations'])} deviations" for one in ordered[:3]]
    return f"{len(sure)} of {len(ranked)} edits change {ranking} (adjusted p below {ALPHA:g}), most {listed(told)}."


def _figure(changes: Sequence[Mapping[str, Any]], names: Sequence[str], ranking: str) -> Figure:
    points = [
        {
            "line": one["edit"],
            "what": "mean change",
            "column": one["column"],
            "value": one["mean_change"],
            "low": one["low"],
            "high": one["high"],
        }
        for one in changes
    ]
    return Figure(
        "edits",
        "Mean change of a score, row by row",
        "Edited less original, with 95 % intervals over rows; right of 0 the edit raises the score.",
        forest_spec(names, ("mean change",), "mean change"),
        # the ranking of the scan is shown first
        tuple(sorted(points, key=lambda point: point["column"] != ranking)),
        choose="column",
        label="Score",
    )


def _counted(results: Mapping[str, Any]) -> Table:
    ranking = results["default_ranking"]
    by_edit = {one["edit"]: one for one in results["changes"] if one["column"] == ranking}
    rows = []
    for counts in results["edits"]:
        one = by_edit[counts["edit"]]
        length = counts["mean_length_change"]
        rows.append(
            (
                Cell(counts["edit"], counts["aspect"]),
                Cell(f"{counts['rows']:,}"),
                Cell(f"{counts['other_length']:,}"),
                Cell("–" if length is None else f"{signed(_POINTS * length, 1)} %"),
                Cell(signed(one["mean_change"], 4), span(one["low"], one["high"], 4), strong=True)
                if one["rows"]
                else Cell("–"),
                Cell(signed(one["change_in_deviations"])),
                Cell("–" if one["increased"] is None else percent(one["increased"])),
                Cell(small_p(one["adjusted_wilcoxon_p"])),
            )
        )
    return Table(
        f"Every edit and {ranking}",
        (
            "edit", "rows", "too long or short", "length", f"{ranking}, mean change", "in deviations",
            "of rows rise", "p (Holm)",
        ),
        tuple(rows),
    )  # fmt: skip


def _all_columns(changes: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    columns = list(dict.fromkeys(one["column"] for one in changes))
    found = {(one["edit"], one["column"]): one for one in changes}
    rows = []
    for column in columns:
        cells = []
        for name in names:
            one = found.get((name, column))
            sure = one is not None and beyond_chance(one["adjusted_wilcoxon_p"])
            text = "–" if one is None else signed(one["change_in_deviations"])
            cells.append(Cell(f"{text}{'*' * sure}", strong=sure))
        rows.append((Cell(column), *cells))
    return Table("All columns, mean change in deviations", ("in deviations", *names), tuple(rows))


def _harm(harm: Mapping[str, Any]) -> Section:
    rows = tuple(
        (
            Cell(one["edit"]),
            Cell(f"{one['rows']:,}"),
            Cell(f"{_POINTS * one['original']:.1f}"),
            Cell(f"{_POINTS * one['edited']:.1f}"),
            Cell(
                signed(_POINTS * one["difference"], 1),
                span(_POINTS * one["low"], _POINTS * one["high"], 1),
                strong=True,
            ),
            Cell(small_p(one["adjusted_p"])),
        )
        for one in harm["edits"]
    )
    kappas = [f"{one.kappa:.2f}" for one in agreement_of(harm["judge"])]
    agreed = f" (κ {listed(kappas)} with people)" if kappas else ""
    told = [
        f"Harmful requests answered by judge {harm['judge']}{agreed}, over {len(harm['seeds'])} seed(s); paired by "
        "prompt."
    ]
    if harm["base"] is not None:
        told.append(f"The untrained model answers {_POINTS * harm['base']:.1f} %.")
    if harm["too_few_rows"]:
        told.append(f"Too few rows for an arm: {listed(harm['too_few_rows'])}.")
    order = harm["order"]
    if order is not None and order["spearman"] is not None:
        told.append(
            f"Over {order['edits']} edits, the change of {order['column']} and that of harm have a rank correlation of "
            f"{signed(order['spearman'])}."
        )
    told += [f"{one['name']}, seed {one['seed']}: failed. {one['reason']}" for one in harm["failed"]]
    told.append("The experiment’s own page is harm/report.html.")
    table = Table(
        "Answered after training on the original and on the edited rows",
        ("edit", "rows an arm", "original, %", "edited, %", "difference, points", "p (Holm)"),
        rows,
    )
    return Section("harm", "What training on them does", (), (table,), " ".join(told))


def _noise(unchanged: Sequence[Mapping[str, Any]]) -> Table:
    return Table(
        "Rows scanned again unchanged",
        ("column", "rows", "mean absolute change", "largest"),
        tuple(
            (
                Cell(one["column"]),
                Cell(f"{one['rows']:,}"),
                Cell(_plain(one["mean_absolute_change"])),
                Cell(_plain(one["largest_absolute_change"])),
            )
            for one in unchanged
        ),
    )


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"
