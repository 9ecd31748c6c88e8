"""One training run: from a loaded model and rows to a model or adapter on disk, resumed where it was stopped."""

import copy
import json
import math
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_utils import get_last_checkpoint, rotate_checkpoints

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.finetune._model import flush, result_kind, save_result
from ripcurrent.finetune._recipe import Recipe
from ripcurrent.finetune._run import CHECKPOINTS, LOSSES, TrainingFacts
from ripcurrent.finetune._trainer import TrainingSet, make_trainer
from ripcurrent.models import ChatModel, quiet_libraries
from ripcurrent.progress import Progress, SilentProgress
from ripcurrent.runs import plain_numbers, written_whole

TIMES, IN_A_ROW = 3.0, 3
"""A loss diverges when it is over so many times the first for so many steps, and rising."""
FEW, ROWS = 8, 24
"""Of batches with fewer rows it must be passed by more, and for as many steps as have the second number of rows."""
_CURVE = ("step", "epoch", "loss", "learning_rate", "grad_norm")
MARK = "whole"
"""Written last into a checkpoint's folder; one without it was cut short."""


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

    Goes on from the last whole checkpoint there; on a CPU to the same weights to the bit as without the interruption.
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
        if isinstance(error, RuntimeError) and not re.search("inline_container|PytorchStream", str(error)):
            raise
        latest(folder / CHECKPOINTS)
        for part in folder.glob("*.part"):
            shutil.rmtree(part, ignore_errors=True)
        raise RipcurrentError(
            f"The weights cannot be written to {folder}: {str(error).strip()}.",
            "Free some space; the same command then goes on from the last checkpoint, if any.",
        ) from error


def seal(folder: Path) -> None:
    """Flush a checkpoint's files to disk and mark it as whole."""
    flush(folder)
    (folder / MARK).touch()
    flush(folder)


def latest(root: Path) -> Path | None:
    """The whole checkpoint of the most steps; None without one. Those that were cut short are removed."""
    if not root.is_dir():
        return None
    for folder in root.glob("checkpoint-*"):
        if not (folder / MARK).is_file():
            shutil.rmtree(folder)
    found = get_last_checkpoint(root)
    return None if found is None else Path(found)


def require_converging(losses: Sequence[float], batch: int = FEW) -> None:
    """Raise when the losses so far, one a step, diverge; exit code 2.

    That is: the last one is not finite; or the last three are all over three times the first, and the last of them is
    the highest. Of batches under 8 rows more of them, and further over it: an easy first row is soon passed.
    """
    last = losses[-1]
    if not math.isfinite(last):
        raise diverging(f"the loss of step {len(losses)} is {last}")
    steps = max(IN_A_ROW, -(-ROWS // batch))
    times = TIMES * max(1.0, math.sqrt(FEW / batch))
    recent = losses[-steps:]
    # the first loss cannot be among the last ones: it is no multiple of itself
    if len(losses) > steps and min(recent) > times * losses[0] and last == max(recent):
        raise diverging(f"the loss rose from {losses[0]:.3g} to {last:.3g} by step {len(losses)}")


def diverging(what: str) -> RipcurrentError:
    """The error of a training that diverges, with exit code 2."""
    return RipcurrentError(
        f"Training diverges: {what}. It was stopped, and no model was written.",
        "Use a recipe with a lower learning_rate, or with max_grad_norm, in another folder (--out).",
        code=ExitCode.NOT_MEASURED,
    )


class Watch(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Keeps the loss of every step as JSON lines, stops a run that diverges, asks for a checkpoint every so often."""

    def __init__(self, path: Path, progress: Progress, batch: int, minutes: float) -> None:
        self._path, self._progress, self._batch = path, progress, batch
        self._seconds = 60 * minutes
        self._since = time.monotonic()
        self.losses: list[float] = []

    def on_train_begin(self, args: Any, state: TrainerState, *rest: Any, **named: Any) -> None:
        """Begin the file with the steps up to the checkpoint, which carries their losses."""
        points = [entry for entry in state.log_history if "loss" in entry]
        self.losses = [point["loss"] for point in points]
        with written_whole(self._path) as part:
            part.write_text("".join(map(_line, points)), encoding="utf-8")
        self._progress.start("training", state.max_steps, "steps")
        self._progress.skipped(len(points))

    def on_log(self, args: Any, state: TrainerState, *rest: Any, **named: Any) -> None:
        """Add one step."""
        point = state.log_history[-1]
        if "loss" not in point:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(point))
        self.losses.append(point["loss"])
        require_converging(self.losses, self._batch)
        self._progress.rows(1)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **named: Any) -> None:
        """Ask for a checkpoint, except after the last step, whose weights are the result."""
        if state.global_step < state.max_steps and time.monotonic() - self._since >= self._seconds:
            control.should_save = True

    def on_save(self, args: Any, state: TrainerState, *rest: Any, **named: Any) -> None:
        """Mark the checkpoint as whole, remove those before it, and start the clock anew."""
        seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")
        rotate_checkpoints(args.output_dir, save_total_limit=1)
        self._since = time.monotonic()


def _line(point: Mapping[str, float]) -> str:
    return json.dumps(plain_numbers({key: point[key] for key in _CURVE if key in point})) + "\n"
