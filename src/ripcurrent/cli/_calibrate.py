"""``ripcurrent calibrate``: a ladder trained, finished experiments fitted, for a forecast before training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ripcurrent.cli._scan import ADAPTER, ANCHORS, DEVICE, DTYPE, FORMAT, JSON, LIMIT, MAP, MODEL, QUIET

if TYPE_CHECKING:
    from ripcurrent.forecast._calibration import Calibration, ForecastError

FIT = ("experiments", "out", "check", "joined", "scans", "by", "judge", "compare", "as_json", "quiet")
"""Parameters that finished experiments are fitted by; all others are for training a ladder."""


def calibrate_command(
    context: typer.Context,
    experiments: Annotated[
        list[Path] | None, typer.Argument(metavar="RUN", help="Folders of finished experiments.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.json", help="The calibration to write.")] = None,
    check: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.json",
            help="Fit nothing: forecast the runs by this calibration (or embedded, the package's); show the error.",
        ),
    ] = None,
    joined: Annotated[
        str | None,
        typer.Option(
            "--with",
            metavar="FILE.json",
            help="Also fit the runs that this calibration keeps (or embedded, the package's).",
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="DATASET", help="Train a ladder on its rows; repeatable, the first is the main one."),
    ] = None,
    model: MODEL = "embedded",
    adapter: ADAPTER = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="R", help="paper, lora, embedded, or a YAML file; needed with --data.")
    ] = None,
    work: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The ladder's run folder; runs/calibrate-FILE unless named.")
    ] = None,
    sizes: Annotated[str, typer.Option(metavar="N,N", help="Rows of the ladder's sets.")] = "20,50,100",
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Runs of every set.")] = 1,
    anchors: ANCHORS = "builtin",
    no_anchor_check: Annotated[
        bool, typer.Option("--no-anchor-check", help="Scan even if the anchors do not separate on this model.")
    ] = False,
    format: FORMAT = None,
    mapping: MAP = None,
    limit: LIMIT = None,
    device: DEVICE = None,
    dtype: DTYPE = None,
    scans: Annotated[
        list[Path] | None,
        typer.Option("--scan", metavar="SCAN", help="A finished scan of rows that arms took from a file; repeatable."),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="Score column to forecast by, or set_cosine (nearer for other datasets; the model goes over some "
            "rows of every set); repeatable; the scan's ranking unless named.",
        ),
    ] = None,
    judge: Annotated[str, typer.Option(metavar="J", help="The judge whose verdicts are fitted.")] = "prefix",
    compare: Annotated[
        bool, typer.Option("--compare", help="Also the errors of other columns on the same runs; takes minutes.")
    ] = False,
    as_json: JSON = False,
    quiet: QUIET = False,
) -> None:
    """Fit what models answered to the mean scores of the rows that they were trained on; say how a forecast by it errs.

    With --data, models are trained here, on random, risky and protective sets of its rows; given again, the command
    goes on where it was stopped. With RUN alone nothing is trained. The file is for `ripcurrent scan --forecast FILE`.
    With --check a calibration is held against runs that it has not seen.
    """
    from contextlib import nullcontext

    from ripcurrent.cli._output import TerminalProgress, print_json, say_default_model
    from ripcurrent.data import parse_mapping
    from ripcurrent.errors import RipcurrentError
    from ripcurrent.forecast._calibrate_runs import as_json as json_of
    from ripcurrent.forecast._calibrate_runs import calibrate
    from ripcurrent.progress import SilentProgress

    given = dict(_given(context))
    if check is not None:
        from ripcurrent.cli._calibration_check import show_check

        other = {"--with": joined, "--by": by, "--compare": compare, "--judge": None if judge == "prefix" else judge}
        _refuse_beside_check({"--out": out, "--data": data, **given, **other})
        show_check(experiments or (), check, scans or (), as_json=as_json, quiet=quiet)
        return
    if out is None:
        raise RipcurrentError("The calibration has no file.", "Name it: --out FILE.json.")
    if not data and not experiments:
        raise RipcurrentError(
            "There is nothing to fit.",
            "Name folders of finished experiments, or data to train on: --data DATASET --model M --recipe R.",
        )
    if not data and given:
        raise RipcurrentError(f"{next(iter(given))} is for training a ladder.", "Give --data, or leave it out.")
    if data and recipe is None:
        raise RipcurrentError("No recipe is named to train by.", "Give --recipe paper, lora, embedded or a YAML file.")
    fit: dict[str, Any] = {
        "scans": scans or (),
        "judge": judge,
        "columns": by or (),
        "compare": compare,
        "joined": joined,
    }
    folder = work or Path("runs") / f"calibrate-{out.stem}"
    if data:
        say_default_model(context, quiet)
    with nullcontext(SilentProgress()) if quiet else TerminalProgress().shown() as progress:
        if data and recipe is not None:
            from ripcurrent.forecast._calibrate_data import calibrate_data

            calibration = calibrate_data(
                data,
                folder,
                out,
                recipe=recipe,
                model=model,
                adapter=adapter,
                device=device,
                dtype=dtype,
                sizes=_parse_sizes(sizes),
                seeds=seeds,
                scan={
                    "anchors": anchors,
                    "anchor_check": not no_anchor_check,
                    "format": format,
                    "mapping": parse_mapping(mapping) if mapping else None,
                    "limit": limit,
                },
                experiments=experiments or (),
                command=_command(out, experiments or (), given),
                progress=progress,
                **fit,
            )
        else:
            calibration = calibrate(experiments or (), out, progress=progress, **fit)
    if as_json:
        print_json(json_of(calibration, out))
    elif not quiet:
        _show(calibration, out, _scan_like(given) if data else None)
        if data:
            typer.echo(f"The ladder:  {folder / 'report.html'}")


def _refuse_beside_check(options: Mapping[str, Any]) -> None:
    from ripcurrent.errors import RipcurrentError

    for name, value in options.items():
        if value:
            raise RipcurrentError(f"{name} is for making a calibration, --check for trying one.", "Leave one out.")


def _given(context: typer.Context) -> Iterator[tuple[str, Any]]:
    """Options of training a ladder that the command line has, with their values."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name not in FIT and source is not None and source.name == "COMMANDLINE":
            yield parameter.opts[0], context.params[parameter.name or ""]


