"""The table of the peers, as Markdown, and what it says of the goal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

OURS = "ripcurrent"

ACCURATE = {"float32": 0.999, "bfloat16": 0.98}
"""Spearman against the float32 oracle from which a result counts; none in bfloat16 reaches 0.999 on this model."""

SCOPES = {"linear": "Linear layers of the base model", "all": "All parameters"}


def markdown(figures: Mapping[str, Any]) -> str:
    """Every scope and type as a table, then the goals."""
    parts = [_heading(figures)]
    for scope, title in SCOPES.items():
        for dtype in figures["dtypes"]:
            entries = [e for e in figures["results"] if e["scope"] == scope and e["dtype"] == dtype]
            if entries:
                parts += [f"### {title}, {dtype}", _table(entries, figures), _goals(entries, figures)]
    return "\n\n".join(parts) + "\n"


def goals(entries: Sequence[Mapping[str, Any]], sets: Sequence[str]) -> list[dict[str, Any]]:
    """For each set of rows: the fastest other at the oracle's accuracy that gives cosines, and our ratio to it."""
    ours = next((e for e in entries if e["peer"] == OURS and "error" not in e), None)
    found = []
    for name in sets if ours else ():
        assert ours is not None
        others = [
            e
            for e in entries
            if e["peer"] != OURS
            and "error" not in e
            and e["measure"] == "cosine"
            and e["spearman"] >= ACCURATE[e["dtype"]]
        ]
        accurate = ours["spearman"] >= ACCURATE[ours["dtype"]]
        best = max(others, key=lambda e: e["rows_per_second"][name], default=None)
        ratio = None if best is None else ours["rows_per_second"][name] / best["rows_per_second"][name]
        found.append(
            {
                "rows": name,
                "fastest_other": None if best is None else best["peer"],
                "ratio": ratio,
                "verdict": "pass" if accurate and (ratio is None or ratio > 1.0) else "FALL SHORT",
            }
        )
    return found


def _heading(figures: Mapping[str, Any]) -> str:
    sets = "; ".join(
        f"{name}: {figures['counts'][name]} rows of `{figures['files'][name]}`, mean {tokens:.0f} tokens"
        for name, tokens in figures["mean_tokens"].items()
    )
    return (
        f"{figures['date']}; {figures['machine']}, {figures['threads']} thread{'s' * (figures['threads'] != 1)}, "
        f"torch {figures['torch']}. {sets}. Two directions, each the mean normalised gradient of {figures['anchors']} "
        f"anchors. Seconds are for the rows alone, after model and directions are loaded, nothing warmed up"
        f"{_repeats(figures)}; peak memory is that of the process until they are done. Spearman is the lower of the "
        f"two directions', over all rows, against one-row autograd in float32; the largest difference is from its "
        f"products of normalised row gradients with the directions."
    )


def _repeats(figures: Mapping[str, Any]) -> str:
    return "" if figures["repeat"] == 1 else f", the best of {figures['repeat']} runs"


def _table(entries: Sequence[Mapping[str, Any]], figures: Mapping[str, Any]) -> str:
    sets = list(figures["counts"])
    columns = [
        "",
        *(f"s, {name}" for name in sets),
        *(f"rows/s, {name}" for name in sets),
        "peak memory, GB",
        "Spearman",
        "largest difference",
        "left out",
        "how",
    ]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for entry in entries:
        if "error" in entry:
            empty = ["–"] * (2 * len(sets) + 3)
            cells = [entry["peer"], *empty, "–", f"**did not {entry['stage']}**: {entry['error']}"]
        else:
            seconds, rates = entry["seconds"], entry["rows_per_second"]
            note = "" if entry["rows"] == sum(figures["counts"].values()) else f" ({entry['rows']} rows)"
            cells = [
                f"**{entry['peer']}**" if entry["peer"] == OURS else entry["peer"],
                *(f"{seconds[name]:.1f}" for name in sets),
                *(f"{rates[name]:.2f}" for name in sets),
                f"{entry['peak_bytes'] / 1e9:.1f}",
                f"{entry['spearman']:.4f}{note}",
                "–" if entry["largest_difference"] is None else f"{entry['largest_difference']:.0e}",
                entry["left_out"] or "nothing",
                entry["settings"],
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _goals(entries: Sequence[Mapping[str, Any]], figures: Mapping[str, Any]) -> str:
    lines = []
    for goal in goals(entries, list(figures["counts"])):
        against = (
            "no other that gives cosines at the oracle's accuracy"
            if goal["ratio"] is None
            else f"{goal['ratio']:.2f} times the fastest other at the oracle's accuracy ({goal['fastest_other']})"
        )
        lines.append(f"- Goal: fastest, {goal['rows']} rows: {against}: **{goal['verdict']}**")
    return "\n".join(lines)
