"""``ripcurrent report``: rebuild the page of a scan or of an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ripcurrent.cli._command import Output, command


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "report", examples=("ripcurrent report runs/support",))(report_command)


def report_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished scan or of an experiment.")],
    output: Output,
) -> None:
    """Rebuild the page of a finished scan or of an experiment."""
    from ripcurrent.cli._output import print_json
    from ripcurrent.report import build

    path = build(run)
    if output.json:
        print_json({"run": str(run), "report": str(path)})
    elif not output.quiet:
        typer.echo(f"Page: {path}")
