"""``ripcurrent doctor``: what a scan would meet and take, before it is begun."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from ripcurrent.cli._command import command, option
from ripcurrent.cli._output import Output, duration, fill, harmless, say
from ripcurrent.cli._scan import DATASET, PANELS
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.scan import ScanOptions

if TYPE_CHECKING:
    from ripcurrent.data import MarkedRow, MaskReport
    from ripcurrent.scan import Diagnosis

EXAMPLES = ("ripcurrent doctor support.jsonl -m Qwen/Qwen2.5-7B-Instruct",)


TRAINER = "Check which tokens this trainer trains, without a model; given twice: where two differ."
PROBE = "Scan a few rows to measure time and memory; else both are estimated."
PAGE = "With --trainer: write a page of it, rows with their trained tokens marked."


@command("doctor", PANELS, EXAMPLES, without=("anchor_check", "tokens", "shard_rows", "seed", "trainer"))
def doctor_command(
    options: ScanOptions,
    output: Output,
    dataset: Annotated[str | None, DATASET] = None,
    trainer: Annotated[list[str] | None, option(TRAINER, "NAME[,OPTION=VALUE]")] = None,
    page: Annotated[Path | None, option(PAGE, "FILE.html")] = None,
    probe: Annotated[bool, option(PROBE)] = False,
) -> None:
    """Look at the environment and, with a dataset, at its rows, and estimate the time and memory of a scan.

    Rows are looked at with the tokenizer alone, in seconds. With --probe a few rows are scanned, and the anchors'
    directions kept. With --trainer only tokens are looked at; then it exits with 3 where rows bear no loss, or two
    trainers differ.
    """
    from ripcurrent.scan import examine

    if trainer:
        _check_masks(dataset, trainer, options, page, output)
        return
    if page is not None:
        raise RipcurrentError("--page shows which tokens are trained.", "Say by whom: --trainer trl")
    given = options.model_dump(include=options.model_fields_set)
    with output.progress() as progress:
        known: Diagnosis | None = None
        for found in examine(dataset, probe=probe, progress=progress, **given):
            # what is known is shown before the next step begins
            if not (output.json or output.quiet):
                _show_found(found, known, options.max_tokens)
            known = found
    output.answer(found.to_json)


def _show_found(found: Diagnosis, known: Diagnosis | None, longest: int) -> None:
    """Print what is found and was not known."""
    about, before = found.dataset, known.dataset if known else None
    if about is not None and before is None:
        say("Dataset", style="bold")
        say(fill("  {path}: {rows:,} rows of format {format} in a container of kind {container}", about))
        for reason, count in sorted(about.unreadable.items()):
            say(f"  {count:,} {reason} (first: row {about.first_unreadable[reason]})", style="yellow")
    if about is not None and about.masks is not None and (before is None or before.masks is None):
        (report,) = about.masks.reports
        few = f" of {report.rows:,} rows spread over them" if report.rows < about.rows else ""
        say(f"\nTrained tokens{few}", style="bold")
        _say_masks(report, longest)
        say(*(f"  {note}" for note in about.masks.notes))
        if not report.trained_rows:
            say("  No row of these could be scored. Check --format and --map.", style="red")
    if found.environment and not (known and known.environment):
        say("\nEnvironment" if known else "Environment", style="bold")
        for finding in found.environment:
            mark, style = ("ok     ", "") if finding.ok else ("warning", "yellow")
            say(f"  {mark}  {finding.name}: {finding.value}", style=style)
            if finding.advice is not None:
                say(f"           {finding.advice}")
    if found.model is not None:
        about_model = "  {name}: {architecture}, {parameters:,} parameters, {dtype} on {device}, scope {scope}"
        say("\nModel", fill(about_model, found.model))
    for one in found.estimates:
        how = "the model's configuration: rough, --probe measures"
        say(f"\nA scan of it, predicted from {'a few scanned rows' if one.probed_tokens else how}", style="bold")
        loading, anchors, rows = map(duration, (one.loading_seconds, one.anchor_seconds, one.row_seconds))
        parts = f"loading {loading}, anchors {anchors}, kept for the next scan, rows {rows}"
        speed = f"at {one.tokens_per_second:,.0f} tokens/s), up to {one.peak_memory_bytes / 1e9:.1f} GB of memory"
        say(f"  signals {one.signals}: about {duration(one.seconds)} ({parts} {speed}")


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
            say(f"\n{one.trainer}", style="bold")
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
    share = one.trained_tokens / one.tokens if one.tokens else 0.0
    cut = f"{one.truncated} are cut at {longest} tokens"
    say(f"  {one.trained_rows:,} of {one.rows:,} rows bear loss, on {share:.0%} of their tokens; {cut}")
    if one.typical is not None:
        mean = one.tokens / one.trained_rows
        say(f"  a row has {mean:.0f} tokens on average, {mean * share:.0f} of them bear loss")
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
