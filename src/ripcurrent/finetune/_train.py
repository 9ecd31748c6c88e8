"""One training run: from a loaded model and rows to a model or adapter on disk, resumed where it was stopped."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.finetune._checkpoints import latest, steps_of
from ripcurrent.finetune._model import SettingsBefore, result_kind, save_result
from ripcurrent.finetune._recipe import Recipe
from ripcurrent.finetune._rows import TrainingSet
from ripcurrent.finetune._trainer import make_trainer
from ripcurrent.finetune._watch import CheckpointClock, LossCurve, StepSeen
from ripcurrent.models import ChatModel, quiet_libraries

LOSSES = "loss.jsonl"


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """A finished training run."""

    result: Path
    """Folder of the trained model or adapter."""
    steps: int
    """Optimizer steps, those before an interruption included."""
    resumed_from: int
    """Steps that were already done when this call began; 0 for a fresh run."""
    first_loss: float
    """Loss of the first step: mean over its tokens, in nats."""
    last_loss: float
    """Loss of the last step."""
    seconds: float
    """Time that this call trained."""
    trained_parameters: int
    """Scalar parameters that were trained."""


def train(
    chat_model: ChatModel,
    training_set: TrainingSet,
    recipe: Recipe,
    folder: Path,
    *,
    seed: int,
    compute: torch.dtype,
    report_to: Sequence[str] = (),
    checkpoint_minutes: float = 10.0,
    on_step: StepSeen | None = None,
) -> TrainingRecord:
    """Fine-tune ``chat_model``, whose weights change; leave ``model`` or ``adapter`` and ``loss.jsonl`` in ``folder``.

    Goes on from the last whole checkpoint in ``folder``, which :func:`forget_checkpoints` removes; on the same machine
    and number of threads, processors end with the same weights to the bit as without the interruption.

    Raises:
        RipcurrentError: The loss diverges or weights are not finite (exit code 2), or the run cannot be set up.
    """
    checkpoints = folder / "checkpoints"
    checkpoint = latest(checkpoints)
    curve = LossCurve(folder / LOSSES, on_step or (lambda step: None), recipe.batch)
    settings = SettingsBefore.of(chat_model.model)
    began = time.perf_counter()
    with quiet_libraries():
        trainer = make_trainer(
            chat_model,
            training_set,
            recipe,
            checkpoints,
            seed=seed,
            compute=compute,
            report_to=report_to,
            callbacks=[curve, CheckpointClock(checkpoint_minutes)],
        )
        try:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        except torch.OutOfMemoryError as error:
            raise RipcurrentError(
                f"A batch of {recipe.part} rows does not fit into the memory of {chat_model.device}.",
                "Raise accumulation in the recipe, or set gradient_checkpointing: true; with checkpoints there name "
                "another with --out.",
            ) from error
        except (SafetensorError, OSError, RuntimeError) as error:
            _require_unwritten(error)
            # what was cut short would fill the disk until the next call
            latest(checkpoints)
            raise cannot_be_written(folder, error) from error
    trained = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    if not all(bool(torch.isfinite(parameter).all()) for parameter in trained):
        raise RipcurrentError(
            "Training diverges: weights are not finite after the last step, and no model was written.",
            "Use a recipe with a lower learning_rate, or with max_grad_norm, in another folder (--out).",
            code=ExitCode.NOT_MEASURED,
        )
    kind = result_kind(recipe, chat_model.adapter)
    seconds = time.perf_counter() - began
    try:
        save_result(trainer, chat_model, settings, folder / kind, kind)
    except (SafetensorError, OSError, RuntimeError) as error:
        _require_unwritten(error)
        for part in folder.glob("*.part"):
            shutil.rmtree(part, ignore_errors=True)
        raise cannot_be_written(folder, error) from error
    return TrainingRecord(
        result=folder / kind,
        steps=int(trainer.state.global_step),
        resumed_from=0 if checkpoint is None else steps_of(checkpoint),
        first_loss=curve.losses[0],
        last_loss=curve.losses[-1],
        seconds=round(seconds, 3),
        trained_parameters=sum(parameter.numel() for parameter in trained),
    )


def forget_checkpoints(folder: Path) -> None:
    """Remove a run's checkpoints, once its result and all that is said of it are there."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _require_unwritten(error: Exception) -> None:
    """Let an error pass that is not one of a disk that takes no more: torch's own of that kind are plain ones."""
    if isinstance(error, RuntimeError) and not any(
        part in str(error) for part in ("inline_container", "PytorchStream")
    ):
        raise error


def cannot_be_written(folder: Path, error: Exception) -> RipcurrentError:
    """The error of weights that found no place on the disk."""
    return RipcurrentError(
        f"The weights cannot be written to {folder}: {str(error).strip()}.",
        "Free some space; the same command then goes on from the last checkpoint (--checkpoint-minutes), if any.",
    )
