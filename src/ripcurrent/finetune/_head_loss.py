"""The loss over loss-bearing positions alone, for devices where TRL's fused head computes it over every position.

Without Triton TRL scores prompts and padding as well, makes entropies nobody asked for, and runs the head's two
gradient products in float32: on the embedded model and a processor that is a third of a training step or more.
"""

import functools
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ripcurrent.gradients import LogitTransform, cross_entropy_with_gradient, find_logit_transform

POSITIONS = 512
"""Loss-bearing positions whose logits exist at once."""


class _HeadLoss(torch.autograd.Function):
    """Sum of the cross-entropies at some positions; logits and their gradient are made once, a chunk at a time.

    Products run in autocast's type. The head's gradient is summed over chunks in float32.
    """

    @staticmethod
    def forward(
        context: Any,
        hidden: Float[Tensor, "positions width"],
        weight: Float[Tensor, "vocabulary width"],
        bias: Float[Tensor, " vocabulary"] | None,
        targets: Int[Tensor, " positions"],
        transform: LogitTransform,
    ) -> Float[Tensor, ""]:
        kind = hidden.device.type
        compute = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        matrix, inputs = weight.to(compute), hidden.to(compute)
        of_hidden, of_weight, of_bias = context.needs_input_grad[:3]
        hidden_grad = torch.empty_like(inputs) if of_hidden else None
        weight_grad = torch.zeros_like(weight, dtype=torch.float32) if of_weight else None
        bias_grad = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and of_bias else None
        total = torch.zeros((), device=hidden.device)
        with torch.autocast(kind, enabled=False):
            for start in range(0, len(inputs), POSITIONS):
                part, wanted = inputs[start : start + POSITIONS], targets[start : start + POSITIONS]
                logits = torch.nn.functional.linear(part, matrix, None if bias is None else bias.to(compute))
                ones = torch.ones(len(wanted), device=hidden.device)
                total += cross_entropy_with_gradient(logits, wanted, ones, transform).sum()
                if hidden_grad is not None:
                    torch.mm(logits, matrix, out=hidden_grad[start : start + POSITIONS])
                if weight_grad is not None:
                    weight_grad += logits.mT @ part
                if bias_grad is not None:
                    bias_grad += logits.sum(dim=0, dtype=torch.float32)
        context.gradients = hidden_grad, weight_grad, bias_grad
        context.dtypes = hidden.dtype, weight.dtype
        return total

    @staticmethod
    def backward(context: Any, *outputs: Any) -> Any:
        (scale,), (hidden_dtype, weight_dtype) = outputs, context.dtypes
        dtypes = (hidden_dtype, weight_dtype, weight_dtype)
        found = zip(context.gradients, dtypes, strict=True)
        context.gradients = None
        return *(None if grad is None else (grad * scale).to(dtype) for grad, dtype in found), None, None


def add_head_loss(causal: Any) -> None:
    """Let ``causal(…, labels=…, loss_sum=True)`` return the sum of the batch's cross-entropies (nats, float32).

    Labels are -100 where no loss is borne, and are shifted here. Without ``loss_sum`` the model's forward is as before.

    Raises:
        RipcurrentError: What the model does to its logits is not understood.
    """
    transform = find_logit_transform(causal)
    forward = causal.forward

    @functools.wraps(forward)  # generation reads the signature
    def with_loss_sum(*given: Any, loss_sum: bool = False, labels: Any = None, **named: Any) -> Any:
        if not loss_sum:
            return forward(*given, **named) if labels is None else forward(*given, labels=labels, **named)
        backbone = getattr(causal, causal.base_model_prefix)
        hidden = backbone(*given, **named, use_cache=False).last_hidden_state[:, :-1]
        head, targets = causal.get_output_embeddings(), labels[:, 1:]
        bearing = targets >= 0
        applied = hidden[bearing], head.weight, head.bias, targets[bearing], transform
        return _HeadLoss.apply(*applied)  # type: ignore[no-untyped-call]

    causal.forward = with_loss_sum
