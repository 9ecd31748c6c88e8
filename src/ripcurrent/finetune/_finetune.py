"""Fine-tune: a dataset's rows trained into a model by a recipe, in a run folder that says how."""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ripcurrent.data import Dataset, DatasetInfo, Row, canonical_json, encode_rows, read_rows
from ripcurrent.errors import MissingExtraError
from ripcurrent.finetune._options import FinetuneOptions
from ripcurrent.finetune._recipe import Recipe, load_recipe
from ripcurrent.finetune._run import CHECKPOINTS, ROWS, FinetuneManifest, FinetuneRun, TrainedRows, TrainingFacts
from ripcurrent.models import ModelInfo, describe
from ripcurrent.progress import Progress, SilentProgress
from ripcurrent.runs import MANIFEST, RunFolder, library_versions, machine, require_run_folder, written_whole
from ripcurrent.scan import require_positions

if TYPE_CHECKING:
    import torch

    from ripcurrent.finetune._rows import TrainingSet
    from ripcurrent.models import ChatModel

LIBRARIES = ("torch", "transformers", "trl", "accelerate", "peft", "datasets", "tokenizers", "numpy")
UNTRAINED = {
    *("name", "revision", "architecture", "device", "adapter", "adapter_base", "fingerprint"),
    *("template_sha256", "tokenizer_sha256"),
}
"""What training does not change of the model that it began with."""


def finetune(
    dataset: str | Path,
    out: str | Path,
    recipe: str | Path | Recipe,
    options: FinetuneOptions | None = None,
    *,
    report_to: Sequence[str] = (),
    checkpoint_minutes: float = 10.0,
    progress: Progress | None = None,
    **changes: object,
) -> FinetuneRun:
    """Fine-tune a model on a dataset's rows and leave the model or adapter in a run folder.

    The tokens and the loss mask are those that a scan with equal ``max_tokens`` and ``loss_on`` scores.

    Args:
        dataset: Anything that :func:`ripcurrent.read_rows` reads.
        out: The run folder. One that holds the same run is resumed, or its result returned.
        recipe: ``paper``, ``lora``, ``embedded``, a YAML file, or a :class:`Recipe`.
        options: Model, seed and the like.
        report_to: Trackers that get every step (``wandb``, ``mlflow``, ``trackio``…).
        checkpoint_minutes: How much of a run an interruption can cost.
        progress: Gets steps and rows.
        **changes: Single options by name, such as ``seed=1``.

    Raises:
        RipcurrentError: Anything the user can mend; with exit code 2 a set without a row to train on, and a loss that
            diverges.
    """
    if find_spec("trl") is None:
        raise MissingExtraError("trl", "train")
    from ripcurrent.finetune._model import compute_dtype, load_for_training, result_kind
    from ripcurrent.finetune._train import train

    chosen = FinetuneOptions.resolve(options, changes)
    chosen_recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    report = progress or SilentProgress()
    compute = compute_dtype(chosen_recipe, chosen.device, chosen.dtype)
    rows = read_rows(dataset, format=chosen.format, mapping=chosen.mapping, limit=chosen.limit)
    require_run_folder(Path(out))
    report.step("reading")
    about_rows = rows.describe()
    report.step("loading the model")
    chat_model = load_for_training(
        chosen.model, adapter=chosen.adapter, device=chosen.device, compute=compute, recipe=chosen_recipe
    )
    require_positions(chat_model, chosen.max_tokens, padded=False)
    identity = _identity(chosen, chosen_recipe, about_rows, chat_model, compute)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    kind = result_kind(chosen_recipe, chosen.adapter)
    # a run that memory stopped before its first step may go on with another recipe
    with RunFolder(Path(out), identity, no_results=(ROWS,)) as run:
        if (run.folder / MANIFEST).exists() and (run.folder / kind).is_dir():
            shutil.rmtree(run.folder / CHECKPOINTS, ignore_errors=True)
            return FinetuneRun.open(run.folder)
        training_set = _training_set(rows, chat_model, chosen, run.folder)
        facts = train(
            chat_model,
            training_set,
            chosen_recipe,
            run.folder,
            seed=chosen.seed,
            compute=compute,
            report_to=report_to,
            checkpoint_minutes=checkpoint_minutes,
            progress=report,
        )
        report.finish()
        # the trainer lies in cycles, and its optimizer's state is twice the model: the next model needs the room
        gc.collect()
        manifest = _manifest(started, about_rows, training_set, chat_model, chosen_recipe, chosen, facts)
        manifest.write(run.folder)
        # only now, when the result and all that is said of it are there
        shutil.rmtree(run.folder / CHECKPOINTS, ignore_errors=True)
    return FinetuneRun(run.folder, manifest)


