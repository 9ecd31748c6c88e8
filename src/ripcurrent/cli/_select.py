"""``ripcurrent select``: rows of a finished scan with their controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from ripcurrent.cli._command import ADVANCED, command
from ripcurrent.cli._output import Output
from ripcurrent.select import SelectOptions

if TYPE_CHECKING:
    from ripcurrent.select import SelectionRecord

PANELS = {
    "Rows": ("top", "bottom", "union", "between", "by", "drop"),
    "Output": ("out", "name"),
    ADVANCED: ("format_draw", "rows", "seed", "match_loss", "data"),
}
EXAMPLES = (
    "ripcurrent select runs/support --top 100 --drop",
    "ripcurrent select runs/support --between 90%:100%",
)


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


def _show(records: Sequence[SelectionRecord]) -> None:
    console = Console()
    console.print(_table(records))
    lines = [f"{record.selection.name}: {note}" for record in records for note in record.selection.notes]
    lines.append(f"{len(records)} selections and their records are in {records[0].path.parent}")
    lines += [f"Without {one.selection.name}: {one.remaining_path}" for one in records if one.remaining_path]
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)


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


def _table(records: Sequence[SelectionRecord]) -> Table:
    from ripcurrent.select import overlap

    first = records[0]
    table = Table(caption="distance: mean difference in response tokens from the selection")
    table.add_column("selection", no_wrap=True)
    for heading in ("rows", "mean\ntokens", "lists", "maths", f"in\n{first.selection.name}", "distance"):
        table.add_column(heading, justify="right")
    for record in records:
        selection, summary = record.selection, record.summary
        if selection.control_of is None:
            table.add_section()
        label = selection.name.removeprefix(f"{selection.control_of}-control-")
        table.add_row(
            label if selection.control_of is None else f"  {label.replace('-', ', seed ')}",
            f"{summary.rows}" + (f" ({selection.shortfall} short)" if selection.shortfall else ""),
            f"{summary.length.mean:.1f}",
            f"{summary.format_shares['is_list']:.0%}",
            f"{summary.format_shares['is_maths']:.0%}",
            f"{overlap(selection, first.selection).count}",
            f"{selection.distances[0].mean_absolute_difference:.1f}" if selection.distances else "",
        )
    whole = first.summary
    table.add_section()
    table.add_row(
        "all usable rows",
        f"{whole.whole_rows}",
        f"{whole.whole_length.mean:.1f}",
        f"{whole.whole_format_shares['is_list']:.0%}",
        f"{whole.whole_format_shares['is_maths']:.0%}",
        f"{whole.rows}",
        "",
    )
    return table
