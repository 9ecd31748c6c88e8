"""``ripcurrent doctor``: what a scan would meet and take, before it is begun."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

from rich.text import Text

from ripcurrent.cli._command import command
from ripcurrent.cli._output import Output, fill, harmless, say
from ripcurrent.cli._scan import DATASET, PANELS
from ripcurrent.scan import ScanOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ripcurrent.scan import DatasetReport, RenderedRow

EXAMPLES = ("ripcurrent doctor support.jsonl -m Qwen/Qwen2.5-7B-Instruct",)


@command("doctor", PANELS, EXAMPLES, without=("anchor_check", "tokens", "shard_rows", "seed"))
def doctor_command(options: ScanOptions, output: Output, dataset: Annotated[str | None, DATASET] = None) -> None:
    """Look at the environment and, with a dataset, at its rows, and forecast the time and memory of a scan.

    With a dataset the anchors' directions are computed, kept in the cache for the scan, and a few batches are timed.
    """
    from ripcurrent.scan import doctor

    with output.progress() as progress:
        # without a dataset a model is looked at only where it is named
        model = options.model if "model" in options.model_fields_set else None
        found = doctor(dataset, model=model, progress=progress, **options.model_dump(exclude={"model"}))
    if not output.answer(found.to_json):
        return
    say("Environment", style="bold")
    for finding in found.environment:
        mark, style = ("ok     ", "") if finding.ok else ("warning", "yellow")
        say(f"  {mark}  {finding.name}: {finding.value}", style=style)
        if finding.advice is not None:
            say(f"           {finding.advice}")
    if found.model is not None:
        say("\nModel", style="bold")
        about = "  {name}: {architecture}, {parameters:,} parameters, {dtype} on {device}, scope {scope}"
        say(fill(about, found.model))
    if found.dataset is not None:
        say("\nDataset", style="bold")
        say(*(f"  {line}" for line in _about(found.dataset)))
        if (row := found.dataset.sample_row) is not None:
            tokens = "{tokens} tokens; the {response_tokens} that bear loss are between ⟦ and ⟧"
            say(fill(f"\nRow {{row}}, {tokens}", row), style="bold")
            say(Text.assemble(*_marked(row)))
    for one in found.estimates:
        say("\nA scan of it, predicted from a few timed batches (other load changes it)", style="bold")
        loading, anchors, rows = map(_duration, (one.loading_seconds, one.anchor_seconds, one.row_seconds))
        parts = f"loading {loading}, anchors {anchors}, kept for the scan, rows {rows}"
        speed = f"at {one.tokens_per_second:.0f} tokens/s), up to {one.peak_memory_bytes / 1e9:.2f} GB of memory"
        say(f"  signals {one.signals}: about {_duration(one.seconds)} ({parts} {speed}")


def _about(dataset: DatasetReport) -> Iterator[str]:
    def counts(reasons: dict[str, int]) -> str:
        first = dataset.first_unusable
        return ", ".join(f"{count} {reason} (first: row {first[reason]})" for reason, count in sorted(reasons.items()))

    yield fill("{path}: {rows} rows of format {format} in a container of kind {container}", dataset)
    if dataset.unreadable:
        yield f"Unusable as read, of all rows: {counts(dataset.unreadable)}"
    unusable = counts(dataset.sample_unusable) or "none"
    yield f"Of {dataset.sampled} rows spread over it, rendered and tokenised, unusable: {unusable}"
    if dataset.mismatch:
        yield f"template_mismatch: {dataset.mismatch}"
    if dataset.sample_unread:
        yield f"{dataset.sample_unread} of the sampled rows have tool calls or reasoning, which are not read"
    if dataset.sample_row is None:
        yield "No row of these could be scored." + ("" if dataset.mismatch else " Check --format and --map.")
        return
    lengths = "mean {mean_tokens:.0f} ({mean_response_tokens:.0f} of them bear loss), median {median_tokens:.0f}"
    yield fill(f"Tokens: {lengths}, longest {{longest_tokens}}; {{truncated_share:.1%}} cut at --max-tokens", dataset)


def _marked(row: RenderedRow) -> Iterator[tuple[str, str]]:
    """The row's text in pieces with their styles; brackets mark loss where there is no colour, too."""
    at = 0
    for start, end in row.loss_spans:
        yield harmless(row.text[at:start]), "dim"
        yield f"⟦{harmless(row.text[start:end])}⟧", "green"
        at = end
    yield harmless(row.text[at:]) + (" […] cut at --max-tokens" if row.truncated else ""), "dim"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{timedelta(seconds=round(seconds))} h"
