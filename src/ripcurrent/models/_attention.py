"""Causal attention for processors, as plain products of grouped heads.

PyTorch's fused kernel is slow in bfloat16 on processors, above all backwards: four times these products at 57 tokens,
twice at 180, as fast at 442 (``docs/benchmarks.md``). On longer rows, and for everything but plain causal attention, it
is still what runs. Scores grow with the square of a row's length, so those of longer rows are computed again for the
backward pass instead of being kept in every layer.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

GROUPED = "ripcurrent_grouped"
"""Name under which transformers knows this attention."""

LONGEST = 448
"""Beyond so many tokens the fused kernel is as fast."""

KEPT = 256
"""Scores of rows up to so many tokens are kept for the backward pass, which saves some per cent of its time."""


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

    All query heads of one key head are stacked as further tokens of one matrix product. Scores and softmax are float32.
    Keys may begin before the queries, as after a shared prefix; the mask then says which are seen.
    Returns ``(rows, tokens, heads, width)`` and no weights, as transformers expects.
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
        and reach <= LONGEST
        and kwargs.get("position_bias") is None
        and kwargs.get("softcap") is None
    )
    if not plain:
        fused: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **kwargs
        )
        return fused
    scale = width**-0.5 if scaling is None else scaling
    if reach > KEPT and torch.is_grad_enabled() and query.requires_grad:
        output = checkpoint(
            _attend, query, key, value, attention_mask, scale, use_reentrant=False, preserve_rng_state=False
        )
    else:
        output = _attend(query, key, value, attention_mask, scale)
    return output, None


def _attend(query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scale: float) -> Tensor:
    rows, heads, tokens, width = query.shape
    key_heads, reach = key.shape[1:3]
    group = heads // key_heads
    stacked = (query.float() * scale).reshape(rows * key_heads, group * tokens, width)
    keys = key.reshape(rows * key_heads, reach, width)
    values = value.reshape(rows * key_heads, reach, value.shape[-1])
    if attention_mask is None:
        mask = _causal_mask(tokens, group, query.device).expand(rows * key_heads, -1, -1)
    else:
        hidden = torch.zeros(attention_mask.shape, device=query.device).masked_fill_(~attention_mask, float("-inf"))
        mask = hidden.unsqueeze(2).expand(rows, key_heads, group, tokens, reach).reshape(-1, group * tokens, reach)
    # scores rounded to bfloat16 would be several per cent off where they are large
    scores = torch.baddbmm(mask, stacked, keys.float().mT)
    output = torch.bmm(torch.softmax(scores, dim=-1).to(values.dtype), values)
    return output.view(rows, heads, tokens, value.shape[-1]).transpose(1, 2)


@lru_cache(maxsize=8)
def _causal_mask(tokens: int, group: int, device: torch.device) -> Tensor:
    # a mask made inside a caller's inference mode could not take part in a later backward pass
    with torch.inference_mode(False):
        mask = torch.full((tokens, tokens), float("-inf"), device=device).triu(1)
        return mask.repeat(group, 1).unsqueeze(0)
