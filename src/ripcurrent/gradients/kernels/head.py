"""The output head: losses, logit gradients and products, over packed loss-bearing positions only."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK_ELEMENTS = 2**20
"""Logits in float32 at once on a CPU: what stays in cache."""


@dataclass(frozen=True, slots=True)
class LogitTransform:
    """What a model does to its logits after the head: a factor, then a soft cap ``c·tanh(x/c)``."""

    factor: float = 1.0
    softcap: float | None = None

    def __call__(self, logits: Tensor, room: Tensor | None = None) -> Tensor:
        """Transform logits into a float32 copy, in ``room`` where it is given."""
        values = logits.to(torch.float32, copy=True) if room is None else room.copy_(logits)
        if self.factor != 1.0:
            values *= self.factor
        return values if self.softcap is None else torch.tanh(values / self.softcap) * self.softcap


def cross_entropy_with_gradient(
    logits: Float[Tensor, "positions vocabulary"],
    targets: Int[Tensor, " positions"],
    weights: Float[Tensor, " positions"],
    transform: LogitTransform,
) -> Float[Tensor, " positions"]:
    """Each position's cross-entropy in nats (float32, unweighted); ``logits`` become the weighted sum's gradient.

    Weights are positive. The gradient at the raw logits, ``w_t (softmax − onehot)``, is written in place in the logits'
    dtype. Softmax and sums run in float32, a few positions at a time so that they stay in cache.
    """
    losses = torch.empty(len(targets), device=logits.device)
    elements = BLOCK_ELEMENTS if logits.device.type == "cpu" else 64 * BLOCK_ELEMENTS
    block = max(1, elements // logits.shape[1])
    room = torch.empty(min(block, len(targets)), logits.shape[1], device=logits.device)
    for start in range(0, len(targets), block):
        part, target, weight = (tensor[start : start + block] for tensor in (logits, targets, weights))
        values = transform(part, room[: len(target)])
        target, weight = target.unsqueeze(1), weight.unsqueeze(1)
        slope = None if transform.softcap is None else 1.0 - (values / transform.softcap).square()
        largest, at_target = values.amax(dim=1, keepdim=True), values.gather(1, target)
        total = values.sub_(largest).exp_().sum(dim=1, keepdim=True)
        losses[start : start + block] = (total.log() + (largest - at_target)).squeeze(1)
        gradient = values.mul_(weight / total).scatter_add_(1, target, -weight)
        if slope is not None:
            gradient *= slope
        if transform.factor != 1.0:
            gradient *= transform.factor
        part.copy_(gradient)
    return losses


def head_dots(
    inputs: Float[Tensor, "positions width"],
    logit_grads: Float[Tensor, "positions vocabulary"],
    directions: Float[Tensor, "directions vocabulary width"],
) -> Float[Tensor, "positions directions"]:
    """Each position's share of the head gradient's dots: ``<b_t V, h_t>``, summed in float32."""
    dots = torch.zeros(inputs.shape[0], directions.shape[0], device=inputs.device)
    for number, direction in enumerate(directions):
        dots[:, number] = ((logit_grads @ direction) * inputs).sum(dim=1, dtype=torch.float32)
    return dots


def head_squared_norm(
    inputs: Float[Tensor, "positions width"], logit_grads: Float[Tensor, "positions vocabulary"]
) -> Float[Tensor, ""]:
    """One row's squared norm of its head gradient, from two Gram matrices over its positions."""
    return ((inputs @ inputs.mT) * (logit_grads @ logit_grads.mT)).sum(dtype=torch.float32)
