"""``ripcurrent scan``: score every row of a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import Field

from ripcurrent.cli._command import ADVANCED, command
from ripcurrent.cli._output import Output
from ripcurrent.cli._text import say
from ripcurrent.scan import Execution, ScanOptions

if TYPE_CHECKING:
    from ripcurrent.scan import Part, ScanRun

DATASET = typer.Argument(metavar="DATASET", help="File, folder, 'pattern*', or hf:owner/name[:split].")
PANELS = {
    "Model": ("model", "adapter", "device", "dtype"),
    "Data": ("format", "mapping", "limit", "max_tokens"),
    "Method": ("anchors",),
    ADVANCED: (
        *("signals", "scope", "anchor_check", "tokens", "windows", "memory", "token_budget"),
        *("shard", "shard_rows", "executor"),
    ),
}
EXAMPLES = (
    "ripcurrent scan support.jsonl -m Qwen/Qwen2.5-7B-Instruct",
    "ripcurrent scan corpus/*.parquet --windows --memory 8GB --token-budget 1024",
    "ripcurrent scan big.jsonl --shard auto -o runs/big    (one process of a SLURM array)",
)


class ScaleOptions(Execution):
    """Who computes which part of a scan."""

    shard: str | None = Field(default=None, json_schema_extra={"metavar": "i/n"})
    """Score only part i of n, from 0; auto: as SLURM or torchrun says. The part that ends last writes the scores."""


@command("scan", PANELS, EXAMPLES)
def scan_command(
    dataset: Annotated[str, DATASET],
    options: ScanOptions,
    scale: ScaleOptions,
    output: Output,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FOLDER", help="Run folder; runs/<dataset> when left out.")
    ] = None,
) -> None:
    """Score every row of a dataset against harmful and safe anchors, and write a ranked table and a page.

    A scan that was stopped continues when the same command is given again.
    """
    from ripcurrent.cli._summary import show_summary
    from ripcurrent.forecast import forecast, read_forecast
    from ripcurrent.report import build_report
    from ripcurrent.scan import scan

    output.say_default_model("model" in options.model_fields_set)
    part = None if scale.shard is None else _part(dataset, scale, out, options)
    with output.progress() as progress:
        run = scan(dataset, out, options, part=part, execution=scale, progress=progress)
        if run.finished:
            # a forecast of the same scores stands, such as one by another calibration
            kept = None if run.manifest.timings["rows_scored_in_this_call"] else read_forecast(run)
            found = kept or forecast(run, progress=progress)
            progress.step("writing the page")
            build_report(run)
    if not run.finished:
        _show_part(run, part, output)
    else:
        predicted = None if found.reason else found.model_dump(mode="json")
        output.answer(lambda: {**run.to_json(), "forecast": predicted}, lambda: show_summary(run, found))


def _part(dataset: str, scale: ScaleOptions, out: Path | None, options: ScanOptions) -> Part:
    import os

    from ripcurrent.data import read_rows
    from ripcurrent.runs import refuse_other_cut
    from ripcurrent.scan import bind_local_gpu, default_folder, parse_part

    part = parse_part(scale.shard or "", os.environ)
    if scale.shard == "auto":
        refuse_other_cut(
            out or default_folder(read_rows(dataset, format=options.format, mapping=options.mapping)), part
        )
        if scale.executor == "local" and options.device in (None, "cuda"):
            bind_local_gpu(os.environ)
    return part


def _show_part(run: ScanRun, part: Part | None, output: Output) -> None:
    """Say what a part did while others are still to come."""
    fresh = int(run.manifest.timings["rows_scored_in_this_call"])
    output.answer(
        lambda: {"run": str(run.folder), "part": str(part), "rows_scored_in_this_call": fresh},
        lambda: say(f"Part {part}: {fresh} rows scored now. The part that ends last writes the scores of all."),
    )
