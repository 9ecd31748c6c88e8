"""``ripcurrent view``: every row of a scan in the browser, and the pages of runs."""

from pathlib import Path
from typing import Annotated

from ripcurrent.cli._command import argument, command, option
from ripcurrent.cli._output import Output, say


@command("view", examples=("ripcurrent view runs/support", "ripcurrent view runs/"))
def view_command(
    folder: Annotated[Path, argument("RUN|FOLDER", "A finished run, or a folder of runs.")],
    output: Output,
    port: Annotated[int, option("Port on this machine; 0 takes a free one.", min=0, max=65535)] = 8400,
) -> None:
    """Show runs in the browser, with every row of a scan: search, filter, rank, and mark rows to keep or drop.

    It is served to this machine alone, and its address holds a secret. Stop it with Ctrl-C. Marks are saved in the run
    folder, in decisions.jsonl, which select --decisions reads.
    """
    from ripcurrent.report import view

    with output.progress() as progress:

        def said(address: str) -> None:
            progress.finish()
            if output.answer(lambda: {"address": address}):
                say(f"Open {address}", "Stop with Ctrl-C. From another machine: ssh -L PORT:127.0.0.1:PORT")

        view(folder, port=port, say=said, progress=progress)
