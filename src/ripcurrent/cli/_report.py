"""``ripcurrent report``: rebuild the page of a scan or of an experiment."""

from pathlib import Path
from typing import Annotated

import typer

from ripcurrent.cli._command import command
from ripcurrent.cli._output import Output
from ripcurrent.cli._text import say


@command("report", examples=("ripcurrent report runs/support",))
def report_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished scan or of an experiment.")],
    output: Output,
) -> None:
    """Rebuild the page of a finished scan or of an experiment."""
    from ripcurrent.report import build

    path = build(run)
    output.answer(lambda: {"run": str(run), "report": str(path)}, lambda: say(f"Page: {path}"))
