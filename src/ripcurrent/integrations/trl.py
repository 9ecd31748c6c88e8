"""Beside TRL's ``SFTTrainer`` or any ``Trainer``: erosion predicted and observed, and the riskiest rows left out."""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState

from ripcurrent.errors import RipcurrentError
from ripcurrent.integrations._anchor_losses import AnchorLosses
from ripcurrent.integrations._scanned_rows import IGNORED, ScannedRows
from ripcurrent.scan import ScanRun

NAMED = 5
"""Rows that a breach's message names."""
Run = ScanRun | str | Path
Bound = float | None


@dataclass(frozen=True, slots=True)
class Breach:
    """A fall of the refusal log-odds, in nats a token, that passed a bound."""

    step: int
    observed: float
    bound: float
    rows: tuple[tuple[int, int, float], ...]
    """Step, row of the scan and predicted fall of what was trained since the measurement before, largest fall first."""

    def __str__(self) -> str:
        said = f"Step {self.step}: the refusal log-odds fell by {self.observed:.3f}, more than {self.bound:g}. Most of"
        total = sum(max(fall, 0.0) for _, _, fall in self.rows)
        named = [f"row {row} (step {step}, {fall / total:.0%})" for step, row, fall in self.rows[:NAMED] if fall > 0]
        return f"{said} the fall predicted since the last measurement is by: {', '.join(named) or 'no row'}."


