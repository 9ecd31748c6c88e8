"""``ripcurrent calibrate`` and ``ripcurrent forecast``: what training would do, from what finished runs did."""

from pathlib import Path
from typing import Annotated

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

    `ripcurrent experiment own_ladder --run runs/yourdata` trains such sets of your rows. The file is for
    `ripcurrent forecast`, which says what training on other rows would do, with the error on sets it has not seen.
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
    layout = "runs not seen {what} | error {of.mean_absolute_error:.1%} | bias {of.bias:+.1%} | inside 90 % "
    layout += "{of.coverage:.0%} | width {of.mean_width:.0%} | rank {of.rank_correlation:+.2f} | beyond {of.refused}"
    errors = {"Each set left out": made.error_by_set, "Each source left out": made.error_by_source}
    caption = "rank: correlation over sets; beyond: runs that are not forecast; –: it takes five sets beside each"
    show_table(layout, ({"what": what, "of": error} for what, error in errors.items()), caption=caption)
    source = "{name}, {arms} sets: answered {observed:.0%}, forecast {forecast:.0%}, error {mean_absolute_error:.1%}"
    say(
        *(fill(source, one) for one in (made.error_by_source.by_source if made.error_by_source else ())),
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
) -> None:
    """Forecast what fine-tuning on a scanned set would do, by a calibration that matches the scan."""
    from ripcurrent.forecast import forecast
    from ripcurrent.scan import ScanRun

    with output.progress() as progress:
        found = forecast(ScanRun.open(run), calibration, progress=progress)
    if output.answer(lambda: found.model_dump(mode="json")):
        say(*found.lines())
