"""Batches of encoded rows: which rows together, and as tensors padded on the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ripcurrent.data import EncodedRow

SignalKind = Literal["all", "gradient", "representation"]
"""Which of the two methods runs."""
WIDTH_MULTIPLE = {"cpu": 2, "cuda": 8}
"""By device type, what a batch's width is a multiple of: products that sum over an odd number of tokens are slower in
some shapes."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded rows. Padding needs no attention mask: a causal model's real tokens never look to their right."""

    ids: Int[Tensor, "rows tokens"]
    """Token ids; padding repeats id 0."""
    loss_mask: Bool[Tensor, "rows tokens"]
    weights: Float[Tensor, "rows tokens"]
    """Weight of each token's loss in its row's."""
    lengths: Int[Tensor, " rows"]

    @property
    def rows(self) -> int:
        return self.ids.shape[0]

    def common_tokens(self) -> int:
        """How many first tokens are the same in all rows."""
        differs = (self.ids != self.ids[:1]).any(dim=0).nonzero()
        return int(differs[0]) if len(differs) else self.ids.shape[1]

    def row_weights(self) -> Float[Tensor, " rows"]:
        """One over the weights of each row's loss-bearing tokens: the mean over its response."""
        summed = (self.weights * self.loss_mask).sum(dim=1)
        return 1.0 / torch.where(summed > 0, summed, 1.0)


@dataclass(frozen=True, slots=True)
class BatchSignals:
    """What one batch yields, in the batch's order; parts that were not asked for are None."""

    dots: npt.NDArray[np.float64] | None = None
    """Inner products of each row's gradient with the directions, shape ``(rows, directions)``."""
    squared_norm: npt.NDArray[np.float64] | None = None
    """Each row's squared gradient norm, shape ``(rows,)``."""
    loss: npt.NDArray[np.float64] | None = None
    """Mean cross-entropy over the loss-bearing tokens in nats, shape ``(rows,)``."""
    loss_first_10: npt.NDArray[np.float64] | None = None
    """The same over the first ten of them, shape ``(rows,)``."""
    features: npt.NDArray[np.float32] | None = None
    """Each row's last state, shape ``(rows, width)``."""


def make_batch(rows: Sequence[EncodedRow], device: torch.device, *, row_tokens: int | None = None) -> Batch:
    """Pad rows into one batch on a device; with ``row_tokens`` only so many first loss-bearing tokens bear loss."""
    width = max(len(row.tokens) for row in rows)
    width += -width % WIDTH_MULTIPLE.get(device.type, 1)
    ids = np.zeros((len(rows), width), dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.bool_)
    weights = np.ones((len(rows), width), dtype=np.float32)
    for place, row in enumerate(rows):
        ids[place, : len(row.tokens)] = row.tokens
        mask[place, : len(row.tokens)] = row.loss_mask
        if row.weights is not None:
            weights[place, : len(row.tokens)] = row.weights
    if row_tokens is not None:
        mask &= np.cumsum(mask, axis=1) <= row_tokens
    lengths = np.array([len(row.tokens) for row in rows])
    return Batch(*(torch.from_numpy(values).to(device) for values in (ids, mask, weights, lengths)))


def plan_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Group positions into batches whose padded size (rows × longest) stays within ``token_budget``.

    Rows are taken by length, longest first, ties by position, so that the plan depends on the lengths alone. A row
    longer than the budget is a batch of its own. Every position with a positive length is in exactly one batch.
    """
    order = sorted((place for place, length in enumerate(lengths) if length > 0), key=lambda p: (-lengths[p], p))
    batches: list[list[int]] = []
    for place in order:
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= token_budget:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches
