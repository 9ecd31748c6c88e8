"""``ripcurrent doctor``: what a scan would meet and take, before it is begun."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

from rich.text import Text

from ripcurrent.cli._command import ADVANCED, command
from ripcurrent.cli._output import Output
from ripcurrent.cli._scan import DATASET
from ripcurrent.cli._text import harmless, say
from ripcurrent.scan import ScanOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ripcurrent.scan import DatasetReport, Diagnosis, RenderedRow

PANELS = {
    "Model": ("model", "adapter", "device", "dtype"),
    "Data": ("format", "mapping", "limit", "max_tokens"),
    ADVANCED: ("anchors", "signals", "scope", "windows", "memory", "token_budget"),
}


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
    output.answer(found.to_json, lambda: show_diagnosis(found))


def show_diagnosis(found: Diagnosis) -> None:
    """Print what was found, warnings with what to do."""
    say("Environment", style="bold")
    for finding in found.environment:
        mark, style = ("ok     ", "") if finding.ok else ("warning", "yellow")
        say(f"  {mark}  {finding.name}: {finding.value}", style=style)
        if finding.advice is not None:
            say(f"           {finding.advice}")
    if found.model is not None:
        facts = found.model
        say("\nModel", style="bold")
        size = f"{(facts.parameters or 0) / 1e6:,.4g} million parameters"
        say(f"  {facts.name}: {facts.architecture}, {size}, {facts.dtype} on {facts.device}, scope {facts.scope}")
    if found.dataset is not None:
        say("\nDataset", style="bold")
        say(*(f"  {line}" for line in _about(found.dataset)))
    if found.dataset is not None and (row := found.dataset.sample_row) is not None:
        say(
            f"\nRow {row.row}, {row.tokens} tokens; the {row.response_tokens} that bear loss are between ⟦ and ⟧",
            style="bold",
        )
        say(Text.assemble(*_marked(row)))
    for one in found.estimates:
        say("\nA scan of it, predicted from a few timed batches (other load changes it)", style="bold")
        took = [_duration(seconds) for seconds in (one.loading_seconds, one.anchor_seconds, one.row_seconds)]
        parts = f"loading {took[0]}, anchors {took[1]}, kept for the scan, rows {took[2]}"
        say(
            f"  signals {one.signals}: about {_duration(one.seconds)} ({parts} at "
            f"{one.tokens_per_second:.0f} tokens/s), up to {one.peak_memory_bytes / 1e9:.2f} GB of memory"
        )


def _about(dataset: DatasetReport) -> Iterator[str]:
    first = dataset.first_unusable

    def counts(reasons: dict[str, int]) -> str:
        return ", ".join(f"{count} {reason} (first: row {first[reason]})" for reason, count in sorted(reasons.items()))

    yield f"{dataset.path}: {dataset.rows} rows of format {dataset.format} in a container of kind {dataset.container}"
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
    yield (
        f"Tokens: mean {dataset.mean_tokens:.0f} ({dataset.mean_response_tokens:.0f} of them bear loss), "
        f"median {dataset.median_tokens:.0f}, longest {dataset.longest_tokens}; {dataset.truncated_share:.1%} cut at "
        "--max-tokens"
    )


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
