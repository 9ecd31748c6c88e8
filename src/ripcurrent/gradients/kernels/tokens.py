"""Each token's share of a row's dots: the terms of the sum over tokens, kept apart instead of added.

A row's inner product with a direction is a sum over layers and tokens in every layer kind; these functions return it
per token, shape ``(rows, tokens, directions)``, in float32. Linear layers' and the head's are beside them.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def bias_token_dots(
    output_grads: Float[Tensor, "rows tokens *parts out"], directions: Float[Tensor, "directions out"]
) -> Float[Tensor, "rows tokens directions"]:
    """``<b_t, v>`` of an additive bias; where a layer is applied to parts of a token, such as its heads, their sum."""
    dots = output_grads.float() @ directions.float().mT
    while dots.dim() > 3:
        dots = dots.sum(dim=2)
    return dots


def norm_token_dots(
    inputs: Float[Tensor, "rows tokens *parts width"],
    output_grads: Float[Tensor, "rows tokens *parts width"],
    epsilon: float,
    directions: Float[Tensor, "directions width"],
    *,
    centred: bool,
) -> Float[Tensor, "rows tokens directions"]:
    """``<x̂_t ∘ b_t, v>`` of a LayerNorm weight if ``centred``, else of an RMSNorm's, ``x̂ = x / sqrt(mean(x²) + ε)``."""
    values = inputs.float()
    if centred:
        values = values - values.mean(dim=-1, keepdim=True)
    normalised = values * torch.rsqrt(values.square().mean(dim=-1, keepdim=True) + epsilon)
    return bias_token_dots(normalised * output_grads.float(), directions)


def embedding_token_dots(
    ids: Int[Tensor, "rows tokens"],
    output_grads: Float[Tensor, "rows tokens width"],
    directions: Float[Tensor, "directions vocabulary width"],
) -> Float[Tensor, "rows tokens directions"]:
    """``<b_t, V[id_t]>`` of a table."""
    grads = output_grads.float()
    dots = torch.zeros(*ids.shape, len(directions), device=grads.device)
    for number, direction in enumerate(directions):
        dots[:, :, number] = (grads * direction[ids].float()).sum(dim=-1)
    return dots
