"""The loss over loss-bearing positions alone, for devices where TRL's fused head computes it over every position.

Without Triton TRL scores prompts and padding too, and in float32: on CPUs a third of a training step or more.
"""

import functools
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ripcurrent.errors import RipcurrentError
from ripcurrent.gradients import LogitTransform, cross_entropy_with_gradient, find_logit_transform

POSITIONS = 512
"""Loss-bearing positions whose logits exist at once."""


class _HeadLoss(torch.autograd.Function):
    """Sum of the cross-entropies at some positions; logits and their gradient are made once, a chunk at a time."""

    @staticmethod
    def forward(
        context: Any,
        hidden: Float[Tensor, "positions width"],
        weight: Float[Tensor, "vocabulary width"],
        targets: Int[Tensor, " positions"],
        transform: LogitTransform,
    ) -> Float[Tensor, ""]:
        kind = hidden.device.type
        compute = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        matrix, inputs = weight.to(compute), hidden.to(compute)
        hidden_grad = torch.empty_like(inputs)
        weight_grad = torch.zeros_like(weight, dtype=torch.float32) if context.needs_input_grad[1] else None
        total = torch.zeros((), device=hidden.device)
        with torch.autocast(kind, enabled=False):
            for start in range(0, len(inputs), POSITIONS):
                part, wanted = inputs[start : start + POSITIONS], targets[start : start + POSITIONS]
                logits = part @ matrix.mT
                ones = torch.ones(len(wanted), device=hidden.device)
                total += cross_entropy_with_gradient(logits, wanted, ones, transform).sum()
                torch.mm(logits, matrix, out=hidden_grad[start : start + POSITIONS])
                if weight_grad is not None:
                    weight_grad += logits.mT @ part
        context.gradients = hidden_grad, weight_grad
        context.dtypes = hidden.dtype, weight.dtype
        return total

    @staticmethod
    def backward(context: Any, *outputs: Any) -> Any:
        (scale,) = outputs
        found = zip(context.gradients, context.dtypes, strict=True)
        context.gradients = None
        return *(None if grad is None else (grad * scale).to(dtype) for grad, dtype in found), None, None


def add_head_loss(causal: Any) -> None:
    """Let ``causal(…, labels=…, loss_sum=True)`` return the sum of the batch's cross-entropies (nats, float32).

    Labels are shifted here. Raises `RipcurrentError` where the head has a bias, or the logits are not understood.
    """
    transform = find_logit_transform(causal)
    if causal.get_output_embeddings().bias is not None:
        raise RipcurrentError("The head has a bias.")
    forward = causal.forward

    @functools.wraps(forward)  # generation reads the signature
    def with_loss_sum(*given: Any, loss_sum: bool = False, labels: Any = None, **named: Any) -> Any:
        if not loss_sum:
            return forward(*given, **named) if labels is None else forward(*given, labels=labels, **named)
        backbone = getattr(causal, causal.base_model_prefix)
        hidden = backbone(*given, **named, use_cache=False).last_hidden_state[:, :-1]
        weight, targets = causal.get_output_embeddings().weight, labels[:, 1:]
        bearing = targets >= 0
        return _HeadLoss.apply(hidden[bearing], weight, targets[bearing], transform)  # type: ignore[no-untyped-call]

    causal.forward = with_loss_sum
