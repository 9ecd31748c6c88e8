"""Vector parameters: biases and the weights of normalisation layers, whose row gradients are small enough to form."""

import torch
from jaxtyping import Float
from torch import Tensor


def bias_gradients(output_grads: Float[Tensor, "rows tokens out"]) -> Float[Tensor, "rows out"]:
    """Each row's gradient of an additive bias: its output gradients summed over tokens, in float32."""
    return output_grads.sum(dim=1, dtype=torch.float32)


def rms_scale_gradients(
    inputs: Float[Tensor, "rows tokens width"], output_grads: Float[Tensor, "rows tokens width"], epsilon: float
) -> Float[Tensor, "rows width"]:
    """Each row's gradient of an RMSNorm weight, ``Σ_t x̂_t ∘ b_t`` with ``x̂ = x / sqrt(mean(x²) + ε)``, in float32.

    The same for weights applied as ``w`` and as ``1 + w``. The token's scale is applied in a small matrix product
    instead of to every element.
    """
    width = inputs.shape[-1]
    mean_square = torch.linalg.vector_norm(inputs, dim=-1, dtype=torch.float32).square() / width
    scale = torch.rsqrt(mean_square + epsilon)
    product = inputs * output_grads
    return torch.bmm(scale.unsqueeze(1), product.float()).squeeze(1)


def layer_norm_scale_gradients(
    inputs: Float[Tensor, "rows tokens width"], output_grads: Float[Tensor, "rows tokens width"], epsilon: float
) -> Float[Tensor, "rows width"]:
    """Each row's gradient of a LayerNorm weight, ``Σ_t x̂_t ∘ b_t``, in float32."""
    normalised = torch.nn.functional.layer_norm(inputs.float(), inputs.shape[-1:], eps=epsilon)
    return (normalised * output_grads.float()).sum(dim=1)


def vector_products(
    gradients: Float[Tensor, "rows width"], directions: Float[Tensor, "directions width"]
) -> tuple[Float[Tensor, "rows directions"], Float[Tensor, " rows"]]:
    """Dots with the directions and squared norms of row gradients that were formed, in float32."""
    return gradients @ directions.float().mT, gradients.square().sum(dim=1)


def bias_token_dots(
    output_grads: Float[Tensor, "rows tokens *parts out"], directions: Float[Tensor, "directions out"]
) -> Float[Tensor, "rows tokens directions"]:
    """Each token's term ``<b_t, v>`` of an additive bias in float32, summed over parts of a token such as its heads."""
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
