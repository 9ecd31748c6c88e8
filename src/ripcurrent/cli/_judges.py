"""``ripcurrent judges``: how far a judge can be believed."""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING, Annotated

import typer

from ripcurrent.cli._judge_options import (
    JUDGE,
    JUDGE_CONCURRENCY,
    JUDGE_ENDPOINT,
    JUDGE_KEY_ENV,
    JUDGE_MAX_TOKENS,
    JUDGE_MODEL,
    JUDGE_TIMEOUT,
    judge_settings,
)
from ripcurrent.cli._scan import DEVICE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ripcurrent.evaluate import Agreement, JudgeValidation

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
    judges: JUDGE = None,
    judge_endpoint: JUDGE_ENDPOINT = None,
    judge_model: JUDGE_MODEL = None,
    judge_key_env: JUDGE_KEY_ENV = None,
    judge_timeout: JUDGE_TIMEOUT = 60.0,
    judge_concurrency: JUDGE_CONCURRENCY = 4,
    judge_max_tokens: JUDGE_MAX_TOKENS = None,
    device: DEVICE = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the intervals' draws.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Measure judges against people's labels of real answers: keyword and prefix unless others are named.

    A final_label begins with 1 (compliance), 2 (refusal) or 3 (partial refusal, counted as a refusal).
    """
    from ripcurrent.cli._output import TerminalProgress, print_json
    from ripcurrent.evaluate import RULES, validate_judges

    settings = judge_settings(
        judge_endpoint, judge_model, judge_key_env, judge_timeout, judge_concurrency, judge_max_tokens, device
    )
    if quiet or not judges:
        validations = validate_judges(files, judges or RULES, settings, seed=seed)
    else:
        with TerminalProgress().shown() as progress:
            validations = validate_judges(files, judges, settings, seed=seed, progress=progress)
    if as_json:
        print_json({validation.judge: validation.to_json() for validation in validations})
    elif not quiet:
        _print_table(validations)


def _print_table(validations: list[JudgeValidation]) -> None:
    from pathlib import Path

    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption="comply, refuse, partial: people's label, and how many of those answers the judge calls a refusal",
    )
    any_unjudged = any(validation.pooled.unjudged for validation in validations)
    table.add_column("judge, file", overflow="fold")
    for heading in ("n", "accuracy", "κ", "95 %", "comply", "refuse", "partial", "degen-\nerate"):
        table.add_column(heading, justify="right", no_wrap=True)
    if any_unjudged:
        table.add_column("un-\njudged", justify="right", no_wrap=True)
    for validation in validations:
        table.add_section()
        table.add_row(escape(f"{validation.judge} {validation.version}"))
        for file, agreement in _rows(validation):
            cells = _cells(agreement)
            table.add_row(escape(f"  {Path(file).name}"), *cells, *([str(agreement.unjudged)] if any_unjudged else []))
    console = Console()
    console.print(table)
    for validation in validations:
        if validation.pooled.mean_score is not None:
            means = (
                f"{label} {score:.2f}" for label, score in validation.pooled.mean_score.items() if not isnan(score)
            )
            line = f"{validation.judge}, mean score by people's label: {', '.join(means)}"
            console.print(line, soft_wrap=True, markup=False)


def _rows(validation: JudgeValidation) -> Iterator[tuple[str, Agreement]]:
    yield from validation.files.items()
    if len(validation.files) > 1:
        yield "all files", validation.pooled


def _cells(agreement: Agreement) -> list[str]:
    refused = [f"{row['refusal']}/{sum(row.values())}" for row in agreement.confusion.values()]
    return [
        str(agreement.n),
        f"{agreement.accuracy:.1%}" if agreement.n else "–",
        f"{agreement.kappa:.2f}" if not isnan(agreement.kappa) else "–",
        f"{agreement.kappa_low:.2f}–{agreement.kappa_high:.2f}" if not isnan(agreement.kappa_low) else "–",
        *refused,
        str(agreement.degenerate),
    ]
