"""``ripcurrent scan``: score a dataset's rows and show the finished scan; ``ripcurrent report``: its page again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from rich.console import Console

from ripcurrent.cli._command import ADVANCED, app, argument, command, option
from ripcurrent.cli._output import Output, fill, say, say_commands, shorten, show_table
from ripcurrent.options import flag
from ripcurrent.scan import Execution, ScanOptions

if TYPE_CHECKING:
    from ripcurrent.forecast import Forecast
    from ripcurrent.scan import ScanAnswer, ScanRun

DATASET = argument("DATASET", "File, folder, 'pattern*', or hf:owner/name[:split]; demo: the demo's rows.")
PANELS = {
    "Model": ("model", "adapter", "device", "dtype"),
    "Data": ("trainer", "format", "mapping", "limit", "max_tokens"),
    ADVANCED: (
        *("spec", "anchors", "signals", "scope", "anchor_check", "tokens", "memory", "token_budget"),
        *("shard", "shard_rows", "executor"),
    ),
}
EXAMPLES = (
    "ripcurrent scan support.jsonl -m Qwen/Qwen2.5-7B-Instruct",
    "ripcurrent scan corpus/*.parquet --memory 8GB --token-budget 1024",
    "ripcurrent scan big.jsonl --shard 3/8 -o runs/big    (one of eight processes)",
)


class ScaleOptions(Execution):
    """Who computes which part of a scan."""

    shard: str | None = Field(default=None, json_schema_extra={"metavar": "i/n"})
    """Score only part i of n, from 0, beside processes for the others. The part that ends last writes the scores."""


@command("scan", PANELS, EXAMPLES)
def scan_command(
    dataset: Annotated[str, DATASET],
    options: ScanOptions,
    scale: ScaleOptions,
    output: Output,
    out: Annotated[Path | None, option("Run folder; runs/<dataset> when left out.", "FOLDER")] = None,
    verbose: Annotated[bool, option("Print every table.")] = False,
) -> None:
    """Score every row of a dataset against harmful and safe anchors, and write a ranked table and a page.

    A scan that was stopped continues when the same command is given again.
    """
    from ripcurrent.data import DEMO_ROWS
    from ripcurrent.forecast import forecast, read_forecast
    from ripcurrent.report import build_report
    from ripcurrent.scan import parse_part, scan

    output.say_default_model("model" in options.model_fields_set)
    if dataset == "demo" and not Path(dataset).exists():
        dataset = str(DEMO_ROWS)
    part = None if scale.shard is None else parse_part(scale.shard)
    with output.progress() as progress:
        run = scan(dataset, out, options, part=part, execution=scale, progress=progress)
        fresh = int(run.manifest.timings["rows_scored_in_this_call"])
        if run.finished:
            # a forecast of the same scores stands, such as one by another calibration
            found = (None if fresh else read_forecast(run)) or forecast(run, progress=progress)
            progress.step("writing the page")
            build_report(run)
    if not run.finished:
        if output.answer(lambda: {"run": str(run.folder), "part": str(part), "rows_scored_in_this_call": fresh}):
            say(f"Part {part}: {fresh} rows scored now. The part that ends last writes the scores of all.")
    elif output.answer(lambda: {**run.to_json(), "forecast": None if found.reason else found.model_dump(mode="json")}):
        show_scan(run, found, verbose=verbose)
        show_next(run)


def show_scan(run: ScanRun, forecast: Forecast | None, *, verbose: bool = False) -> None:
    """Print what a finished scan found; with ``verbose`` its tables, too."""
    from ripcurrent.report import without_plots
    from ripcurrent.scan import scan_answer, scan_notes

    found, about, dataset = scan_answer(run, 10 if verbose else 5), run.manifest, run.manifest.dataset.path
    model = Path(about.model.name).name if Path(about.model.name).exists() else about.model.name
    trained = "the answers" if run.options.trainer == "completion" else run.options.trainer
    say(f"{Path(dataset).name} · {found.rows:,} rows · {model} · trained tokens: {trained}", style="bold")
    say(f" ✓ {found.scored:,} scored")
    if found.skipped:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in found.skipped.items())
        say(f" ! {found.rows - found.scored:,} skipped: {reasons}; ripcurrent doctor names rows", style="yellow")
    auroc = "not measured" if found.auroc is None else f"AUROC {found.auroc:.2f}"
    tells = f"complying and refusing anchors apart ({auroc}, needs {found.needed:.2f})"
    if found.works:
        say(f" ✓ the score works on this model: it tells {tells}")
    else:
        say(f" ! the ranking means little on this model: it does not tell {tells}", style="bold red")
    say(*(f" ! {note}" for note in (*about.row_notes, *scan_notes(run), *filter(None, [without_plots()]))))
    place = found.reference
    where = "its rows score above {percentile:.0f} % of the reference rows on average (a ranking, not a verdict)"
    risk = f"unknown, {place.reason}" if place.reason else fill(where, place)
    say(f"\nRisk of this set: {risk}")
    shares = "{name} {riskiest:.0%} ({whole:.0%} of all, {equal_lengths:.0%} at equal lengths)"
    over = " · ".join(fill(shares, one) for one in found.groups if one.over)
    none = f"no kind of row is more frequent there than lengths explain ({len(found.groups)} looked at)"
    say(f"Riskiest {found.riskiest:,} rows: {over or none}")
    if verbose:
        _show_tables(run, found)
    say("  row     risk       request → answer")
    room = max(12, (Console().width - 30) // 2)
    for row in found.riskiest_rows:
        texts = " → ".join(f'"{shorten(one, room)}"' for one in (row.prompt, row.response) if one is not None)
        say(f"  {row.row:<6}  top {max(0.001, row.top):<5.1%}  {texts or 'its text is not there any more'}")
    if forecast is not None and (verbose or forecast.reason is None):
        say("", *forecast.lines())


def show_next(run: ScanRun) -> None:
    """Print what to do with a finished scan, and how."""
    options, dataset = run.options, run.manifest.dataset.path
    here = Path(dataset).is_relative_to(Path.cwd())
    check = ["ripcurrent", "check", str(Path(dataset).relative_to(Path.cwd())) if here else dataset]
    check += ["--model", options.model, "--recipe", "lora", "--out", f"{run.folder}-check"]
    for name in ("trainer", "format", "max_tokens"):
        if (value := getattr(options, name)) != type(options).model_fields[name].default:
            check += [flag(name), str(value)]
    for field, column in (options.mapping or {}).items():
        check += ["--map", f"{field}={column}"]
    commands = {"read them": [str(run.folder / "report.html")]}
    if any(one.name == "view" for one in app.registered_commands):
        commands["look at every row"] = ["ripcurrent", "view", str(run.folder)]
    commands["measure your training"] = check
    commands["leave the riskiest out"] = ["ripcurrent", "select", str(run.folder), "--top", "5%", "--drop"]
    if options.adapter is not None or options.spec is not None:
        # check takes an adapter for the tuned model, and the spec's file is not known
        del commands["measure your training"]
    say("\nNext", style="bold")
    say_commands(commands)


def _show_tables(run: ScanRun, found: ScanAnswer) -> None:
    """Every score's distribution, and every kind of rows."""
    from ripcurrent.scan import score_quantiles

    quantiles = " | ".join(f"{percent} % {{{percent}%:+.4f}}" for percent in (5, 50, 95, 99))
    show_table(
        f"score {{of.name}} | {quantiles} | length {{of.spearman_with_length:+.2f}}",
        [{"of": one, **{f"{at:.0%}": value for at, value in one.quantiles.items()}} for one in score_quantiles(run)],
        title="Scores",
        caption="length: rank correlation with the number of response tokens",
    )
    show_table(
        "kind {name} | riskiest {riskiest:.0%} | all {whole:.0%} | at equal\nlengths {equal_lengths:.0%}"
        " | odds\nratio {odds_ratio:.1f} | 95 % {low:.1f}–{high:.1f} | Holm's\np {p:.2g}",
        found.groups,
        title=f"Kinds of rows among the riskiest {found.riskiest}",
    )


@command("report", examples=("ripcurrent report runs/support",))
def report_command(
    run: Annotated[Path, argument("RUN", "Folder of a finished scan, experiment or check.")],
    output: Output,
    reveal: Annotated[bool, option("Of an experiment or check: with the answers, as report-revealed.html.")] = False,
) -> None:
    """Rebuild the page of a finished scan, experiment or check."""
    from ripcurrent.report import build, without_plots

    path = build(run, reveal=reveal)
    if output.answer(lambda: {"run": str(run), "report": str(path)}):
        say(f"Page: {path}", *filter(None, [without_plots()]))
