"""One training run: from a loaded model and rows to a model or adapter on disk, resumed where it was stopped."""

import copy
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError

from ripcurrent.errors import RipcurrentError
from ripcurrent.finetune._checkpoints import latest
from ripcurrent.finetune._model import result_kind, save_result
from ripcurrent.finetune._recipe import Recipe
from ripcurrent.finetune._rows import TrainingSet
from ripcurrent.finetune._run import CHECKPOINTS, LOSSES, TrainingFacts
from ripcurrent.finetune._trainer import make_trainer
from ripcurrent.finetune._watch import Watch, diverging
from ripcurrent.models import ChatModel, quiet_libraries
from ripcurrent.progress import Progress, SilentProgress


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
    progress: Progress | None = None,
) -> TrainingFacts:
    """Fine-tune ``chat_model``, whose weights change; leave ``model`` or ``adapter`` and ``loss.jsonl`` in ``folder``.

    Goes on from the last whole checkpoint in ``folder``; on the same machine and number of threads, CPUs end with the
    same weights to the bit as without the interruption.

    Raises:
        RipcurrentError: The loss diverges or weights are not finite (exit code 2), or the run cannot be set up.
    """
    checkpoint = latest(folder / CHECKPOINTS)
    kind = result_kind(recipe, chat_model.adapter)
    watch = Watch(folder / LOSSES, progress or SilentProgress(), recipe.batch, checkpoint_minutes)
    settings = copy.deepcopy((chat_model.model.config, chat_model.model.generation_config))
    began = time.perf_counter()
    with quiet_libraries(), _disk_errors(folder):
        trainer = make_trainer(
            chat_model,
            training_set,
            recipe,
            folder / CHECKPOINTS,
            seed=seed,
            compute=compute,
            report_to=report_to,
            callbacks=[watch],
        )
        try:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        except torch.OutOfMemoryError as error:
            raise RipcurrentError(
                f"A batch of {recipe.part} rows does not fit into the memory of {chat_model.device}.",
                "Raise accumulation in the recipe, or set gradient_checkpointing: true; with checkpoints there name "
                "another with --out.",
            ) from error
        trained = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
        if not all(bool(torch.isfinite(parameter).all()) for parameter in trained):
            raise diverging("weights are not finite after the last step")
        facts = TrainingFacts(
            kind=kind,
            steps=int(trainer.state.global_step),
            resumed_from=0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2]),
            first_loss=watch.losses[0],
            last_loss=watch.losses[-1],
            seconds=round(time.perf_counter() - began, 3),
            trained_parameters=sum(parameter.numel() for parameter in trained),
            compute=str(compute).removeprefix("torch."),
            report_to=tuple(report_to),
        )
        save_result(trainer.accelerator.unwrap_model(trainer.model), chat_model, settings, folder / kind)
    return facts


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Make one error of a disk that takes no more, and leave nothing on it that was cut short."""
    try:
        yield
    except (SafetensorError, OSError, RuntimeError) as error:
        # torch's own of that kind are plain ones
        if isinstance(error, RuntimeError) and not any(
            part in str(error) for part in ("inline_container", "PytorchStream")
        ):
            raise
        latest(folder / CHECKPOINTS)
        for part in folder.glob("*.part"):
            shutil.rmtree(part, ignore_errors=True)
        raise RipcurrentError(
            f"The weights cannot be written to {folder}: {str(error).strip()}.",
            "Free some space; the same command then goes on from the last checkpoint, if any.",
        ) from error