def _manifest(
    started: str,
    rows: DatasetInfo,
    training_set: TrainingSet,
    chat_model: ChatModel,
    recipe: Recipe,
    options: FinetuneOptions,
    training: TrainingFacts,
) -> FinetuneManifest:
    about = describe(chat_model)
    return FinetuneManifest(
        version=version("ripcurrent"),
        command="finetune",
        started=started,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=library_versions(*LIBRARIES),
        machine=machine(),
        seeds={"seed": options.seed},
        dataset=rows,
        rows=training_set.about,
        model=ModelInfo(**about.model_dump(include=UNTRAINED)),
        recipe=recipe,
        options=options,
        training=training,
        notes=(*_notes(recipe, training_set.about), *filter(None, [about.other_base()])),
    )


def _identity(
    options: FinetuneOptions, recipe: Recipe, rows: DatasetInfo, chat_model: ChatModel, compute: torch.dtype
) -> dict[str, object]:
    """What a run folder must agree in to be resumed."""
    return {
        "command": "finetune",
        **options.model_dump(),
        "recipe": recipe.model_dump(mode="json"),
        "dataset_sha256": rows.sha256,
        "model_fingerprint": chat_model.fingerprint,
        "template_sha256": chat_model.template_sha256,
        "tokenizer_sha256": chat_model.tokenizer_sha256,
        "version": version("ripcurrent"),
        "resolved_device": chat_model.device.type,
        "resolved_dtype": str(compute).removeprefix("torch."),
    }


def _training_set(rows: Dataset, chat_model: ChatModel, options: FinetuneOptions, folder: Path) -> TrainingSet:
    """The rows as they are trained; their ids and hashes are kept in the run folder."""
    from ripcurrent.finetune._rows import build_training_set

    records: list[dict[str, str | int]] = []

    def noted() -> Iterator[Row]:
        for row in rows:
            content = hashlib.sha256(canonical_json(row.record)).hexdigest()
            records.append({"row": row.index, "id": row.id, "sha256": content})
            yield row

    encoded = encode_rows(noted(), chat_model.tokenizer, max_tokens=options.max_tokens, loss_on=options.loss_on)
    training_set = build_training_set(encoded)
    trained = set(training_set.rows)
    with written_whole(folder / ROWS) as part, part.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps({**record, "trained": record["row"] in trained}, ensure_ascii=False) + "\n")
    return training_set


def _notes(recipe: Recipe, rows: TrainedRows) -> Iterator[str]:
    if rows.trained < rows.count:
        reasons = ", ".join(f"{number} {status}" for status, number in sorted(rows.left_out.items()))
        yield f"{rows.count - rows.trained} of {rows.count} rows were left out ({reasons})."
    if rows.truncated:
        yield f"{rows.truncated} rows were cut at the token limit and have no end of turn."
    if rows.trained == 1:
        yield f"The set has one row: every step trained on it alone, not on a batch of {recipe.batch}."
    elif rows.trained < recipe.batch:
        size = rows.trained
        yield f"The set of {size} rows is smaller than a batch of {recipe.batch}: every step trained on all of them."