class RipcurrentCallback(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Logs how far a training erodes safety, and what a scan predicts of that for the rows trained so far.

    **Observed** is the fall, since ``train`` was called, of the refusal log-odds: the harmful anchors' loss minus the
    safe anchors', over their first tokens, in nats a token; higher = more erosion. **Predicted** is the sum over steps
    of the learning rate times the mean, over the step's trained tokens, of their rows' first-order fall. That is for
    plain SGD near the scanned weights: under Adam, or for a LoRA, compare the *shape*, never the scale.

    Measured at the start, every ``every`` optimizer steps and at the end, and logged to where the trainer reports, as
    ``ripcurrent/`` ``observed``, ``predicted``, ``harmful_loss``, ``safe_loss`` and, if rows without a score were
    trained, ``unscored_rows``. The training is the same to the bit as without. An observed fall over ``warn_above`` or
    ``stop_above`` is logged with the rows behind it, and kept in ``breaches``; the latter stops the training.
    Raises `RipcurrentError` for rows that are not in the scan, packing, several processes, a scan without gradients.
    """

    def __init__(
        self, trainer: Any, run: Run, *, every: int = 10, warn_above: Bound = None, stop_above: Bound = None
    ) -> None:
        if every < 1 or trainer.args.world_size > 1:
            what = f"every={every} is no number of steps." if every < 1 else "A process sees its own rows alone."
            raise RipcurrentError(what, "Give every=1 or more, and train in one process.")
        run = run if isinstance(run, ScanRun) else ScanRun.open(run)
        self.breaches: list[Breach] = []
        self._trainer, self._every, self._bounds, self._stop = trainer, every, (warn_above, stop_above), stop_above
        self._anchors = AnchorLosses(run, trainer.processing_class)
        self._scanned = ScannedRows(run, trainer)
        self._scanned.numbers_of(trainer)
        harmful, safe = self._anchors.mean_norms
        fall = harmful * run.floats("gradient_harmful") - safe * run.floats("gradient_safe")
        self._fall = np.where(run.scored, run.floats("gradient_norm") * fall, np.nan)
        # every sampler, shuffle and worker ends here: the batches of one optimizer step
        self._batches, trainer.get_batch_samples = trainer.get_batch_samples, self._recorded

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **named: Any) -> None:
        """Measure before the first step."""
        self._predicted, self._observed, self._unscored, self._first = 0.0, 0.0, 0, math.nan
        self._since: list[tuple[int, int, float]] = []
        self._measure(state, control)

    def on_optimizer_step(self, args: Any, state: TrainerState, *rest: Any, optimizer: Any, **named: Any) -> None:
        """Add what the scan predicts for the step, at the rate that it was made with."""
        rate, total = optimizer.param_groups[0]["lr"], sum(tokens for _, tokens in self._step)
        for row, tokens in self._step:
            fall = float(rate * self._fall[row] * tokens / total)
            self._since.append((state.global_step + 1, row, 0.0 if np.isnan(fall) else fall))
            self._predicted += self._since[-1][2]
            self._unscored += bool(np.isnan(fall))

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **named: Any) -> None:
        """Measure where it is time."""
        if state.global_step % self._every == 0:
            self._measure(state, control)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **named: Any) -> None:
        """Measure, if the last step was not."""
        if state.global_step != self._measured_at:
            self._measure(state, control)

    def _recorded(self, *given: Any) -> Any:
        """The trainer's own batches of one step; the scan's row and the trained tokens of each row are kept."""
        batches, items = self._batches(*given)
        self._step: list[tuple[int, int]] = []
        for batch in batches:
            for place, (ids, labels) in enumerate(zip(batch["input_ids"], batch["labels"], strict=True)):
                seen = batch["attention_mask"][place].bool() if "attention_mask" in batch else slice(None)
                own = labels[seen].cpu().numpy()
                row = self._scanned.numbers(ids[seen].cpu().numpy(), own)[:1]
                self._step += [(one, int((own[1:] != IGNORED).sum())) for one in row]
        return batches, items

    def _measure(self, state: TrainerState, control: TrainerControl) -> None:
        harmful, safe = self._anchors.measure(self._trainer.model).tolist()
        if math.isnan(self._first):
            self._first = harmful - safe
        should_log, before, self._measured_at = control.should_log, self._observed, state.global_step
        self._observed = self._first - harmful + safe
        logs = {"observed": self._observed, "predicted": self._predicted, "harmful_loss": harmful, "safe_loss": safe}
        logs |= {"unscored_rows": self._unscored} if self._unscored else {}
        # not a subclass's own, which would empty its running means into this entry
        Trainer.log(self._trainer, {f"ripcurrent/{name}": value for name, value in logs.items()})
        control.should_log = should_log
        rows, self._since = tuple(sorted(self._since, key=lambda one: -one[2])), []
        for bound in self._bounds:
            if bound is not None and before <= bound < self._observed:
                self.breaches.append(Breach(state.global_step, self._observed, bound, rows))
                logging.getLogger("ripcurrent").warning("%s", self.breaches[-1])
        control.should_training_stop |= self._stop is not None and self._observed > self._stop


def filter(trainer: Any, run: Run, *, drop: str | int, by: str | None = None) -> list[int]:
    """Leave the riskiest rows out of a trainer's ``train_dataset``, before it trains; rows without a score stay.

    ``drop`` is a number of rows or a share, ``"5%"``, rounded down; ``by`` a column of the scan, else its default
    ranking. Returns their numbers in the scan, riskiest first. A row that is not in the scan is a `RipcurrentError`.
    """
    run = run if isinstance(run, ScanRun) else ScanRun.open(run)
    numbers = ScannedRows(run, trainer).numbers_of(trainer)
    share = re.fullmatch(r"(\d+(?:\.\d+)?) ?%", str(drop))
    count = int(len(numbers) * float(share[1]) / 100) if share else drop
    rank = {int(row): place for place, row in enumerate(run.ranked(by))}
    scored = [(rank[row], row, place) for place, row in enumerate(numbers) if row in rank]
    if type(count) is not int or not 0 < count <= len(scored) or count == len(numbers):
        what = f"drop={drop!r} of {len(numbers)} rows, {len(scored)} with a score, cannot be left out."
        raise RipcurrentError(what, 'Give a number of rows, or a share such as drop="5%".')
    out = sorted(scored)[:count]
    trainer.train_dataset = trainer.train_dataset.select(sorted({*range(len(numbers))} - {place for *_, place in out}))
    return [row for _, row, _ in out]