def _command(out: Path, experiments: Sequence[Path], given: Mapping[str, Any]) -> str:
    """The command line with what changes the ladder, for its page."""
    import shlex

    words = ["ripcurrent", "calibrate", *map(str, experiments), "--out", str(out)]
    for name, value in given.items():
        for one in value if isinstance(value, list) else (value,):
            words += [name] if one is True else [name, str(one)]
    return shlex.join(words)


def _parse_sizes(text: str) -> tuple[int, ...]:
    from ripcurrent.errors import RipcurrentError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) for part in parts):
        raise RipcurrentError(f"--sizes {text} are not numbers of rows.", "Write numbers from 1, such as 20,50,100.")
    return tuple(map(int, parts))


def _scan_like(given: Mapping[str, Any]) -> list[str]:
    """Options by which a scan's scores are those that a ladder's were, as they were given."""
    words: list[str] = []
    for name in ("--model", "--adapter", "--anchors", "--no-anchor-check"):
        if name in given:
            words += [name] if given[name] is True else [name, str(given[name])]
    return words


def _show(calibration: Calibration, path: Path, like: Sequence[str] | None) -> None:
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
    say(f"Each arm left out: {error_in_words(calibration.error_by_arm)}")
    if calibration.error_by_rows is not None:
        say(f"With all that share a fifth of their rows with it: {error_in_words(calibration.error_by_rows)}")
    if calibration.error_by_source is None:
        say("Each source left out: not measured, it takes two sources with five arms beside each.")
    else:
        groups, every = calibration.error_by_source.groups, len(calibration.sources)
        which = "Each source left out" if groups == every else f"{groups} of {every} sources left out, each alone"
        say(f"{which}: {error_in_words(calibration.error_by_source)}")
        for one in calibration.error_by_source.by_source:
            say(of_source(one))
    for name, one in calibration.fit.describe()["coefficients"].items():
        say(f"  {name}: {one['logits']:+.2f} ± {one['standard_error']:.2f} logits")
    if calibration.compared:
        _show_compared(calibration)
    for left in calibration.left_out:
        say(f"Left out: {left.arm}, seed {left.seed} ({left.experiment}): {left.reason}")
    for note in calibration.notes:
        say(note)
    say(f"Calibration: {path}")
    import shlex

    scored = calibration.scored_with
    # of finished experiments only names are known, and not where the model lies now
    model = "embedded" if scored.model == "embedded" else "MODEL"
    words = like if like is not None else ["--model", model, *(["--adapter", "ADAPTER"] if scored.adapter else [])]
    say(f"Use it:      ripcurrent scan DATASET {shlex.join([*words, '--forecast', str(path)])}")
    if like is None:
        adapter = "" if scored.adapter is None else f" with adapter {scored.adapter}"
        say(f"             for {scored.model}{adapter}, anchors {scored.anchors}, and the options of those scans")


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


def error_in_words(error: ForecastError) -> str:
    """A forecast error in a line."""
    rank = "" if error.rank_correlation is None else f", rank correlation {error.rank_correlation:+.2f}"
    refused = f"; {_runs(error.refused)} beyond the rows or scores of the rest not forecast" if error.refused else ""
    return (
        f"mean absolute error {100 * error.mean_absolute_error:.1f} points (bias {100 * error.bias:+.1f}), "
        f"{100 * error.coverage:.0f} % of runs inside the 90 % interval, "
        f"{100 * error.mean_width:.0f} points wide{rank}{refused}"
    )


def of_source(one: dict[str, Any]) -> str:
    """A source's part of it."""
    return (
        f"  {one['name']}, {one['arms']} arms: answered {100 * one['observed']:.0f} %, "
        f"forecast {100 * one['forecast']:.0f} %, error {100 * one['mean_absolute_error']:.1f} points, "
        f"{100 * one['coverage']:.0f} % of runs inside"
    )
