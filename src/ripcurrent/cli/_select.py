"""``ripcurrent select``: rows of a finished scan with their controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ripcurrent.cli._command import ADVANCED, command
from ripcurrent.cli._output import Output
from ripcurrent.cli._text import say, show_table
from ripcurrent.select import SelectOptions

if TYPE_CHECKING:
    from ripcurrent.select import SelectionRecord

PANELS = {
    "Rows": ("top", "bottom", "union", "between", "by", "drop"),
    "Output": ("out", "name"),
    ADVANCED: ("format_draw", "rows", "seed", "match_loss", "data"),
}
EXAMPLES = ("ripcurrent select runs/support --top 100 --drop", "ripcurrent select runs/support --between 90%:100%")


@command("select", PANELS, EXAMPLES)
def select_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished scan.")],
    options: SelectOptions,
    output: Output,
) -> None:
    """Select rows by score, with their controls, in the dataset's own format.

    Every selection comes with random, length-matched and format-matched rows for each seed, and the other end of the
    ranking. Each has a JSON record of its rule, rows and distances beside it.
    """
    from ripcurrent.select import select

    with output.progress() as progress:
        progress.step("selecting rows and drawing their controls")
        records = select(run, options)
    output.answer(
        lambda: {"run": str(run), "selections": [_row(record, records) for record in records]}, lambda: _show(records)
    )


def _row(record: SelectionRecord, records: Sequence[SelectionRecord]) -> dict[str, object]:
    from ripcurrent.select import overlap

    selection, summary = record.selection, record.summary
    return {
        "name": selection.name,
        "kind": selection.kind,
        "rule": selection.rule,
        "control_of": selection.control_of,
        "column": selection.column,
        "seed": selection.seed,
        "rows": summary.rows,
        "shortfall": selection.shortfall,
        "filled": selection.filled,
        "mean_response_tokens": summary.length.mean,
        "list_share": summary.format_shares["is_list"],
        "maths_share": summary.format_shares["is_maths"],
        "overlap_with_first": overlap(selection, records[0].selection).count,
        "distances": [asdict(distance) for distance in selection.distances],
        "notes": selection.notes,
        "file": str(record.path),
        "record": str(record.record_path),
        "remaining_file": None if record.remaining_path is None else str(record.remaining_path),
    }


def _show(records: Sequence[SelectionRecord]) -> None:
    from ripcurrent.select import overlap

    first, rows = records[0], []
    for record in records:
        selection, summary = record.selection, record.summary
        label = selection.name.removeprefix(f"{selection.control_of}-control-")
        rows.append(
            (
                label if selection.control_of is None else f"  {label.replace('-', ', seed ')}",
                f"{summary.rows}" + (f" ({selection.shortfall} short)" if selection.shortfall else ""),
                *_shape(summary.length.mean, summary.format_shares),
                f"{overlap(selection, first.selection).count}",
                f"{selection.distances[0].mean_absolute_difference:.1f}" if selection.distances else "",
            )
        )
    whole = first.summary
    shape = _shape(whole.whole_length.mean, whole.whole_format_shares)
    rows.append(("all usable rows", f"{whole.whole_rows}", *shape, f"{whole.rows}", ""))
    show_table(
        ("selection", "rows", "mean\ntokens", "lists", "maths", "in\nfirst", "distance"),
        rows,
        caption=f"in first: rows that are also in {first.selection.name}\n"
        "distance: mean difference in response tokens from the selection",
    )
    say(
        *(f"{record.selection.name}: {note}" for record in records for note in record.selection.notes),
        f"{len(records)} selections and their records are in {first.path.parent}",
        *(f"Without {one.selection.name}: {one.remaining_path}" for one in records if one.remaining_path),
    )


def _shape(tokens: float, shares: Mapping[str, float]) -> tuple[str, str, str]:
    return f"{tokens:.1f}", f"{shares['is_list']:.0%}", f"{shares['is_maths']:.0%}"
