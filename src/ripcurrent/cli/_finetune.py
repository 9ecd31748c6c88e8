"""``ripcurrent finetune``: train a model on a dataset's rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ripcurrent.cli._scan import (
    ADAPTER,
    DEVICE,
    DTYPE,
    FORMAT,
    JSON,
    LIMIT,
    LOSS_ON,
    MAP,
    MAX_TOKENS,
    MODEL,
    QUIET,
)

if TYPE_CHECKING:
    from ripcurrent.finetune._finetune import FinetuneResult


def finetune_command(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="File, datasets folder, or hf:owner/name[:split].")],
    recipe: Annotated[str, typer.Option(metavar="R", help="paper, lora, embedded, or a YAML file.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Run folder.")],
    model: MODEL = "embedded",
    adapter: ADAPTER = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the rows' order, a fresh LoRA and dropout.")] = 0,
    loss_on: LOSS_ON = "all",
    max_tokens: MAX_TOKENS = 1024,
    format: FORMAT = None,
    mapping: MAP = None,
    limit: LIMIT = None,
    device: DEVICE = None,
    dtype: DTYPE = None,
    report_to: Annotated[
        list[str] | None,
        typer.Option(metavar="TRACKER", help="wandb, mlflow, trackio…; repeatable, none unless named."),
    ] = None,
    checkpoint_minutes: Annotated[
        float, typer.Option(metavar="N", min=0, help="How much of a run an interruption can cost.")
    ] = 10.0,
    as_json: JSON = False,
    quiet: QUIET = False,
) -> None:
    """Fine-tune a model on a dataset's rows, on exactly the tokens that a scan scores.

    Leaves FOLDER/model or FOLDER/adapter with the loss of every step and a manifest. A run that was stopped goes on
    from its last checkpoint when the same command is given again.
    """
    from ripcurrent.cli._output import TerminalProgress, print_json, say_default_model
    from ripcurrent.data import parse_mapping
    from ripcurrent.finetune._finetune import finetune

    named: dict[str, Any] = {
        "model": model,
        "adapter": adapter,
        "seed": seed,
        "loss_on": loss_on,
        "max_tokens": max_tokens,
        "format": format,
        "mapping": parse_mapping(mapping) if mapping else None,
        "limit": limit,
        "device": device,
        "dtype": dtype,
        "report_to": [tracker for tracker in report_to or [] if tracker != "none"],
        "checkpoint_minutes": checkpoint_minutes,
    }
    say_default_model(context, quiet)
    if quiet:
        result = finetune(dataset, out, recipe, **named)
    else:
        with TerminalProgress().shown() as progress:
            result = finetune(dataset, out, recipe, progress=progress, **named)
    if as_json:
        print_json(result.as_json())
    elif not quiet:
        _show(result)


def _show(result: FinetuneResult) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(soft_wrap=True, highlight=False)
    facts = result.as_json()
    console.print(
        f"[bold]{facts['trained_rows']}[/bold] of {facts['rows']} rows, {facts['steps']} steps of recipe "
        f"{escape(facts['recipe'])} on {escape(facts['base'])}, seed {facts['seed']}"
    )
    console.print(f"Loss: {facts['first_loss']:.3f} at the first step, {facts['last_loss']:.3f} at the last")
    for note in result.notes:
        console.print(escape(note))
    use = f"--model {result.result}" if result.kind == "model" else f"--model {facts['base']} --adapter {result.result}"
    console.print(f"Losses: {escape(str(result.loss_path))}")
    console.print(f"Use it: {escape(use)}")
