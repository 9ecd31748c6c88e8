"""``ripcurrent merge``: make the parts of a scan one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ripcurrent.cli._scan import FORECAST, JSON, QUIET, show_summary


def merge_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders that hold parts of one scan.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Run folder for the whole; needed for several folders.")
    ] = None,
    forecast: FORECAST = None,
    as_json: JSON = False,
    quiet: QUIET = False,
) -> None:
    """Make the parts that `scan --shard` left one run: table, manifest and page, as one process would have.

    Needs neither the model nor the dataset. A part that is missing is named.
    """
    from ripcurrent.cli._output import TerminalProgress, print_json
    from ripcurrent.scan._merge import merge_parts
    from ripcurrent.scan._summary import summarise_scan

    if quiet:
        result = merge_parts(runs, out, forecast=forecast)
    else:
        with TerminalProgress().shown() as progress:
            result = merge_parts(runs, out, forecast=forecast, progress=progress)
    if as_json:
        print_json(summarise_scan(result.folder).as_json())
    elif not quiet:
        show_summary(summarise_scan(result.folder))
