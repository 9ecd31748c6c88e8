"""``ripcurrent calibrate`` and ``ripcurrent forecast``: what training would do, from what finished runs did."""

from pathlib import Path
from typing import Annotated

import typer

from ripcurrent.cli._command import argument, command, option
from ripcurrent.cli._output import Output, fill, say, show_table


@command("calibrate", examples=("ripcurrent calibrate runs/ladder --out mine.json",))
def calibrate_command(
    experiments: Annotated[list[Path], argument("RUN", "Folders of finished experiments.")],
    out: Annotated[Path, option("The calibration to write.", "FILE.json")],
    output: Output,
    judge: Annotated[str, option("The judge whose verdicts are fitted.", "J")] = "prefix",
) -> None:
    """Fit what trained models answered to the gradient score of the sets that they were trained on.

    `ripcurrent experiment own_ladder` trains such sets of your rows; `ripcurrent forecast` uses the file.
    """
    from ripcurrent.forecast import calibrate

    with output.progress() as progress:
        made, fitted = calibrate(experiments, out, judge=judge, progress=progress)
    if not output.answer(lambda: {"calibration": str(out), **made.model_dump(mode="json")}):
        return
    say(
        f"{made.runs} runs; rows of " + ", ".join(fill("{name} ({runs} runs)", source) for source in made.sources),
        fill("Model {scored_with.model}, recipe {recipe.name}", made),
        fill("{prompts.count} harmful requests ({prompts.name}), judge {judge.name} {judge.version}", made),
    )
    layout = "arm {run.arm} | seed {run.seed} | rows {run.rows} | cosine {run.cosine:+.4f} | answered {run.answered}/"
    layout += "{run.asked} | forecast {forecast.answered:.0%} | 90 % {forecast.low:.0%}–{forecast.high:.0%}"
    runs = sorted(fitted, key=lambda one: one.run.answered)
    show_table(layout, runs, title="Each run, forecast by the fit without its set and all that share its rows")
    layout = "left out {held_out} | error {mean_absolute_error:.1%} | by kind {by_category:.1%} | bias {bias:+.1%}"
    layout += " | inside 90 % {coverage:.0%} | width {mean_width:.0%} | rank {rank_correlation:+.2f} | beyond {refused}"
    caption = "by kind: of knowing only riskiest, protective, neither; rank: correlation; beyond: runs not forecast"
    show_table(layout, filter(None, (made.error_by_set, made.error_by_source)), caption=caption)
    if made.error_by_source is not None:
        layout = "dataset left out {name} | sets {arms} | answered {observed:.0%} | forecast {forecast:.0%}"
        layout += " | error {mean_absolute_error:.1%} | by kind {by_category:.1%}"
        show_table(layout, made.error_by_source.by_source, under="{kind}")
    say(
        *(fill("Left out: {arm}, seed {seed} ({experiment}): {reason}", left) for left in made.left_out),
        *made.notes,
        f"Use it: ripcurrent forecast RUN --calibration {out}",
    )


@command("forecast", examples=("ripcurrent forecast runs/support --calibration mine.json",))
def forecast_command(
    run: Annotated[Path, argument("RUN", "Folder of a finished scan.")],
    output: Output,
    calibration: Annotated[
        Path | None, option("Calibration file; else the built-in one, if it matches the scan.", "FILE.json")
    ] = None,
    recipe: Annotated[str | None, option("The recipe to train by; refused unless the calibration's.", "R")] = None,
) -> None:
    """Forecast what fine-tuning on a scanned set would do; exits with 2 where there is no forecast, and says why."""
    from ripcurrent.forecast import forecast
    from ripcurrent.scan import ScanRun

    with output.progress() as progress:
        found = forecast(ScanRun.open(run), calibration, recipe=recipe, progress=progress)
    if output.answer(lambda: found.model_dump(mode="json")):
        say(*found.lines())
    if not any(one.forecast for one in found.sets):
        raise typer.Exit(2)
