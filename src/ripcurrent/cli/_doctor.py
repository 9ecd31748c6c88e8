"""``ripcurrent doctor``: what a scan would meet and take, before it is begun."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ripcurrent.cli._command import ADVANCED, Output, command
from ripcurrent.cli._scan import DATASET
from ripcurrent.scan import ScanOptions

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from ripcurrent.scan import DatasetReport, Diagnosis, Estimate, Finding, RenderedRow

LOSS_OPEN, LOSS_CLOSE = "⟦", "⟧"
"""Mark loss-bearing text where there is no colour."""

SIGNAL_NAMES = {
    "all": "gradients and representations",
    "gradient": "gradients",
    "representation": "representations alone",
}


PANELS = {
    "Model": ("model", "adapter", "device", "dtype"),
    "Data": ("format", "mapping", "limit", "max_tokens"),
    ADVANCED: ("anchors", "signals", "scope", "windows", "memory", "token_budget"),
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    examples = ("ripcurrent doctor support.jsonl -m Qwen/Qwen2.5-7B-Instruct",)
    command(app, "doctor", PANELS, examples, without=("anchor_check", "tokens", "shard_rows", "seed"))(doctor_command)


def doctor_command(
    context: typer.Context,
    options: ScanOptions,
    output: Output,
    dataset: Annotated[str | None, DATASET] = None,
) -> None:
    """Look at the environment and, with a dataset, at its rows, and forecast the time and memory of a scan.

    Nothing is left behind. With a dataset or a model a few batches are run on the model.
    """
    from ripcurrent.cli._output import is_default, print_json, progress_of
    from ripcurrent.scan import doctor

    with progress_of(output, json_too=True) as progress:
        # without a dataset a model is looked at only where it is named
        model = None if is_default(context, "model") else options.model
        found = doctor(dataset, model=model, progress=progress, **options.model_dump(exclude={"model"}))
    if output.json:
        print_json(found.to_json())
    elif not output.quiet:
        show_diagnosis(found)


def show_diagnosis(found: Diagnosis) -> None:
    """Print what was found, warnings with what to do."""
    from rich.console import Console

    console = Console(highlight=False, emoji=False)
    console.print("[bold]Environment[/bold]")
    for finding in found.environment:
        console.print(_line(finding), soft_wrap=True)
    if found.model is not None:
        facts = found.model
        console.print("\n[bold]Model[/bold]")
        millions = (facts.parameters or 0) / 1e6
        forward = bool(found.estimates) and all(one.signals == "representation" for one in found.estimates)
        over = "representations alone" if forward else f"gradients over scope {facts.scope}"
        console.print(
            f"  {facts.name}: {facts.architecture}, {millions:,.{0 if millions >= 10 else 2}f} million"
            f" parameters, {facts.dtype} on {facts.device}, {over}",
            soft_wrap=True,
            markup=False,
        )
    if found.dataset is not None:
        console.print("\n[bold]Dataset[/bold]")
        _show_dataset(console, found.dataset)
    if found.estimates:
        console.print("\n[bold]A scan of it[/bold], predicted from a few timed batches (other load changes it)")
        for estimate in found.estimates:
            console.print(_forecast(estimate), soft_wrap=True)


def duration(seconds: float) -> str:
    """Seconds in words, to about two digits."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.1f} min" if seconds < 600 else f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 36 * 3600 else f"{seconds / 86400:.1f} days"


def _line(finding: Finding) -> Text:
    from rich.text import Text

    mark = ("  ok       ", "green") if finding.ok else ("  warning  ", "bold yellow")
    line = Text.assemble(mark, f"{finding.name}: {finding.value}")
    if finding.advice is not None:
        line.append(f"\n           {finding.advice}")
    return line


def _show_dataset(console: Console, dataset: DatasetReport) -> None:
    def line(text: str) -> None:
        console.print(f"  {text}", soft_wrap=True, markup=False)

    line(f"{dataset.path}: {dataset.rows} rows of format {dataset.format} in a container of kind {dataset.container}")
    if dataset.unreadable:
        line(f"Unusable as read, of all rows: {_counts(dataset.unreadable, dataset.first_unusable)}")
    unusable = _counts(dataset.sample_unusable, dataset.first_unusable) or "none"
    line(f"Of {dataset.sampled} rows spread over it, rendered and tokenised, unusable: {unusable}")
    if dataset.mismatch:
        line(f"template_mismatch: {dataset.mismatch}")
    if dataset.sample_unread:
        line(f"{dataset.sample_unread} of the sampled rows have tool calls or reasoning, which are not read")
    if dataset.mean_tokens is None or dataset.sample_row is None:
        line("No row of these could be scored." + ("" if dataset.mismatch else " Check --format and --map."))
        return
    line(
        f"Tokens: mean {dataset.mean_tokens:.0f} ({dataset.mean_response_tokens:.0f} of them bear loss), "
        f"median {dataset.median_tokens:.0f}, longest {dataset.longest_tokens}; {dataset.truncated_share:.1%} cut at "
        "--max-tokens"
    )
    row = dataset.sample_row
    console.print(
        f"\n[bold]Row {row.row}[/bold], {row.tokens} tokens; the {row.response_tokens} that bear loss are "
        + ("highlighted" if _has_colour(console) else f"between {LOSS_OPEN} and {LOSS_CLOSE}")
    )
    console.print(_masked(row, _has_colour(console)), soft_wrap=True)


def _masked(row: RenderedRow, colour: bool) -> Text:
    from rich.text import Text

    from ripcurrent.cli._text import harmless

    text = Text()
    for part in row.parts:
        shown = harmless(part.text)
        if not part.bears_loss:
            text.append(shown, style="dim")
        elif colour:
            text.append(shown, style="black on bright_green")
        else:
            text.append(f"{LOSS_OPEN}{shown}{LOSS_CLOSE}")
    if row.parts_left_out:
        text.append(f" […] {row.parts_left_out} further parts")
    if row.truncated:
        text.append(" […] cut at --max-tokens")
    return text


def _has_colour(console: Console) -> bool:
    return console.is_terminal and console.color_system is not None and not console.no_color


def _forecast(estimate: Estimate) -> str:
    from ripcurrent.scan import size

    parts = (
        f"loading {duration(estimate.loading_seconds)}",
        f"anchors {duration(estimate.anchor_seconds)}",
        f"rows {duration(estimate.row_seconds)} at {estimate.tokens_per_second:.0f} tokens/s",
    )
    return (
        f"  {SIGNAL_NAMES[estimate.signals]}: about {duration(estimate.seconds)} ({', '.join(parts)}),"
        f" up to {size(estimate.peak_memory_bytes)} of memory"
    )


def _counts(reasons: dict[str, int], first: dict[str, int]) -> str:
    """Reasons with their numbers of rows and the first row of each."""
    return ", ".join(f"{count} {reason} (first: row {first[reason]})" for reason, count in sorted(reasons.items()))
