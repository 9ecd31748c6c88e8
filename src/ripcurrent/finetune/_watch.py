"""What watches a training run: the loss curve on disk, a check for divergence, and the clock of checkpoints."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.progress import Progress
from ripcurrent.runs import written_whole

TIMES, IN_A_ROW = 3.0, 3
"""A loss diverges when it is over so many times the first for so many steps, and rising."""
FEW, ROWS = 8, 24
"""Of a few rows the first loss is a chance one: below so many a batch it must be passed by more, and for as many steps
as have so many rows."""

_CURVE = ("step", "epoch", "loss", "learning_rate", "grad_norm")


def require_converging(losses: Sequence[float], batch: int = FEW) -> None:
    """Raise when the losses so far, one a step, diverge.

    That is: the last one is not finite; or the last three are all over three times the first, and the last of them is
    the highest (one bad batch alone is no divergence). Of batches under 8 rows more of them, and further over it: an
    easy first row is soon passed three times without any training.

    Raises:
        RipcurrentError: They do; exit code 2.
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

    def on_save(self, *rest: Any, **named: Any) -> None:
        """Start the clock anew."""
        self._since = time.monotonic()


def _line(point: Mapping[str, float]) -> str:
    values = {key: point[key] for key in _CURVE if key in point}
    return json.dumps({key: value if math.isfinite(value) else None for key, value in values.items()}) + "\n"
