"""``ripcurrent doctor``: what a scan would meet and take, before it is begun."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from ripcurrent.cli._command import command, option
from ripcurrent.cli._output import Output, fill, harmless, say
from ripcurrent.cli._scan import DATASET, PANELS
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.scan import ScanOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ripcurrent.data import MarkedRow, MaskReport
    from ripcurrent.scan import DatasetReport, RenderedRow

EXAMPLES = ("ripcurrent doctor support.jsonl -m Qwen/Qwen2.5-7B-Instruct",)


TRAINER = "Check which tokens this trainer trains, without a model; given twice: where two differ."
PAGE = "With --trainer: write a page of it, rows with their trained tokens marked."


@command("doctor", PANELS, EXAMPLES, without=("anchor_check", "tokens", "shard_rows", "seed", "trainer"))
def doctor_command(
    options: ScanOptions,
    output: Output,
    dataset: Annotated[str | None, DATASET] = None,
    trainer: Annotated[list[str] | None, option(TRAINER, "NAME[,OPTION=VALUE]")] = None,
    page: Annotated[Path | None, option(PAGE, "FILE.html")] = None,
) -> None:
    """Look at the environment and, with a dataset, at its rows, and forecast the time and memory of a scan.

    With a dataset the anchors' directions are computed, kept in the cache for the scan, and a few batches are timed.
    With --trainer only tokens are looked at. It exits with 3 where rows bear no loss, or two trainers differ.
    """
    from ripcurrent.scan import doctor

    if trainer:
        _check_masks(dataset, trainer, options, page, output)
        return
    if page is not None:
        raise RipcurrentError("--page shows which tokens are trained.", "Say by whom: --trainer trl")
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


def _check_masks(
    dataset: str | None, trainers: list[str], options: ScanOptions, page: Path | None, output: Output
) -> None:
    from ripcurrent.data import check_masks
    from ripcurrent.models import load_tokenizer

    if dataset is None:
        raise RipcurrentError("--trainer needs a dataset.", "For example: ripcurrent doctor rows.jsonl --trainer trl")
    chosen = [ScanOptions.resolve(options, {"trainer": one}) for one in trainers]
    lengths = [one.max_tokens for one in chosen]
    # rows in no format of ours are read where any of the trainers may read them
    rows = max(chosen, key=lambda one: one.trainer != "completion").open(dataset)
    with output.progress() as progress:
        progress.step("labelling rows")
        tokenizer = load_tokenizer(options.model, adapter=options.adapter)
        policies, processes = [one.trained for one in chosen], min(4, os.cpu_count() or 1)
        found = check_masks(rows, tokenizer, policies, lengths, processes=processes)
    if page is not None:
        from ripcurrent.report import build_mask_page

        build_mask_page(found, dataset, page)
    code = ExitCode.OK if found.ok else ExitCode.GATE_FAILED
    if output.answer(found.to_json):
        for one, longest in zip(found.reports, lengths, strict=True):
            _say_masks(one, longest)
        say(*(f"\n{note}" for note in found.notes))
        if found.differing is not None:
            names = " and ".join(one.trainer for one in found.reports[:2])
            say(f"\n{names} train other tokens in {found.differing} of {found.reports[0].rows} rows", style="bold")
            for pair in found.differences:
                for one, row in zip(found.reports, pair, strict=False):
                    say(f"\n  {one.trainer}")
                    _show(row)
        if page is not None:
            say(f"\nPage: {page}")
    raise typer.Exit(int(code))


def _say_masks(one: MaskReport, longest: int) -> None:
    say(f"\n{one.trainer}", style="bold")
    share = one.trained_tokens / one.tokens if one.tokens else 0.0
    cut = f"{one.truncated} are cut at {longest} tokens"
    say(f"  {one.trained_rows} of {one.rows} rows bear loss, on {share:.0%} of their tokens; {cut}")
    for reason, count in sorted(one.not_trained.items()):
        why = f": {harmless(one.mismatch)}" if one.mismatch and reason == "template_mismatch" else ""
        say(f"  {count} {reason} (first: row {one.first_not_trained[reason]}){why}", style="yellow")
    say(f"  the end of the answer is trained in {one.ends_trained}, the whole prompt in {one.prompts_trained}")
    if one.unread:
        say(f"  columns that change nothing: {', '.join(map(harmless, one.unread))}")
    if one.typical is not None:
        _show(one.typical)


def _show(row: MarkedRow) -> None:
    reason = "" if row.status == "ok" else f": {row.status}"
    say(f"  Row {row.row}, {row.tokens} tokens; the {row.trained} that bear loss are between ⟦ and ⟧{reason}")
    texts = [(harmless(piece.text), piece.weight) for piece in row.pieces]
    say(Text.assemble(*((f"⟦{text}⟧", "green") if weight else (text, "dim") for text, weight in texts)))


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
        yield f"{dataset.sample_unread} sampled rows have reasoning or tools that the chat template does not print"
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
