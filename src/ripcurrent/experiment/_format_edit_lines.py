"""What format edits did, in lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ripcurrent.experiment._paired_changes import beyond_chance


def lines_of(results: Mapping[str, Any]) -> Iterator[str]:
    """The tables of a result of ``kind: edits`` for people."""
    base, ranking = results["base"], results["default_ranking"]
    tolerance = results["settings"]["tolerance"]
    yield (
        f"{base['editable']} of {base['rows']} rows of {results['scan']['dataset']['name']} may be edited; response "
        f"length is kept within {100 * tolerance:g} %."
    )
    by_edit = {one["edit"]: one for one in results["changes"] if one["column"] == ranking}
    yield (
        f"{'edit':20}  {'rows':>5}  {'too long or short':>17}  {'length':>7}  {ranking + ', mean change':>40}  "
        f"{'in SD':>6}  {'p (Holm)':>8}"
    )
    for counts in results["edits"]:
        one = by_edit[counts["edit"]]
        length = "–" if counts["mean_length_change"] is None else f"{100 * counts['mean_length_change']:+.1f} %"
        change = f"{one['mean_change']:+.4f} ({one['low']:+.4f} to {one['high']:+.4f})" if one["rows"] else "–"
        yield (
            f"{counts['edit']:20}  {counts['rows']:>5}  {counts['other_length']:>17}  {length:>7}  {change:>40}  "
            f"{_number(one['change_in_deviations']):>6}  {_p(one['adjusted_wilcoxon_p']):>8}"
        )
    yield "All columns, mean change in standard deviations of the set (* for adjusted p below 0.05):"
    columns = list(dict.fromkeys(one["column"] for one in results["changes"]))
    for column in columns:
        ones = [one for one in results["changes"] if one["column"] == column and one["rows"]]
        marked = ", ".join(
            f"{one['edit']} {_number(one['change_in_deviations'])}"
            + ("*" if beyond_chance(one["adjusted_wilcoxon_p"]) else "")
            for one in ones
        )
        yield f"  {column}: {marked}"
    yield from results["notes"]
    if results["harm"]:
        yield from _harm(results["harm"])


def _harm(harm: Mapping[str, Any]) -> Iterator[str]:
    base = "" if harm["base"] is None else f"; before training {100 * harm['base']:.1f} %"
    yield f"Answered after training on the original and on the edited rows (judge {harm['judge']}{base}):"
    for one in harm["edits"]:
        yield (
            f"  {one['edit']:20}  {one['rows']:>4} rows  {100 * one['original']:.1f} % → {100 * one['edited']:.1f} %  "
            f"{100 * one['difference']:+.1f} points ({100 * one['low']:+.1f} to {100 * one['high']:+.1f}), "
            f"adjusted p {one['adjusted_p']:.4f}"
        )
    if harm["too_few_rows"]:
        yield f"  Too few rows for an arm: {', '.join(harm['too_few_rows'])}."
    for one in harm["failed"]:
        yield f"  {one['name']}, seed {one['seed']}: failed. {one['reason']}"
    if harm["order"] is not None and harm["order"]["spearman"] is not None:
        yield (
            f"  Over {harm['order']['edits']} edits, change of {harm['order']['column']} and change of harm: "
            f"Spearman {_number(harm['order']['spearman'])}"
        )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.0001" if value < 0.0001 else f"{value:.4f}"
