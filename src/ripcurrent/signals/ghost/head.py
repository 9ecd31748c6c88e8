"""The output head: losses, logit gradients and products, over packed loss-bearing positions only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LogitTransform:
    """What a model does to its logits after the head: a factor, then a soft cap ``c·tanh(x/c)``."""

    factor: float = 1.0
    """Multiplies the logits."""
    softcap: float | None = None
    """The cap, if any."""

    def __call__(self, logits: Tensor) -> Tensor:
        """Transform logits, in float32."""
        values = logits.float() * self.factor if self.factor != 1.0 else logits.float()
        return values if self.softcap is None else torch.tanh(values / self.softcap) * self.softcap


def cross_entropy_with_gradient(
    logits: Float[Tensor, "positions vocabulary"],
    targets: Int[Tensor, " positions"],
    weights: Float[Tensor, " positions"],
    transform: LogitTransform,
) -> tuple[Float[Tensor, " positions"], Float[Tensor, "positions vocabulary"]]:
    """Each position's cross-entropy in nats (float32, unweighted), and the weighted sum's gradient at the raw logits.

    Weights are positive. The gradient ``w_t (softmax − onehot)`` comes back in the logits' dtype; softmax and sums run in float32.
    """
    values = transform(logits)
    log_total = torch.logsumexp(values, dim=-1)
    places = torch.arange(len(targets), device=targets.device)
    losses = log_total - values[places, targets]
    slope = None if transform.softcap is None else 1.0 - (values / transform.softcap).square()
    # exp(x − log Σ + log w) is w·softmax in one pass over the vocabulary
    gradient = (values - (log_total - torch.log(weights)).unsqueeze(1)).exp_()
    gradient[places, targets] -= weights
    if slope is not None:
        gradient *= slope
    if transform.factor != 1.0:
        gradient *= transform.factor
    return losses, gradient.to(logits.dtype)


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
