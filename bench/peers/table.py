"""The table of the peers, as Markdown, and what it says of the goal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

OURS = "ripcurrent"
ACCURATE = {"float32": 0.999, "bfloat16": 0.98}
"""Spearman against the float32 oracle from which a result counts; none in bfloat16 reaches 0.999 on this model."""
SCOPES = {"linear": "Linear layers of the base model", "all": "All parameters"}
COLUMNS = ("peak memory, GB", "Spearman", "largest difference", "left out", "how")


def markdown(figures: Mapping[str, Any]) -> str:
    """Every scope and type as a table, then the goals."""
    parts = [_heading(figures)]
    for scope, title in SCOPES.items():
        for dtype in ACCURATE:
            entries = [e for e in figures["results"] if e["scope"] == scope and e["dtype"] == dtype]
            if entries:
                parts += [f"### {title}, {dtype}", _table(entries, figures["counts"])]
                parts.append("\n".join(goal(entries, name) for name in figures["counts"]))
    return "\n\n".join(parts) + "\n"


def goal(entries: Sequence[Mapping[str, Any]], rows: str) -> str:
    """For a set of rows: our ratio to the fastest other that gives cosines at the oracle's accuracy."""
    given = [e for e in entries if "error" not in e]
    accurate = [e for e in given if e["cosine"] and e["spearman"] >= ACCURATE[e["dtype"]]]
    others = [e for e in accurate if e["peer"] != OURS]
    ours = next((e for e in given if e["peer"] == OURS), None)
    if ours is None:
        return f"- Goal: fastest, {rows} rows: {OURS} gave no result: **FALLS SHORT**"
    against, ratio = "no other that gives cosines at the oracle's accuracy", None
    if others:
        best = max(others, key=lambda e: e["rows_per_second"][rows])
        ratio = ours["rows_per_second"][rows] / best["rows_per_second"][rows]
        against = f"{ratio:.2f} times the fastest other at the oracle's accuracy ({best['peer']})"
    verdict = "pass" if ours in accurate and (ratio is None or ratio > 1.0) else "FALLS SHORT"
    return f"- Goal: fastest, {rows} rows: {against}: **{verdict}**"


def _heading(figures: Mapping[str, Any]) -> str:
    sets = "; ".join(
        f"{name}: {figures['counts'][name]} rows of `{figures['files'][name]}`, mean {tokens:.0f} tokens"
        for name, tokens in figures["mean_tokens"].items()
    )
    return (
        f"{figures['date']}; {figures['machine']}, {figures['threads']} threads, torch {figures['torch']}. {sets}. Two "
        f"directions, each the mean normalised gradient of {figures['anchors']} anchors. Seconds are for the rows "
        "alone, nothing warmed up. Spearman (the lower of the two directions') and the largest difference are against "
        "one-row autograd in float32."
    )


def _table(entries: Sequence[Mapping[str, Any]], counts: Mapping[str, int]) -> str:
    columns = ["", *(f"s, {name}" for name in counts), *(f"rows/s, {name}" for name in counts), *COLUMNS]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for entry in entries:
        if "error" in entry:
            cells = [entry["peer"], *["–"] * (len(columns) - 2), f"**gave no result**: {entry['error']}"]
        else:
            difference = entry["largest_difference"]
            few = "" if entry["rows"] == sum(counts.values()) else f" ({entry['rows']} rows)"
            cells = [
                f"**{entry['peer']}**" if entry["peer"] == OURS else entry["peer"],
                *(f"{entry['seconds'][name]:.1f}" for name in counts),
                *(f"{entry['rows_per_second'][name]:.2f}" for name in counts),
                f"{entry['peak_bytes'] / 1e9:.1f}",
                f"{entry['spearman']:.4f}{few}",
                "–" if difference is None else f"{difference:.0e}",
                entry["left_out"] or "nothing",
                entry["settings"],
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
