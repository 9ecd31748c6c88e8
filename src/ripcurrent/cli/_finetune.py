"""``ripcurrent finetune``: train a model on a dataset's rows."""

from pathlib import Path
from typing import Annotated

from ripcurrent.cli._command import ADVANCED, argument, command, option
from ripcurrent.cli._output import Output, fill, say
from ripcurrent.finetune import FinetuneOptions

PANELS = {
    "Model": ("model", "adapter", "device", "dtype"),
    "Data": ("trainer", "format", "mapping", "limit", "max_tokens", "seed"),
    ADVANCED: ("spec", "report_to", "checkpoint_minutes"),
}
EXAMPLES = ("ripcurrent finetune support.jsonl -m Qwen/Qwen2.5-7B-Instruct --recipe lora -o runs/tuned",)


@command("finetune", PANELS, EXAMPLES)
def finetune_command(
    dataset: Annotated[str, argument("DATASET", "File, datasets folder, or hf:owner/name[:split].")],
    recipe: Annotated[str, option("paper, lora, embedded, or a YAML file.", "R")],
    out: Annotated[Path, option("Run folder.", "FOLDER")],
    options: FinetuneOptions,
    output: Output,
    report_to: Annotated[list[str] | None, option("wandb, mlflow, trackio…; repeatable.", "TRACKER")] = None,
    checkpoint_minutes: Annotated[float, option("How much of a run an interruption can cost.", "N", min=0)] = 10.0,
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
    if output.answer(run.to_json):
        found, base = run.manifest, run.manifest.model.name
        trained = "{rows.trained} of {rows.count} rows, {training.steps} steps of recipe {recipe.name} on {model.name}"
        say(
            fill(trained + ", seed {options.seed}", found),
            fill("Loss: {first_loss:.3f} at the first step, {last_loss:.3f} at the last", found.training),
            *found.notes,
            f"Losses: {run.loss_path}",
            f"Use it: --model {run.result if run.kind == 'model' else f'{base} --adapter {run.result}'}",
        )
