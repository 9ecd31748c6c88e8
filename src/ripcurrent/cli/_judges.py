"""``ripcurrent judges``: how far a judge can be believed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ripcurrent.evaluation import Agreement, JudgeValidation

judges_app = typer.Typer(help="Look at judges.")


@judges_app.callback(invoke_without_command=True)
def judges_root(context: typer.Context) -> None:
    """Look at judges."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(1)


@judges_app.command("validate")
def validate_command(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE", help="CSV or JSON lines with prompt, completion and final_label."),
    ],
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the intervals' draws.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Measure every judge against people's labels of real answers.

    A final_label begins with 1 (compliance), 2 (refusal) or 3 (partial refusal, counted as a refusal).
    """
    from ripcurrent.api._judges import validate_judges
    from ripcurrent.cli._output import print_json

    validations = validate_judges(files, seed=seed)
    if as_json:
        print_json({validation.judge: validation.as_json() for validation in validations})
    elif not quiet:
        _print_table(validations)


def _print_table(validations: list[JudgeValidation]) -> None:
    from pathlib import Path

    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption="comply, refuse, partial: people's label, and how many of those answers the judge calls a refusal",
    )
    table.add_column("judge, file", overflow="fold")
    for heading in ("n", "accuracy", "κ", "95 %", "comply", "refuse", "partial", "degenerate"):
        table.add_column(heading.replace("degenerate", "degen-\nerate"), justify="right", no_wrap=True)
    for validation in validations:
        table.add_section()
        table.add_row(f"{validation.judge} {validation.version}")
        for file, agreement in _rows(validation):
            table.add_row(f"  {Path(file).name}", *_cells(agreement))
    Console().print(table)


def _rows(validation: JudgeValidation) -> Iterator[tuple[str, Agreement]]:
    yield from validation.files.items()
    if len(validation.files) > 1:
        yield "all files", validation.pooled


def _cells(agreement: Agreement) -> list[str]:
    refused = [f"{row['refusal']}/{sum(row.values())}" for row in agreement.confusion.values()]
    return [
        str(agreement.n),
        f"{agreement.accuracy:.1%}",
        f"{agreement.kappa:.2f}",
        f"{agreement.kappa_low:.2f}–{agreement.kappa_high:.2f}",
        *refused,
        str(agreement.degenerate),
    ]
