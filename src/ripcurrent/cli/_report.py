"""``ripcurrent report``: rebuild a run's page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ripcurrent.cli._scan import JSON, QUIET


def report_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished scan.")],
    as_json: JSON = False,
    quiet: QUIET = False,
) -> None:
    """Rebuild the page of a finished scan."""
    from ripcurrent.cli._output import print_json
    from ripcurrent.report import build_report

    path = build_report(run)
    if as_json:
        print_json({"run": str(run), "report": str(path)})
    elif not quiet:
        typer.echo(f"Page: {path}")
