"""``ripcurrent finetune``: train a model on a dataset's rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ripcurrent.cli._command import ADVANCED, command
from ripcurrent.cli._output import Output
from ripcurrent.cli._text import say
from ripcurrent.finetune import FinetuneOptions

if TYPE_CHECKING:
    from ripcurrent.finetune import FinetuneRun

PANELS = {
    "Model": ("model", "adapter", "device", "dtype"),
    "Data": ("format", "mapping", "limit", "max_tokens", "seed"),
    ADVANCED: ("loss_on", "report_to", "checkpoint_minutes"),
}
EXAMPLES = ("ripcurrent finetune support.jsonl -m Qwen/Qwen2.5-7B-Instruct --recipe lora -o runs/tuned",)


@command("finetune", PANELS, EXAMPLES)
def finetune_command(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="File, datasets folder, or hf:owner/name[:split].")],
    recipe: Annotated[str, typer.Option(metavar="R", help="paper, lora, embedded, or a YAML file.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FOLDER", help="Run folder.")],
    options: FinetuneOptions,
    output: Output,
    report_to: Annotated[
        list[str] | None,
        typer.Option(metavar="TRACKER", help="wandb, mlflow, trackio…; repeatable.", rich_help_panel=ADVANCED),
    ] = None,
    checkpoint_minutes: Annotated[
        float,
        typer.Option(metavar="N", min=0, help="How much of a run an interruption can cost.", rich_help_panel=ADVANCED),
    ] = 10.0,
) -> None:
    """Fine-tune a model on a dataset's rows, on exactly the tokens that a scan scores.

    Leaves FOLDER/model or FOLDER/adapter with the loss of every step and a manifest. A run that was stopped continues
    from its last checkpoint when the same command is given again.
    """
    from ripcurrent.finetune import finetune

    output.say_default_model("model" in options.model_fields_set)
    trackers = [tracker for tracker in report_to or [] if tracker != "none"]
    with output.progress() as progress:
        run = finetune(
            dataset, out, recipe, options, report_to=trackers, checkpoint_minutes=checkpoint_minutes, progress=progress
        )
    output.answer(run.to_json, lambda: _show(run))


def _show(run: FinetuneRun) -> None:
    found, training, base = run.manifest, run.manifest.training, run.manifest.model.name
    use = f"--model {run.result}" if run.kind == "model" else f"--model {base} --adapter {run.result}"
    say(
        f"{found.rows.trained} of {found.rows.count} rows, {training.steps} steps of recipe {found.recipe.name} on "
        f"{base}, seed {found.options.seed}",
        f"Loss: {training.first_loss:.3f} at the first step, {training.last_loss:.3f} at the last",
        *found.notes,
        f"Losses: {run.loss_path}",
        f"Use it: {use}",
    )
