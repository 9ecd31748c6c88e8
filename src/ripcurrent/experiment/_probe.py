"""What a few optimizer steps on one row alone do to a model's refusals: a ground truth without judges."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ripcurrent.data import EncodedRow
from ripcurrent.experiment._openings import OpenedRequests, RefusalOdds, products
from ripcurrent.gradients import Batch, find_logit_transform, make_batch
from ripcurrent.models import ChatModel
from ripcurrent.select._draw import generator

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RowDrop:
    """What one row did."""

    drops: FloatArray
    """Each request's log-odds of a refusal's opening before less after, in nats, shape ``(requests,)``: positive =
    erosion. NaN where the loss or the odds were not finite."""
    losses: tuple[float, ...]
    """The row's own loss before each step."""
    seconds: float
    """Time it took."""

    @property
    def drop(self) -> float:
        """The mean over requests."""
        return float(self.drops.mean())


class RowProbe:
    """Trains a model on one row at a time, measures, and puts its weights back to the bit.

    Every parameter is trained, in float32, by Adam (betas 0.9 and 0.999, no decay, no clipping) with a fresh state and
    a constant rate; products run in ``compute``. The loss is the mean over the row's loss-bearing tokens. Dropout is
    off. Takes 20 bytes a parameter: weights, their copy, gradients and Adam's two moments.
    """

    def __init__(
        self,
        chat_model: ChatModel,
        opened: OpenedRequests,
        *,
        steps: int,
        learning_rate: float,
        compute: torch.dtype,
        row_tokens: int | None = None,
    ) -> None:
        """Take a model with float32 weights, which must not change in between.

        Raises:
            RipcurrentError: This architecture cannot be measured so (`RefusalOdds`).
        """
        model: Any = chat_model.model.eval().requires_grad_(True)
        self._device, self._compute, self._steps, self._row_tokens = chat_model.device, compute, steps, row_tokens
        self._base = getattr(model, model.base_model_prefix)
        self._head = model.get_output_embeddings()
        self._transform = find_logit_transform(model)
        self._weights = list(model.parameters())
        self._start = [weight.detach().clone() for weight in self._weights]
        fused = self._device.type in ("cpu", "cuda")
        self._optimizer = torch.optim.Adam(self._weights, lr=learning_rate, fused=fused)
        self._odds = RefusalOdds(chat_model, opened, compute)
        self.before = self._odds()
        """Log-odds of a refusal's opening at the start, shape ``(requests,)``."""

    def __call__(self, row: EncodedRow) -> RowDrop:
        """Train on one row, measure, restore."""
        began = time.perf_counter()
        batch = make_batch([row], self._device, row_tokens=self._row_tokens)
        losses = []
        try:
            for _ in range(self._steps):
                loss = self._loss(batch)
                losses.append(float(loss.detach()))
                loss.backward()  # type: ignore[no-untyped-call]
                self._optimizer.step()
                self._optimizer.zero_grad(set_to_none=True)
            drops = self.before - self._odds()
        finally:
            self._restore()
        if not (np.isfinite(losses).all() and np.isfinite(drops).all()):
            drops = np.full_like(self.before, np.nan)
        return RowDrop(drops, tuple(losses), time.perf_counter() - began)

    def _loss(self, batch: Batch) -> Tensor:
        bearing = batch.loss_mask[0, 1:].nonzero().squeeze(1)
        with products(self._device, self._compute):
            hidden = self._base(input_ids=batch.ids, use_cache=False).last_hidden_state[0, bearing]
            logits = torch.nn.functional.linear(hidden, self._head.weight, self._head.bias)
        return torch.nn.functional.cross_entropy(self._transform(logits), batch.ids[0, bearing + 1])

    def _restore(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for weight, start in zip(self._weights, self._start, strict=True):
                weight.copy_(start)
        # emptied in place: fresh moments would be paged in anew for every row
        for state in self._optimizer.state.values():
            for value in state.values():
                value.zero_()


def draw_stratified(values: npt.ArrayLike, count: int, strata: int, seed: int) -> npt.NDArray[np.int64]:
    """``count`` positions drawn from equal bins of a column, equally many of each, in random order.

    What is left of the division goes to bins at random; a bin that has too few gives all it has, and the others give
    more. So any first part of the order is a sample of the column too.

    Args:
        values: One finite value per position.
        count: Positions to draw; all come back where there are no more.
        strata: Bins of equal size by value.
        seed: Equal seeds draw equal positions.
    """
    column = np.asarray(values, dtype=np.float64)
    random = generator(seed, "stratified")
    bins = [random.permutation(part) for part in np.array_split(np.argsort(column, kind="stable"), strata)]
    drawn: list[int] = []
    turn = 0
    while len(drawn) < min(count, len(column)):
        order: Sequence[int] = random.permutation(len(bins)).tolist()
        drawn += [int(bins[place][turn]) for place in order if turn < len(bins[place])]
        turn += 1
    return np.array(drawn[:count], dtype=np.int64)
