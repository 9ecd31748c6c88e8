"""``ripcurrent calibrate``: finished experiments fitted, for a forecast before training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ripcurrent.cli._scan import JSON, QUIET

if TYPE_CHECKING:
    from ripcurrent.scoring._calibration import Calibration, ForecastError


def calibrate_command(
    experiments: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished experiments.")],
    out: Annotated[Path, typer.Option(metavar="FILE.json", help="The calibration.")],
    scans: Annotated[
        list[Path] | None,
        typer.Option("--scan", metavar="SCAN", help="A finished scan of rows that arms took from a file; repeatable."),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN", help="Score column to forecast by; repeatable; the scan's ranking unless named."
        ),
    ] = None,
    judge: Annotated[str, typer.Option(metavar="J", help="The judge whose verdicts are fitted.")] = "prefix",
    compare: Annotated[
        bool, typer.Option("--compare", help="Also the errors of other columns on the same runs; takes minutes.")
    ] = False,
    as_json: JSON = False,
    quiet: QUIET = False,
) -> None:
    """Fit what finished experiments answered to the mean scores of their rows; say how a forecast by it errs.

    The file is for `ripcurrent scan --forecast FILE.json`. Nothing is trained here.
    """
    from contextlib import nullcontext

    from ripcurrent.api._calibrate import as_json as json_of
    from ripcurrent.api._calibrate import calibrate
    from ripcurrent.api._progress import SilentProgress
    from ripcurrent.cli._output import TerminalProgress, print_json

    with nullcontext(SilentProgress()) if quiet else TerminalProgress().shown() as progress:
        calibration = calibrate(
            experiments,
            out,
            scans=scans or (),
            judge=judge,
            columns=by or (),
            compare=compare,
            progress=progress,
        )
    if as_json:
        print_json(json_of(calibration, out))
    elif not quiet:
        _show(calibration, out)


def _show(calibration: Calibration, path: Path) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    wide = Console(soft_wrap=True, highlight=False)

    def say(line: str) -> None:
        wide.print(escape(line))

    prompts, judge = calibration.prompts, calibration.judge
    rows = ", ".join(f"{source.name} ({_runs(source.runs)})" for source in calibration.sources)
    say(f"{_runs(len(calibration.runs))} of {calibration.error_by_arm.groups} arms; rows of {rows}")
    say(f"Model {calibration.scored_with.model}, recipe {calibration.recipe_name}")
    say(f"{prompts.count} harmful requests ({prompts.name}), judge {judge.name} {judge.version}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="Each arm, forecast by the fit without it")
    columns = calibration.columns
    for heading in ("arm", "seed", "rows", *columns, "answered %", "forecast %", "90 %"):
        table.add_column(heading, justify="left" if heading == "arm" else "right")
    for run in sorted(calibration.runs, key=lambda run: run.share):
        means = (f"{run.means[column]:+.4f}" for column in columns)
        ends = (run.forecast, run.low, run.high)
        middle, low, high = ("–" if value is None else f"{100 * value:.0f}" for value in ends)
        table.add_row(
            escape(run.arm), str(run.seed), str(run.rows), *means, f"{100 * run.share:.0f}", middle, f"{low}–{high}"
        )
    Console(highlight=False).print(table)
    say(f"Each arm left out: {_error(calibration.error_by_arm)}")
    if calibration.error_by_source is None:
        say("Each source left out: not measured, it takes two sources with five arms beside each.")
    else:
        say(f"Each source left out: {_error(calibration.error_by_source)}")
        for one in calibration.error_by_source.by_source:
            say(_of_source(one))
    for name, one in calibration.fit.describe()["coefficients"].items():
        say(f"  {name}: {one['logits']:+.2f} ± {one['standard_error']:.2f} logits")
    if calibration.compared:
        _show_compared(calibration)
    for left in calibration.left_out:
        say(f"Left out: {left.arm}, seed {left.seed} ({left.experiment}): {left.reason}")
    for note in calibration.notes:
        say(note)
    say(f"Calibration: {path}")
    scored = calibration.scored_with
    adapter = "" if scored.adapter is None else f" --adapter {scored.adapter}"
    say(f"Use it:      ripcurrent scan DATASET --model {scored.model}{adapter} --forecast {path}")


def _show_compared(calibration: Calibration) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="Other columns on the same runs")
    for heading in ("columns", "error, arms", "inside", "error, sources", "inside"):
        table.add_column(heading, justify="left" if heading == "columns" else "right")
    for one in calibration.compared:
        cells = []
        for error in (one.arms, one.sources):
            cells += (
                ["–", "–"]
                if error is None
                else [f"{100 * error.mean_absolute_error:.1f}", f"{100 * error.coverage:.0f} %"]
            )
        table.add_row(" + ".join(one.columns) or "size and steps alone", *cells)
    Console(highlight=False).print(table)


def _runs(count: int) -> str:
    return f"{count} run" if count == 1 else f"{count} runs"


def _error(error: ForecastError) -> str:
    rank = "" if error.rank_correlation is None else f", rank correlation {error.rank_correlation:+.2f}"
    return (
        f"mean absolute error {100 * error.mean_absolute_error:.1f} points (bias {100 * error.bias:+.1f}), "
        f"{100 * error.coverage:.0f} % of runs inside the 90 % interval, {100 * error.mean_width:.0f} points wide{rank}"
    )


def _of_source(one: dict[str, Any]) -> str:
    return (
        f"  {one['name']}, {one['arms']} arms: answered {100 * one['observed']:.0f} %, "
        f"forecast {100 * one['forecast']:.0f} %, error {100 * one['mean_absolute_error']:.1f} points, "
        f"{100 * one['coverage']:.0f} % of runs inside"
    )
