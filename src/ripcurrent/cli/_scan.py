"""``ripcurrent scan``: score a dataset's rows and show the finished scan; ``ripcurrent report``: its page again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from rich.console import Console

from ripcurrent.cli._command import ADVANCED, argument, command, option
from ripcurrent.cli._output import Output, say, shorten, show_table
from ripcurrent.scan import Execution, ScanOptions

if TYPE_CHECKING:
    from ripcurrent.forecast import Forecast
    from ripcurrent.scan import ScanRun

DATASET = argument("DATASET", "File, folder, 'pattern*', or hf:owner/name[:split].")
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
) -> None:
    """Score every row of a dataset against harmful and safe anchors, and write a ranked table and a page.

    A scan that was stopped continues when the same command is given again.
    """
    from ripcurrent.forecast import forecast, read_forecast
    from ripcurrent.report import build_report
    from ripcurrent.scan import parse_part, scan

    output.say_default_model("model" in options.model_fields_set)
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
        show_scan(run, found)


def show_scan(run: ScanRun, forecast: Forecast | None) -> None:
    """Print a finished scan's verdict, riskiest rows and format shares."""
    from ripcurrent.report import without_plots
    from ripcurrent.scan import format_shares, riskiest_rows, scan_notes, score_quantiles, weak_anchors_note

    manifest, counts = run.manifest, run.status_counts()
    scored = counts.pop("ok", 0)
    unscored = ", ".join(f"{count} {status}" for status, count in counts.items())
    of_all = f"{scored} of {run.rows} rows scored" + (f" ({unscored})" if unscored else "")
    say(f"{of_all} · {manifest.model.name} · anchors {manifest.anchors.name}", *manifest.row_notes)
    if manifest.anchors.separation:
        separation = ", ".join(f"{name} {value:.2f}" for name, value in manifest.anchors.separation.items())
        say(f"The anchors' separation (leave-one-out AUROC): {separation}")
    if (weak := weak_anchors_note(run)) is not None:
        say(weak, style="bold red")
    quantiles = " | ".join(f"{percent} % {{{percent}%:+.4f}}" for percent in (5, 50, 95, 99))
    show_table(
        f"score {{of.name}} | {quantiles} | length {{of.spearman_with_length:+.2f}}",
        [{"of": one, **{f"{at:.0%}": value for at, value in one.quantiles.items()}} for one in score_quantiles(run)],
        title="Scores",
        caption="length: rank correlation with the number of response tokens",
    )
    # a long prompt would take many lines, so it is clipped to what the other columns leave
    room = max(20, Console().width - 54)
    show_table(
        "# {rank} | row {row} | score {score:+.4f} | tokens {response_tokens} | format {traits} | prompt {prompt}",
        [
            {**one._asdict(), "rank": rank, "prompt": shorten(one.prompt or "", room)}
            for rank, one in enumerate(riskiest_rows(run), start=1)
        ],
        title=f"Riskiest rows by {run.default_ranking}",
        words=(4, 5),
    )
    shares = format_shares(run)
    lengths = "mean response tokens: {:.0f} of the riskiest, {:.0f} of all".format(*shares.pop("response_tokens"))
    show_table(
        f"format {{name}} | riskiest {min(100, len(run.ranked()))} {{top:.0%}} | all scored {{whole:.0%}}",
        [{"name": name, "top": top, "whole": whole} for name, (top, whole) in shares.items()],
        title="Format shares",
        caption=lengths,
    )
    say(
        *scan_notes(run),
        *(forecast.lines() if forecast else ()),
        "A score is a claim, not proof: compare any selection with its length-matched controls (ripcurrent select).",
        f"Scores: {run.scores_path}",
        f"Page:   {run.folder / 'report.html'}",
        *filter(None, [without_plots()]),
    )


@command("report", examples=("ripcurrent report runs/support",))
def report_command(
    run: Annotated[Path, argument("RUN", "Folder of a finished scan or of an experiment.")], output: Output
) -> None:
    """Rebuild the page of a finished scan or of an experiment."""
    from ripcurrent.report import build, without_plots

    path = build(run)
    if output.answer(lambda: {"run": str(run), "report": str(path)}):
        say(f"Page: {path}", *filter(None, [without_plots()]))
