"""Causal attention for CPUs, as plain products of grouped heads.

PyTorch's fused kernel is slow in bfloat16 on CPUs: two to six times these products up to 442 tokens
(``docs/benchmarks.md``). On longer rows, and for everything but plain causal attention, it still runs. The backward
pass keeps the probabilities, which grow with the square of a row's length.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

GROUPED = "ripcurrent_grouped"
LONGEST_GROUPED = 448
"""Tokens beyond which the fused kernel runs, which keeps no probabilities."""


def use_grouped_attention(model: PreTrainedModel) -> None:
    """Switch a model that runs PyTorch's fused attention to grouped products where these are faster."""
    AttentionInterface.register(GROUPED, grouped_attention)
    AttentionMaskInterface.register(GROUPED, sdpa_mask)
    model.set_attn_implementation(GROUPED)


def grouped_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of queries ``(rows, heads, tokens, width)`` over keys and values with as many or fewer heads.

    All query heads of one key head are further tokens of one matrix product. Keys may begin before the queries, as
    after a shared prefix; the mask then says which are seen. Returns ``(rows, tokens, heads, width)``, and None for the
    weights.
    """
    tokens, width = query.shape[2:]
    reach = key.shape[2]
    continued = tokens < reach and attention_mask is not None and attention_mask.dtype == torch.bool
    plain = (
        ((attention_mask is None and tokens == reach) or continued)
        and dropout == 0.0
        and is_causal is not False
        and getattr(module, "is_causal", True)
        and tokens > 1
        and reach <= LONGEST_GROUPED
        and kwargs.get("position_bias") is None
        and kwargs.get("softcap") is None
    )
    if not plain:
        fused: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **kwargs
        )
        return fused
    scale = width**-0.5 if scaling is None else scaling
    group = query.shape[1] // key.shape[1]
    if attention_mask is None:
        mask = _causal_mask(tokens, group, query.device)
    else:
        hidden = torch.zeros(attention_mask.shape, device=query.device).masked_fill_(~attention_mask, float("-inf"))
        hidden = hidden.unsqueeze(2).expand(len(query), key.shape[1], group, tokens, reach)
        mask = hidden.reshape(-1, group * tokens, reach)
    output: Tensor = _Attention.apply(query, key, value, mask, scale)  # type: ignore[no-untyped-call]
    return output.transpose(1, 2), None


class _Attention(torch.autograd.Function):
    """Softmax attention of grouped heads under an additive mask; keeps its inputs and the probabilities alone."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
        rows, heads, tokens, width = query.shape
        key_heads = key.shape[1]
        stacked = (query.float() * scale).reshape(rows * key_heads, -1, width)
        keys, values = key.flatten(0, 1), value.flatten(0, 1)
        # scores in bfloat16, as training's autocast would have them, are several per cent off where they are large
        with torch.autocast(query.device.type, enabled=False):
            scores = torch.baddbmm(mask.expand(rows * key_heads, -1, -1), stacked, keys.float().mT)
            weights = torch.softmax(scores, dim=-1).to(values.dtype)
            output = torch.bmm(weights, values)
        ctx.save_for_backward(query, key, value, weights)
        ctx.scale = scale
        return output.view(rows, heads, tokens, values.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weights = ctx.saved_tensors
        # under autocast queries and keys may be of a wider type than the probabilities
        stacked = query.reshape(len(weights), -1, query.shape[-1]).to(weights.dtype)
        keys, values = key.flatten(0, 1).to(weights.dtype), value.flatten(0, 1)
        grads = grad.reshape(len(weights), -1, grad.shape[-1])
        at_weights = torch.bmm(grads, values.mT)
        at_scores = torch.ops.aten._softmax_backward_data(at_weights, weights, -1, weights.dtype)
        at_query = torch.bmm(at_scores, keys).mul_(ctx.scale)
        at_key = torch.bmm(at_scores.mT, stacked).mul_(ctx.scale)
        at_value = torch.bmm(weights.mT, grads)
        found = (at.view(of.shape).to(of.dtype) for at, of in ((at_query, query), (at_key, key), (at_value, value)))
        return (*found, None, None)


@lru_cache(maxsize=8)
def _causal_mask(tokens: int, group: int, device: torch.device) -> Tensor:
    # a mask made inside a caller's inference mode could not take part in a later backward pass
    with torch.inference_mode(False):
        mask = torch.full((tokens, tokens), float("-inf"), device=device).triu(1)
        return mask.repeat(group, 1).unsqueeze(0)
