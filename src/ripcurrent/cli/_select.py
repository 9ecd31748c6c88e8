"""``ripcurrent select``: rows of a finished scan with their controls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ripcurrent.errors import RipcurrentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from ripcurrent.select import SelectionRecord


def select_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished scan.")],
    top: Annotated[
        str | None, typer.Option(metavar="K|P%", help="The K riskiest rows, or a share of all scored ones.")
    ] = None,
    bottom: Annotated[
        str | None, typer.Option(metavar="K|P%", help="The K most protective rows, or a share of all scored ones.")
    ] = None,
    highest: Annotated[str | None, typer.Option(metavar="K|P%", help="The K rows of largest value of --by.")] = None,
    lowest: Annotated[str | None, typer.Option(metavar="K|P%", help="The K rows of smallest value of --by.")] = None,
    union: Annotated[
        int | None, typer.Option(metavar="K", help="The K nearest rows of each harmful anchor, by representation.")
    ] = None,
    between: Annotated[
        str | None,
        typer.Option(
            metavar="LOW:HIGH",
            help="Rows with a value of --by in a range: 0.1:0.3, one end open 0.1:, or quantiles 90%:100%.",
        ),
    ] = None,
    format_draw: Annotated[
        str | None,
        typer.Option(metavar="FORMAT", help="Random rows of one format: list, bullet, numbered, maths or code."),
    ] = None,
    rows: Annotated[
        int | None, typer.Option(metavar="K", help="How many rows --format-draw takes; 100 unless named.")
    ] = None,
    by: Annotated[str | None, typer.Option(metavar="COLUMN", help="Score column; the run's default ranking.")] = None,
    seed: Annotated[
        list[int] | None, typer.Option(metavar="N", help="Seed of the draws, may be repeated; 0, 1 and 2 by default.")
    ] = None,
    match_loss: Annotated[bool, typer.Option("--match-loss", help="Add controls matched by loss.")] = False,
    drop: Annotated[bool, typer.Option("--drop", help="Also write the dataset without the selection.")] = False,
    name: Annotated[str | None, typer.Option(help="Name of the selection's files, when it is the only one.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where to write; RUN/selections.")] = None,
    data: Annotated[
        str | None, typer.Option(metavar="DATASET", help="Where the scanned dataset is, if it was moved.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Select rows by score, with their controls, in the dataset's own format.

    Every selection comes with random, length-matched and format-matched rows for each seed, and the other end of the
    ranking. Each has a JSON record of its rule, rows and distances beside it.
    """
    from rich.console import Console

    from ripcurrent.select._select import select

    if rows is not None and format_draw is None:
        raise RipcurrentError(
            f"--rows {rows} is for --format-draw, which is not given.",
            f"The other rules take their number themselves, such as --top {rows}.",
        )
    low_high, probabilities = parse_range(between) if between is not None else (None, None)
    with Console(stderr=True, quiet=quiet or as_json).status("Selecting rows and drawing their controls"):
        records = select(
            run,
            top=top,
            bottom=bottom,
            highest=highest,
            lowest=lowest,
            union=union,
            between=low_high,
            quantiles=probabilities,
            formats={format_draw: 100 if rows is None else rows} if format_draw is not None else None,
            by=by,
            seeds=seed or (0, 1, 2),
            losses=match_loss,
            drop=drop,
            out=out,
            name=name,
            data=data,
        )
    if as_json:
        import json

        typer.echo(json.dumps({"run": str(run), "selections": [_row(record, records) for record in records]}))
    elif not quiet:
        console = Console()
        console.print(_table(records))
        for record in records:
            for note in record.selection.notes:
                console.print(f"{record.selection.name}: {note}", soft_wrap=True, markup=False)
        where = records[0].path.parent
        console.print(f"{len(records)} selections and their records are in {where}", soft_wrap=True, markup=False)
        for record in records:
            if record.remaining_path is not None:
                line = f"Without {record.selection.name}: {record.remaining_path}"
                console.print(line, soft_wrap=True, markup=False)


def parse_range(text: str) -> tuple[tuple[float | None, float | None] | None, tuple[float, float] | None]:
    """``LOW:HIGH`` as values, or with percent signs as probabilities; an end that is left out is open.

    Raises:
        RipcurrentError: Not two numbers, or a value beside a percentage.
    """
    ends = text.split(":")
    percent = [end.endswith("%") for end in ends if end]
    try:
        numbers = [float(end.removesuffix("%")) if end else None for end in ends]
    except ValueError:
        numbers = []
    if len(numbers) != 2 or (any(percent) and not all(percent)):
        raise RipcurrentError(
            f"--between {text} is not a range.", "Write --between 0.1:0.3, --between 0.1: or --between 90%:100%."
        )
    low, high = numbers
    if any(percent):
        return None, (0.0 if low is None else low / 100, 1.0 if high is None else high / 100)
    return (low, high), None


def _row(record: SelectionRecord, records: Sequence[SelectionRecord]) -> dict[str, Any]:
    from dataclasses import asdict

    from ripcurrent.select import overlap, plain_numbers

    selection, summary = record.selection, record.summary
    row = {
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
    plain: dict[str, Any] = plain_numbers(row)
    return plain


def _table(records: Sequence[SelectionRecord]) -> Table:
    from rich.table import Table

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
