"""``ripcurrent calibrate`` and ``ripcurrent forecast``: what training would do, from what finished runs did."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ripcurrent.cli._command import command
from ripcurrent.cli._output import Output
from ripcurrent.cli._text import interval, say, show_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ripcurrent.forecast import Calibration, FittedRun, ForecastError


@command("calibrate", examples=("ripcurrent calibrate runs/ladder --out mine.json",))
def calibrate_command(
    experiments: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of finished experiments.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE.json", help="The calibration to write.")],
    output: Output,
    judge: Annotated[str, typer.Option(metavar="J", help="The judge whose verdicts are fitted.")] = "prefix",
) -> None:
    """Fit what trained models answered to the gradient score of the sets that they were trained on.

    `ripcurrent experiment own_ladder --run runs/yourdata` trains such sets of your rows. The file is for
    `ripcurrent forecast`, which says what training on other rows would do, with the error on sets it has not seen.
    """
    from ripcurrent.forecast import calibrate

    with output.progress() as progress:
        made, fitted = calibrate(experiments, out, judge=judge, progress=progress)
    output.answer(lambda: {"calibration": str(out), **made.model_dump(mode="json")}, lambda: _show(made, fitted, out))


@command("forecast", examples=("ripcurrent forecast runs/support --calibration mine.json",))
def forecast_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished scan.")],
    output: Output,
    calibration: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="The built-in one unless given, if it matches the scan.")
    ] = None,
) -> None:
    """Forecast what fine-tuning on a scanned set would do, by a calibration that matches the scan."""
    from ripcurrent.forecast import forecast
    from ripcurrent.scan import ScanRun

    with output.progress() as progress:
        found = forecast(ScanRun.open(run), calibration, progress=progress)
    output.answer(lambda: found.model_dump(mode="json"), lambda: say(*found.lines()))


def _show(made: Calibration, fitted: Sequence[FittedRun], path: Path) -> None:
    judge, rows = made.judge, ", ".join(f"{source.name} ({source.runs} runs)" for source in made.sources)
    say(
        f"{made.runs} runs; rows of {rows}",
        f"Model {made.scored_with.model}, recipe {made.recipe.name}",
        f"{made.prompts.count} harmful requests ({made.prompts.name}), judge {judge.name} {judge.version}",
    )
    cells = []
    for one in sorted(fitted, key=lambda one: one.run.answered):
        run, found = one.run, one.forecast
        own = ("–", "–") if found is None else (f"{found.answered:.0%}", interval(found.low, found.high, ".0%"))
        facts = (run.arm, str(run.seed), str(run.rows), f"{run.cosine:+.4f}", f"{run.answered / run.asked:.0%}")
        cells.append((*facts, *own))
    title = "Each run, forecast by the fit without its set and all that share its rows"
    show_table(("arm", "seed", "rows", "cosine", "answered", "forecast", "90 %"), cells, title=title)
    by_source = made.error_by_source.by_source if made.error_by_source else ()
    say(
        f"Each set left out: {_error(made.error_by_set)}",
        f"Each source left out: {_error(made.error_by_source)}",
        *(
            f"  {one.name}, {one.arms} sets: answered {100 * one.observed:.0f} %, "
            f"forecast {100 * one.forecast:.0f} %, error {100 * one.mean_absolute_error:.1f} points"
            for one in by_source
        ),
        *(f"Left out: {left.arm}, seed {left.seed} ({left.experiment}): {left.reason}" for left in made.left_out),
        *made.notes,
        f"Use it: ripcurrent forecast RUN --calibration {path}",
    )


def _error(error: ForecastError | None) -> str:
    if error is None:
        return "not measured, it takes five sets beside each"
    rank = "" if error.rank_correlation is None else f", rank correlation {error.rank_correlation:+.2f}"
    refused = f"; {error.refused} runs beyond the rest are not forecast" if error.refused else ""
    return (
        f"mean absolute error {100 * error.mean_absolute_error:.1f} points (bias {100 * error.bias:+.1f}), "
        f"{100 * error.coverage:.0f} % of runs inside the 90 % interval, {100 * error.mean_width:.0f} points wide"
        f"{rank}{refused}"
    )
