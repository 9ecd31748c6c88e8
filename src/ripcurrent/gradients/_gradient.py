"""One forward and one backward pass over a batch: exact dots, norms, losses, and gradients summed into directions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ripcurrent.gradients._batch import Batch
from ripcurrent.gradients._directions import Directions, Gradient
from ripcurrent.gradients._head import HeadChunk, find_logit_transform, head_chunks
from ripcurrent.gradients._recorder import Accumulate, Consumer, Measure, Recorder
from ripcurrent.gradients._representation import FeatureReader
from ripcurrent.gradients._shared_linear import worth_sharing
from ripcurrent.gradients._sites import Catalogue, build_catalogue
from ripcurrent.gradients._tables import head_token_dots
from ripcurrent.gradients._terms import Kept, Terms
from ripcurrent.gradients._token_shares import TokenShares, find_token_axes
from ripcurrent.gradients._types import BatchSignals
from ripcurrent.gradients.kernels import embedding, vector
from ripcurrent.gradients.kernels import head as head_products
from ripcurrent.models import ChatModel

FIRST_TOKENS = 10
"""How many of the first loss-bearing tokens ``loss_first_10`` averages."""


class GradientPass:
    """A frozen chat model, ready to yield row gradients' products in a scope without forming them.

    Raises :class:`~ripcurrent.errors.RipcurrentError` at construction when the model has a layer that is not covered.
    """

    def __init__(self, chat_model: ChatModel) -> None:
        self.device = chat_model.device
        self.dtype = chat_model.dtype
        self.catalogue: Catalogue = build_catalogue(chat_model.model, chat_model.scope)
        self._transform = find_logit_transform(self.catalogue.causal)
        self._token_axes: dict[str, int] | None = None
        self._spread = len(chat_model.devices) > 1

    def measure(self, batch: Batch, directions: Directions, features: FeatureReader | None = None) -> BatchSignals:
        """Each row's dots with the directions, squared gradient norm and losses; its features too when asked."""
        consumer = Measure(directions)
        row_losses = torch.zeros(batch.rows, device=self.catalogue.head.weight.device)
        first_losses = torch.zeros_like(row_losses)
        at_ids: list[Tensor] = []
        head_inputs: list[Tensor] = []

        def on_chunk(chunk: HeadChunk) -> None:
            self._measure_head(chunk, batch, consumer)
            for row, start, stop in zip(chunk.rows, chunk.bounds, chunk.bounds[1:], strict=False):
                row_losses[row] = chunk.losses[start:stop].mean()
                first_losses[row] = chunk.losses[start : min(stop, start + FIRST_TOKENS)].mean()
                if self.catalogue.tied:
                    at_ids.append(chunk.logit_grads[start:stop].index_select(1, batch.ids[row]).float())
                    head_inputs.append(chunk.inputs[start:stop])

        read = self._run(batch, batch.row_weights(), consumer, on_chunk, features)
        if self.catalogue.tied and self.catalogue.head_weight is not None:
            grads = consumer.table_grads[self.catalogue.head_weight]
            cross = [
                embedding.tied_cross_term(at.unsqueeze(0), inputs.unsqueeze(0), grads[row].unsqueeze(0))
                for row, (at, inputs) in enumerate(zip(at_ids, head_inputs, strict=True))
            ]
            consumer.squared_norms.append(torch.cat(cross))
        return BatchSignals(
            dots=_sum_in_float64(consumer.dots),
            squared_norm=_sum_in_float64(consumer.squared_norms),
            loss=row_losses.cpu().double().numpy(),
            loss_first_10=first_losses.cpu().double().numpy(),
            features=read,
        )

    def require_token_axes(self) -> None:
        """Refuse, before any row, a model whose positions :meth:`token_shares` could not tell apart.

        Raises:
            RipcurrentError: It is one.
        """
        if self._token_axes is None:
            self._token_axes = find_token_axes(self.catalogue)

    def token_shares(self, batch: Batch, directions: Directions) -> npt.NDArray[np.float64]:
        """Each position's share of its row's dots with the directions, shape ``(rows, tokens, directions)``.

        Position t's share is ``b_tᵀ V a_t`` summed over every parameter in scope; the head's part at t is that of the
        prediction of token t + 1. Shares sum over a row's positions to its dot of :meth:`measure`; padding has none.
        """
        self.require_token_axes()
        assert self._token_axes is not None
        catalogue = self.catalogue
        consumer = TokenShares(directions, self._token_axes, *batch.ids.shape)

        def on_chunk(chunk: HeadChunk) -> None:
            places = tuple(place.cpu() for place in chunk.positions)
            if catalogue.head_weight is not None:
                found = head_token_dots(chunk.inputs, chunk.logit_grads, directions, catalogue.head_weight)
                consumer.shares[places] += found.cpu().double()
            if catalogue.head_bias is not None:
                found = chunk.logit_grads.float() @ directions.other[catalogue.head_bias].float().mT
                consumer.shares[places] += found.cpu().double()

        self._run(batch, batch.row_weights(), consumer, on_chunk, None)
        return consumer.shares.numpy()

    def accumulate(
        self,
        batch: Batch,
        row_factors: Tensor,
        into: Gradient,
        kept: Kept | None = None,
    ) -> None:
        """Add ``Σ_i factor_i · g_i`` over the batch's rows to a float32 vector of the parameters' shape.

        What ``kept`` asks for goes there, as the terms that would be summed.
        """
        kept = kept or Kept()
        catalogue = self.catalogue

        def on_chunk(chunk: HeadChunk) -> None:
            name = catalogue.head_weight
            terms = Terms(chunk.inputs, chunk.logit_grads, chunk.positions[1])
            if name is not None and not kept.take_head(name, terms):
                into[name] += chunk.logit_grads.float().mT @ chunk.inputs.float()
            if catalogue.head_bias is not None:
                into[catalogue.head_bias] += chunk.logit_grads.float().sum(dim=0)

        weights = batch.row_weights() * row_factors.to(batch.ids.device)
        self._run(batch, weights, Accumulate(into, kept), on_chunk, None)

    def _run(
        self,
        batch: Batch,
        row_weights: Tensor,
        consumer: Consumer,
        on_chunk: Callable[[HeadChunk], None],
        features: FeatureReader | None,
    ) -> npt.NDArray[np.float32] | None:
        """Forward, head, backward: layers go to ``consumer``, head chunks to ``on_chunk``; returns the features."""
        catalogue = self.catalogue
        extra = {}
        if catalogue.positions_needed:
            extra["position_ids"] = (
                torch.arange(batch.ids.shape[1], device=self.device).expand_as(batch.ids).contiguous()
            )
        read = None
        shared = 0 if self._spread else worth_sharing(batch)
        rows, tokens = batch.ids.shape
        with Recorder(catalogue, consumer, (rows, tokens), shared), torch.enable_grad():
            with features.reading(batch) if features is not None else nullcontext() as reading:
                hidden = catalogue.base(input_ids=batch.ids, use_cache=False, **extra).last_hidden_state
                if reading is not None:
                    read = reading.features(hidden.detach())
            at = catalogue.head.weight.device
            states = hidden.detach().to(at)
            hidden_grad = torch.zeros_like(states)
            for chunk in head_chunks(catalogue, self._transform, batch.to(at), states, row_weights.to(at)):
                hidden_grad[chunk.positions] = chunk.logit_grads @ catalogue.head.weight
                on_chunk(chunk)
            # each device has a thread of its own otherwise, and consumers are written for one
            with torch.autograd.set_multithreading_enabled(not self._spread):
                torch.autograd.backward([hidden], [hidden_grad.to(hidden.device)])
        return read

    def _measure_head(self, chunk: HeadChunk, batch: Batch, consumer: Measure) -> None:
        catalogue = self.catalogue
        device = chunk.inputs.device
        dots = torch.zeros(batch.rows, consumer.directions.count, device=device)
        squared = torch.zeros(batch.rows, device=device)
        rows = chunk.positions[0]
        if catalogue.head_weight is not None:
            found = head_token_dots(chunk.inputs, chunk.logit_grads, consumer.directions, catalogue.head_weight)
            dots.index_add_(0, rows, found)
            for row, start, stop in zip(chunk.rows, chunk.bounds, chunk.bounds[1:], strict=False):
                squared[row] += head_products.head_squared_norm(chunk.inputs[start:stop], chunk.logit_grads[start:stop])
        if catalogue.head_bias is not None:
            per_row = torch.zeros(batch.rows, chunk.logit_grads.shape[1], device=device)
            per_row.index_add_(0, rows, chunk.logit_grads.float())
            bias_dots, bias_squared = vector.vector_products(per_row, consumer.directions.other[catalogue.head_bias])
            dots, squared = dots + bias_dots, squared + bias_squared
        consumer.add(dots, squared)


def _sum_in_float64(parts: list[Tensor]) -> npt.NDArray[np.float64]:
    """The sum of tensors of one shape, fetched from each device that they are on at once."""
    by_device: dict[torch.device, list[Tensor]] = {}
    for part in parts:
        by_device.setdefault(part.device, []).append(part)
    stacked = [torch.stack(each).cpu().double().numpy() for each in by_device.values()]
    total: npt.NDArray[np.float64] = np.concatenate(stacked).sum(axis=0)
    return total
