"""Runs the output head over a batch's loss-bearing positions, some whole rows at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ripcurrent.errors import RipcurrentError
from ripcurrent.gradients._batch import Batch
from ripcurrent.gradients._layers import ModelLayers
from ripcurrent.gradients.kernels.head import LogitTransform, cross_entropy_with_gradient

HEAD_POSITIONS = 256
"""Loss-bearing positions per chunk, unless one row alone has more: bounds the logits in memory."""


@dataclass(frozen=True, slots=True)
class HeadChunk:
    """Whole rows' loss-bearing positions at the head, packed without padding."""

    rows: tuple[int, ...]
    bounds: tuple[int, ...]
    """Where each row's positions begin, and the end: ``len(rows) + 1`` numbers."""
    positions: tuple[Tensor, Tensor]
    """Row and token index of each position in the batch."""
    inputs: Tensor
    """Hidden states, shape ``(positions, width)``."""
    losses: Tensor
    """Cross-entropy of each position in nats, float32."""
    logit_grads: Tensor
    """Gradient of the weighted loss at the raw logits, shape ``(positions, vocabulary)``."""


def head_chunks(
    layers: ModelLayers,
    transform: LogitTransform,
    batch: Batch,
    hidden: Tensor,
    row_weights: Tensor,
    hidden_grad: Tensor,
) -> Iterator[HeadChunk]:
    """Yield the head's losses and logit gradients, row by row; the gradient at ``hidden`` goes into ``hidden_grad``."""
    bearing = batch.loss_mask[:, 1:].nonzero()
    counts = batch.loss_mask[:, 1:].sum(dim=1).tolist()
    starts = [0]
    for count in counts:
        starts.append(starts[-1] + count)
    first = 0
    while first < batch.rows:
        last = first + 1
        while last < batch.rows and starts[last + 1] - starts[first] <= HEAD_POSITIONS:
            last += 1
        chosen = bearing[starts[first] : starts[last]]
        row, token = chosen[:, 0], chosen[:, 1]
        inputs = hidden[row, token]
        logits = torch.nn.functional.linear(inputs, layers.head.weight, layers.head.bias)
        weights = row_weights[row] * batch.weights[row, token + 1]
        losses = cross_entropy_with_gradient(logits, batch.ids[row, token + 1], weights, transform)
        hidden_grad[row, token] = logits @ layers.head.weight
        bounds = tuple(start - starts[first] for start in starts[first : last + 1])
        yield HeadChunk(tuple(range(first, last)), bounds, (row, token), inputs, losses, logits)
        first = last


def find_logit_transform(causal: Any) -> LogitTransform:
    """The model's own scaling and soft cap of logits, confirmed on a few tokens.

    Raises :class:`RipcurrentError` when head and transform do not reproduce the model's logits.
    """
    config = causal.config.get_text_config()
    factor = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    factor *= float(getattr(config, "lm_head_multiplier", None) or 1.0)
    transform = LogitTransform(factor, getattr(config, "final_logit_softcapping", None))
    head = causal.get_output_embeddings()
    ids = torch.arange(1, 7, device=head.weight.device).unsqueeze(0) % causal.get_input_embeddings().weight.shape[0]
    with torch.no_grad():
        hidden = getattr(causal, causal.base_model_prefix)(input_ids=ids, use_cache=False).last_hidden_state
        own = transform(torch.nn.functional.linear(hidden, head.weight, head.bias))
        theirs = causal(input_ids=ids, use_cache=False).logits.float()
    if not torch.isfinite(theirs).all():
        return transform  # what follows says so of every row or step; here there is nothing to compare
    if own.shape != theirs.shape or not torch.allclose(own, theirs, rtol=3e-2, atol=3e-2 * float(theirs.abs().max())):
        raise RipcurrentError(
            f"The output head of {type(causal).__name__} does something to its logits that is not understood.",
            "This model cannot be scored by gradient, only with signals representation.",
        )
    return transform
