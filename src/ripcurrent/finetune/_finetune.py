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

from ripcurrent.data import Dataset, DatasetInfo, Row, canonical_json, encode_rows
from ripcurrent.errors import MissingExtraError
from ripcurrent.finetune._recipe import FinetuneOptions, Recipe, load_recipe
from ripcurrent.finetune._run import CHECKPOINTS, ROWS, FinetuneManifest, FinetuneRun, TrainedRows
from ripcurrent.models import ModelInfo, describe
from ripcurrent.progress import Progress, SilentProgress
from ripcurrent.runs import MANIFEST, RunFolder, library_versions, machine, require_run_folder, written_whole
from ripcurrent.scan import require_positions

if TYPE_CHECKING:
    import torch

    from ripcurrent.finetune._trainer import TrainingSet
    from ripcurrent.models import ChatModel

LIBRARIES = ("torch", "transformers", "trl", "accelerate", "peft", "datasets", "tokenizers", "numpy")
TRAINED = {"parameters", "dtype", "attention", "scope", "fresh_lora_rank", "fresh_lora_seed"}
"""What training may change of the model that it began with, or chooses itself."""


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

    The tokens and the loss mask are those that a scan with equal ``max_tokens`` and ``trainer`` scores. ``dataset`` is
    anything that :func:`ripcurrent.read_rows` reads; ``recipe`` is ``paper``, ``lora``, ``embedded``, a YAML file or a
    :class:`Recipe`; ``changes`` are single options by name. Where ``out`` holds the same run it is resumed, or its
    result returned. ``report_to`` are trackers that get every step (``wandb``, ``mlflow``…), ``checkpoint_minutes`` is
    how much of a run an interruption can cost.

    Raises:
        RipcurrentError: Anything the user can mend; exit code 2 for no row to train on and for a loss that diverges.
    """
    if find_spec("trl") is None:
        raise MissingExtraError("trl", "train")
    from ripcurrent.finetune._model import compute_dtype, load_for_training, result_kind
    from ripcurrent.finetune._train import train

    chosen, report = FinetuneOptions.resolve(options, changes), progress or SilentProgress()
    chosen_recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    compute = compute_dtype(chosen_recipe, chosen.device, chosen.dtype)
    rows = chosen.open(dataset)
    require_run_folder(Path(out))
    report.step("reading")
    about_rows = rows.describe()
    report.step("loading the model")
    chat_model = load_for_training(
        chosen.model, adapter=chosen.adapter, device=chosen.device, compute=compute, recipe=chosen_recipe
    )
    require_positions(chat_model, chosen.max_tokens, padded=False)
    identity = _identity(chosen, chosen_recipe, about_rows, chat_model, compute)
    started = _now()
    kind = result_kind(chosen_recipe, chosen.adapter)
    # a run that memory stopped before its first step may go on with another recipe
    with RunFolder(Path(out), identity, no_results=(ROWS,)) as run:
        if not ((run.folder / MANIFEST).exists() and (run.folder / kind).is_dir()):
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
            model = describe(chat_model)
            FinetuneManifest(
                version=version("ripcurrent"),
                command="finetune",
                started=started,
                finished=_now(),
                versions=library_versions(*LIBRARIES),
                machine=machine(),
                seeds={"seed": chosen.seed},
                dataset=about_rows,
                rows=training_set.about,
                model=ModelInfo(**model.model_dump(exclude=TRAINED)),
                recipe=chosen_recipe,
                options=chosen,
                training=facts,
                notes=tuple(_notes(chosen_recipe, training_set.about, model)),
            ).write(run.folder)
        # only now, when the result and all that is said of it are there
        shutil.rmtree(run.folder / CHECKPOINTS, ignore_errors=True)
        return FinetuneRun.open(run.folder)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


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
    from ripcurrent.finetune._trainer import build_training_set

    records: list[dict[str, str | int]] = []

    def noted() -> Iterator[Row]:
        for row in rows:
            content = hashlib.sha256(canonical_json(row.record)).hexdigest()
            records.append({"row": row.index, "id": row.id, "sha256": content})
            yield row

    encoded = encode_rows(noted(), chat_model.tokenizer, max_tokens=options.max_tokens, trained=options.trained)
    training_set = build_training_set(encoded)
    trained = set(training_set.rows)
    lines = [json.dumps({**one, "trained": one["row"] in trained}, ensure_ascii=False) + "\n" for one in records]
    with written_whole(folder / ROWS) as part:
        part.write_text("".join(lines), encoding="utf-8")
    return training_set


def _notes(recipe: Recipe, rows: TrainedRows, model: ModelInfo) -> Iterator[str]:
    if rows.trained < rows.count:
        reasons = ", ".join(f"{number} {status}" for status, number in sorted(rows.left_out.items()))
        yield f"{rows.count - rows.trained} of {rows.count} rows were left out ({reasons})."
    if rows.truncated:
        yield f"{rows.truncated} rows were cut at the token limit and have no end of turn."
    if rows.trained < recipe.batch:
        yield f"The set has fewer rows than a batch of {recipe.batch}: every step trained on all {rows.trained}."
    if warning := model.other_base():
        yield warning
