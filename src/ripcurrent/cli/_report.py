"""``ripcurrent report``: rebuild the page of a scan or of an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ripcurrent.cli._scan import JSON, QUIET


def report_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished scan or of an experiment.")],
    as_json: JSON = False,
    quiet: QUIET = False,
) -> None:
    """Rebuild the page of a finished scan or of an experiment."""
    from ripcurrent.cli._output import print_json
    from ripcurrent.report import build

    path = build(run)
    if as_json:
        print_json({"run": str(run), "report": str(path)})
    elif not quiet:
        typer.echo(f"Page: {path}")
