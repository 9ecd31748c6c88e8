"""One forward and one backward pass over a batch: exact dots, norms, losses, and gradients summed into directions."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ripcurrent.gradients._batch import Batch, BatchSignals
from ripcurrent.gradients._directions import Directions, Gradient
from ripcurrent.gradients._head import find_logit_transform, head_chunks
from ripcurrent.gradients._hooks import GradientSum, KeptTerms, LayerHooks, RowProducts
from ripcurrent.gradients._layers import ModelLayers, find_layers
from ripcurrent.gradients._shared import worth_sharing
from ripcurrent.gradients._token_shares import TokenShares, find_token_axes
from ripcurrent.models import ChatModel


class GradientPass:
    """A frozen chat model, ready to yield row gradients' products in a scope without forming them.

    Raises `RipcurrentError` at construction, when the model has a layer that is not covered.
    """

    def __init__(self, chat_model: ChatModel) -> None:
        self.device = chat_model.device
        self.dtype = chat_model.dtype
        self.layers: ModelLayers = find_layers(chat_model.model, chat_model.scope)
        self._transform = find_logit_transform(self.layers.causal)
        self._token_axes: dict[str, int] | None = None

    def measure(self, batch: Batch, directions: Directions, *, features: bool = False) -> BatchSignals:
        """Each row's dots with the directions, squared gradient norm and losses; with ``features`` its state too."""
        products = RowProducts(self.layers, directions, batch)
        with self._forward(batch, batch.row_weights(), products) as (hidden, hidden_grad):
            torch.autograd.backward([hidden], [hidden_grad])
        return BatchSignals(
            dots=_sum_in_float64(products.dots),
            squared_norm=_sum_in_float64(products.squared_norms),
            loss=products.loss.cpu().double().numpy(),
            loss_first_10=products.first_loss.cpu().double().numpy(),
            features=last_states(hidden.detach(), batch) if features else None,
        )

    def require_token_axes(self) -> None:
        """Raise `RipcurrentError`, before any row, for a model whose positions could not be told apart."""
        if self._token_axes is None:
            self._token_axes = find_token_axes(self.layers)

    def token_shares(self, batch: Batch, directions: Directions) -> npt.NDArray[np.float64]:
        """Each position's share of its row's dots with the directions, shape ``(rows, tokens, directions)``.

        Position t's share is ``b_tᵀ V a_t`` summed over every parameter in scope; the head's part at t is that of the
        prediction of token t + 1. Padding has none.
        """
        self.require_token_axes()
        assert self._token_axes is not None
        shares = TokenShares(self.layers, directions, self._token_axes, *batch.ids.shape)
        with self._forward(batch, batch.row_weights(), shares) as (hidden, hidden_grad):
            torch.autograd.backward([hidden], [hidden_grad])
        return shares.total.numpy()

    def accumulate(self, batch: Batch, row_factors: Tensor, into: Gradient, kept: KeptTerms | None = None) -> None:
        """Add ``Σ_i factor_i · g_i`` over a batch's rows to a float32 vector, what ``kept`` keeps as terms to that."""
        gradient = GradientSum(self.layers, into, kept or KeptTerms())
        weights = batch.row_weights() * row_factors.to(batch.ids.device)
        with self._forward(batch, weights, gradient) as (hidden, hidden_grad):
            torch.autograd.backward([hidden], [hidden_grad])

    @contextmanager
    def _forward(self, batch: Batch, row_weights: Tensor, hooks: LayerHooks) -> Iterator[tuple[Tensor, Tensor]]:
        """Run the model with the hooks attached; gives the last hidden states and the gradient there, to go back."""
        rows, tokens = batch.ids.shape
        extra = {}
        if len(self.layers.tables()) > 1:
            # a position table is in scope: each row looks its own entries up
            extra["position_ids"] = torch.arange(tokens, device=self.device).expand_as(batch.ids).contiguous()
        with hooks.attached(rows, tokens, worth_sharing(batch)), torch.enable_grad():
            hidden = self.layers.base(input_ids=batch.ids, use_cache=False, **extra).last_hidden_state
            states = hidden.detach()
            hidden_grad = torch.zeros_like(states)
            for chunk in head_chunks(self.layers, self._transform, batch, states, row_weights, hidden_grad):
                hooks.head(chunk)
            yield hidden, hidden_grad


def _sum_in_float64(parts: list[Tensor]) -> npt.NDArray[np.float64]:
    total: npt.NDArray[np.float64] = torch.stack(parts).cpu().double().numpy().sum(axis=0)
    return total


Features = npt.NDArray[np.float32]
"""One state per row, shape ``(rows, width)``."""


class FeatureReader:
    """Reads each row's state at its last token, after the final norm."""

    def __init__(self, chat_model: ChatModel) -> None:
        model = chat_model.model
        causal: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._base = getattr(causal, causal.base_model_prefix)

    def forward(self, batch: Batch) -> BatchSignals:
        """Features alone, from a forward pass without the output head."""
        with torch.inference_mode():
            hidden = self._base(input_ids=batch.ids, use_cache=False).last_hidden_state
            return BatchSignals(features=last_states(hidden, batch))


def last_states(hidden: Tensor, batch: Batch) -> Features:
    """Each row's state at its last token, shape ``(rows, width)``, of states ``(rows, tokens, width)``."""
    return hidden[torch.arange(batch.rows, device=hidden.device), batch.lengths - 1].float().cpu().numpy()
