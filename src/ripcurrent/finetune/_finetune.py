"""Fine-tune: a dataset's rows trained into a model by a recipe, in a run folder that says how."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ripcurrent.data import Dataset, Row, canonical_json, encode_rows, read_rows
from ripcurrent.errors import MissingExtraError, RipcurrentError
from ripcurrent.finetune import Recipe, TrainingSet, load_recipe
from ripcurrent.models import describe
from ripcurrent.progress import Progress, SilentProgress
from ripcurrent.runs import RunFolder, require_run_folder, written_whole
from ripcurrent.scan._options import ScanOptions, require_positions

ROWS = "rows.jsonl"
UNTRAINED = {
    *("name", "revision", "architecture", "device", "adapter", "adapter_base", "fingerprint"),
    *("template_sha256", "tokenizer_sha256"),
}
"""What training does not change of the model that it began with."""


class FinetuneOptions(BaseModel):
    """What is trained on what. Every field is part of the result; changing one makes another run."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    model: str = "embedded"
    """Hub id, folder, ``.gguf`` file, or ``embedded``."""
    adapter: str | None = None
    """PEFT adapter, merged before training."""
    device: str | None = None
    """``cuda``, ``mps``, ``cpu``; chosen when left out."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Type of the products; the recipe's when left out."""
    loss_on: Literal["all", "last"] = "all"
    """Which assistant turns bear loss."""
    max_tokens: int = Field(default=1024, ge=8)
    """Longer rows keep their head."""
    limit: int | None = Field(default=None, ge=1)
    """Read only the first so many rows."""
    format: str | None = None
    """Row format; sniffed when left out."""
    mapping: dict[str, str] | None = None
    """Dataset columns for a format's fields."""
    seed: int = Field(default=0, ge=0)
    """Seed of the rows' order, a fresh LoRA and dropout."""


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """A finished fine-tuning."""

    folder: Path
    """The run folder: ``model`` or ``adapter``, ``loss.jsonl``, ``rows.jsonl``, ``manifest.json``."""
    result: Path
    """Folder of the trained model, or of the adapter."""
    kind: Literal["model", "adapter"]
    """Which of the two."""
    notes: tuple[str, ...]
    """What a user should know of the rows, in sentences."""
    manifest: dict[str, Any]
    """What was trained on what, with hashes, versions and timings."""

    @property
    def loss_path(self) -> Path:
        """The loss of every step, as JSON lines."""
        return self.folder / "loss.jsonl"

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        training, rows = self.manifest["training"], self.manifest["rows"]
        return {
            "run": str(self.folder),
            "model": str(self.result) if self.kind == "model" else None,
            "adapter": str(self.result) if self.kind == "adapter" else None,
            "base": self.manifest["model"]["name"],
            "recipe": self.manifest["recipe"]["name"],
            "seed": self.manifest["seeds"]["seed"],
            "rows": rows["count"],
            "trained_rows": rows["trained"],
            "left_out": rows["left_out"],
            "truncated": rows["truncated"],
            "steps": training["steps"],
            "first_loss": training["first_loss"],
            "last_loss": training["last_loss"],
            "seconds": training["seconds"],
            "notes": list(self.notes),
        }


def finetune(
    dataset: str | Path,
    out: str | Path,
    recipe: str | Path | Recipe,
    options: FinetuneOptions | None = None,
    *,
    report_to: Sequence[str] = (),
    checkpoint_minutes: float = 10.0,
    progress: Progress | None = None,
    **changes: Any,
) -> FinetuneResult:
    """Fine-tune a model on a dataset's rows and leave the model or adapter in a run folder.

    The tokens and the loss mask are those that a scan with equal ``max_tokens`` and ``loss_on`` scores.

    Args:
        dataset: Anything that :func:`ripcurrent.read_rows` reads.
        out: The run folder. One that holds the same run is resumed, or its result returned.
        recipe: ``paper``, ``lora``, ``embedded``, a YAML file, or a :class:`Recipe`.
        options: Model, seed and the like; :class:`FinetuneOptions`' defaults unless given.
        report_to: Trackers that are told of every step (``wandb``, ``mlflow``, ``trackio``…); none unless named.
        checkpoint_minutes: How much of a run an interruption can cost.
        progress: Told of steps and rows.
        **changes: Single options by name, such as ``seed=1``.

    Raises:
        RipcurrentError: Anything the user can mend; with exit code 2 a set without a row to train on, and a loss that
            diverges.
    """
    if find_spec("trl") is None:
        raise MissingExtraError("trl", "train")
    from ripcurrent.finetune import (
        build_training_set,
        compute_dtype,
        forget_checkpoints,
        load_for_training,
        result_kind,
        train,
    )

    chosen = resolve_finetune(options, changes)
    chosen_recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    told = progress or SilentProgress()
    compute = compute_dtype(chosen_recipe, chosen.device, chosen.dtype)
    rows = read_rows(dataset, format=chosen.format, mapping=chosen.mapping, limit=chosen.limit)
    require_run_folder(Path(out))
    told.step("reading")
    count, sha256 = rows.count_and_hash()
    told.step("loading the model")
    chat_model = load_for_training(
        chosen.model, adapter=chosen.adapter, device=chosen.device, compute=compute, recipe=chosen_recipe
    )
    require_positions(chat_model, ScanOptions(max_tokens=chosen.max_tokens), padded=False)
    identity = {
        "command": "finetune",
        **chosen.model_dump(),
        "recipe": chosen_recipe.model_dump(mode="json"),
        "dataset_sha256": sha256,
        "model_fingerprint": chat_model.fingerprint,
        "template_sha256": chat_model.template_sha256,
        "tokenizer_sha256": chat_model.tokenizer_sha256,
        "version": version("ripcurrent"),
        "resolved_device": chat_model.device.type,
        "resolved_dtype": str(compute).removeprefix("torch."),
    }
    started = datetime.now(UTC)
    kind = result_kind(chosen_recipe, chosen.adapter)
    # a run that memory stopped before its first step may go on with another recipe
    with RunFolder(Path(out), identity, no_results=(ROWS,)) as run:
        previous = run.read_manifest()
        if previous and (run.folder / kind).is_dir():
            forget_checkpoints(run.folder)
            return FinetuneResult(run.folder, run.folder / kind, kind, tuple(previous["notes"]), previous)
        records: list[dict[str, Any]] = []
        training_set = build_training_set(
            encode_rows(
                _recorded(rows, records), chat_model.tokenizer, max_tokens=chosen.max_tokens, loss_on=chosen.loss_on
            )
        )
        _write_rows(run.folder / ROWS, records, training_set)
        total = chosen_recipe.total_steps(len(training_set.rows))
        told.start(f"training, {total} steps", _rows_until(total, chosen_recipe, training_set))
        seen = 0

        def on_step(step: int) -> None:
            nonlocal seen
            now = _rows_until(step, chosen_recipe, training_set)
            before = _rows_until(step - 1, chosen_recipe, training_set)
            if before > seen:
                told.skipped(before - seen)
            told.rows(now - before)
            seen = now

        record = train(
            chat_model,
            training_set,
            chosen_recipe,
            run.folder,
            seed=chosen.seed,
            compute=compute,
            report_to=report_to,
            checkpoint_minutes=checkpoint_minutes,
            on_step=on_step,
        )
        told.finish()
        # the trainer lies in cycles, and its optimizer's state is twice the model: the next model needs the room
        gc.collect()
        about = describe(chat_model)
        notes = (*_notes(count, chosen_recipe, training_set), *filter(None, [about.other_base()]))
        manifest: dict[str, Any] = {
            "version": version("ripcurrent"),
            "command": "finetune",
            "dataset": {
                "path": rows.path if rows.path.startswith("hf:") else str(Path(rows.path).resolve()),
                "name": rows.name,
                "sha256": sha256,
                "format": rows.format,
                "mapping": chosen.mapping,
                "container": rows.container,
                "rows": count,
            },
            "rows": {
                "count": count,
                "trained": len(training_set.rows),
                "left_out": dict(training_set.left_out),
                "truncated": training_set.truncated,
                "loss_tokens": training_set.loss_tokens,
                "tokens_sha256": training_set.sha256,
                "file": ROWS,
            },
            "model": about.model_dump(include=UNTRAINED),
            "recipe": chosen_recipe.model_dump(mode="json"),
            "options": chosen.model_dump(),
            "seeds": {"seed": chosen.seed},
            "training": {
                "kind": kind,
                "steps": record.steps,
                "resumed_from": record.resumed_from,
                "first_loss": record.first_loss,
                "last_loss": record.last_loss,
                "seconds": record.seconds,
                "trained_parameters": record.trained_parameters,
                "masters": "float32",
                "compute": identity["resolved_dtype"],
                "report_to": list(report_to),
            },
            "notes": list(notes),
            "versions": _versions(),
            "machine": {"platform": platform.platform(), "python": platform.python_version(), "cpus": os.cpu_count()},
            "started": started.isoformat(timespec="seconds"),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        run.write_manifest(manifest)
        forget_checkpoints(run.folder)
    return FinetuneResult(run.folder, record.result, kind, notes, manifest)


def resolve_finetune(options: FinetuneOptions | None, changes: dict[str, Any]) -> FinetuneOptions:
    try:
        return FinetuneOptions(**{**(options.model_dump() if options else {}), **changes})
    except ValidationError as error:
        first = error.errors()[0]
        name = "--" + ".".join(str(part) for part in first["loc"]).replace("_", "-")
        if first["type"] == "extra_forbidden":
            raise RipcurrentError(
                f"There is no option {name}.", f"Options: {', '.join(FinetuneOptions.model_fields)}."
            ) from None
        raise RipcurrentError(f"{name} {first.get('input')} is not possible.", f"{first['msg']}.") from None


def _recorded(rows: Dataset, records: list[dict[str, Any]]) -> Iterator[Row]:
    """The rows, each noted by id and hash as it passes."""
    for row in rows:
        content = hashlib.sha256(canonical_json(row.record)).hexdigest()
        records.append({"row": row.index, "id": row.id, "sha256": content})
        yield row


def _write_rows(path: Path, records: list[dict[str, Any]], training_set: TrainingSet) -> None:
    trained = set(training_set.rows)
    with written_whole(path) as part, part.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps({**record, "trained": record["row"] in trained}, ensure_ascii=False) + "\n")


def _rows_until(step: int, recipe: Recipe, training_set: TrainingSet) -> int:
    """How many rows so many steps take; an epoch's last step may have fewer than a batch."""
    rows = len(training_set.rows)
    epochs, rest = divmod(step, recipe.steps_per_epoch(rows))
    return epochs * rows + rest * recipe.batch


def _notes(count: int, recipe: Recipe, training_set: TrainingSet) -> Iterator[str]:
    trained = len(training_set.rows)
    if trained < count:
        reasons = ", ".join(f"{number} {status}" for status, number in sorted(training_set.left_out.items()))
        yield f"{count - trained} of {count} rows were left out ({reasons})."
    if training_set.truncated:
        yield f"{training_set.truncated} rows were cut at the token limit and have no end of turn."
    if trained == 1:
        yield f"The set has one row: every step trained on it alone, not on a batch of {recipe.batch}."
    elif trained < recipe.batch:
        yield f"The set of {trained} rows is smaller than a batch of {recipe.batch}: every step trained on all of them."


def _versions() -> dict[str, str]:
    names = ("torch", "transformers", "trl", "accelerate", "peft", "datasets", "tokenizers", "numpy")
    return {name: version(name) for name in names}
