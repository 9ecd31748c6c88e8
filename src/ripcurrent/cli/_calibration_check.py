"""``ripcurrent calibrate RUN --check FILE``: a calibration beside what runs that it has not seen answered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ripcurrent.forecast._calibration_check import CalibrationCheck


def show_check(
    experiments: Sequence[Path], calibration: str, scans: Sequence[Path], *, as_json: bool, quiet: bool
) -> None:
    """Check and print."""
    from contextlib import nullcontext

    from ripcurrent.cli._output import TerminalProgress, print_json
    from ripcurrent.errors import RipcurrentError
    from ripcurrent.forecast._calibration_check import check_calibration
    from ripcurrent.progress import SilentProgress

    if not experiments:
        raise RipcurrentError(
            "There is nothing to hold the calibration against.", "Name folders of finished experiments."
        )
    with nullcontext(SilentProgress()) if quiet else TerminalProgress().shown() as progress:
        found = check_calibration(experiments, calibration, scans=scans, progress=progress)
    if as_json:
        print_json(found.as_json())
    elif not quiet:
        _show(found)


def _show(found: CalibrationCheck) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from ripcurrent.cli._calibrate import error_in_words, of_source

    wide = Console(soft_wrap=True, highlight=False)

    def say(line: str) -> None:
        wide.print(escape(line))

    title = f"In %, runs beside the forecast by {found.calibration} from the mean {' and '.join(found.columns)}"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=escape(title), title_justify="left")
    scores = ["score"] if len(found.columns) == 1 else list(found.columns)
    for heading in ("arm", "seed", "rows", *scores, "answered", "forecast", "90 %", "inside"):
        table.add_column(heading, justify="left" if heading == "arm" else "right", overflow="fold")
    marks = {True: "yes", False: "no", None: "–"}
    for one in sorted(found.runs, key=lambda one: one.run.share):
        run = one.run
        means = (f"{run.means[column]:+.4f}" if column in run.means else "–" for column in found.columns)
        middle, low, high = ("–" if v is None else f"{100 * v:.0f}" for v in (run.forecast, run.low, run.high))
        table.add_row(
            escape(run.arm),
            str(run.seed),
            str(run.rows),
            *means,
            f"{100 * run.share:.1f}",
            middle,
            f"{low}–{high}",
            marks[one.inside] if one.reason is None else "not counted",
        )
    Console(highlight=False).print(table)
    say(f"{found.error.runs} of {len(found.runs)} runs count: {error_in_words(found.error)}")
    known = {one.run.source: one.known_source for one in found.runs}
    for source in found.error.by_source:
        say(of_source(source) + ("" if known[source["name"]] else ", a source that the calibration has not seen"))
    for one in found.runs:
        if one.reason is not None:
            say(f"Not counted: {one.run.arm}, seed {one.run.seed} ({one.run.experiment}): {one.reason}")
    for left in found.left_out:
        say(f"Left out: {left.arm}, seed {left.seed} ({left.experiment}): {left.reason}")
    for note in found.notes:
        say(note)
