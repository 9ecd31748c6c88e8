"""Linear layers: dot products with fixed directions and exact squared norms, three ways.

*Ghost*: push the output gradients through each direction, and take the norm from two token-by-token Gram matrices.
*Transient*: form one row's weight gradient of one layer, read the products off it while it is in cache, drop it.
Which is cheaper depends on the row's length, the layer's shape and the machine: see :func:`choose_ways`.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

TRANSIENT_BYTES = 16 * 2**20
"""How much of the transient gradients to hold at once: what a last-level cache keeps."""
DOT_PIECES = 8
"""Into how many a transient gradient is cut on a CPU where few are read against few directions."""
BATCHED_PIECES = 256
"""Into how many on other devices: one short product each, where one long product of few rows keeps few cores busy."""
FEW_DOTS = 32
"""Gradients times directions up to which pieces are faster; with nine and seven they take half as long again."""
COSTS = {"cpu": (130.0, 50.0), "cuda": (1000.0, 250.0)}
"""By device type, what reading a transient gradient costs per element, in multiply-add flops of a matrix product: once
against all directions, and once for its norm. The CPU's are timings on two threads, the others from data sheets: an
H100 makes some 240 flops in the time that its memory takes for a byte, two directions in bfloat16 are four bytes an
element, and of what is formed a part is still in cache."""


@dataclass(frozen=True, slots=True)
class Ways:
    """How one layer's products are formed for one batch."""

    transient_dots: bool
    """Read the dots off the transient gradient instead of pushing gradients through the directions."""
    transient_norm: bool
    """Read the norm off the transient gradient instead of the Gram matrices."""


def choose_ways(
    tokens: int, fan_out: int, fan_in: int, directions: int, device: str = "cpu", pushed: float | None = None
) -> Ways:
    """The cheapest ways for rows of ``tokens`` tokens at an out×in layer, by counted flops and memory passes.

    ``pushed`` tokens of a row go through the directions, on average: fewer than all where rows begin alike.
    """
    dot_cost, norm_cost = COSTS.get(device, COSTS["cuda"])
    size = fan_out * fan_in
    form = 2.0 * tokens * size
    ghost_dots = 2.0 * directions * (tokens if pushed is None else pushed) * size
    gram_norm = 2.0 * tokens**2 * (fan_out + fan_in) + norm_cost * tokens**2
    read_dots, read_norm = dot_cost * size, norm_cost * size
    dots = {False: ghost_dots} if directions == 0 else {False: ghost_dots, True: read_dots}
    norms = {False: gram_norm, True: read_norm}
    options = {
        Ways(by_dots, by_norm): dots[by_dots] + norms[by_norm] + (form if by_dots or by_norm else 0.0)
        for by_dots in dots
        for by_norm in norms
    }
    return min(options, key=lambda way: options[way])


def linear_dots(
    inputs: Float[Tensor, "rows tokens in"],
    output_grads: Float[Tensor, "rows tokens out"],
    directions: Float[Tensor, "directions out in"],
    shared: int = 0,
) -> Float[Tensor, "rows directions"]:
    """Each row's inner products of its weight gradient ``bᵀa`` with fixed directions, the ghost way.

    The first ``shared`` tokens, of the same inputs in every row, go through a direction once. Sums are in float32.
    """
    own_inputs, own_grads = inputs[:, shared:].contiguous(), output_grads[:, shared:].contiguous()
    dots = linear_token_dots(own_inputs, own_grads, directions).sum(dim=1)
    for number, direction in enumerate(directions if shared else ()):
        pushed = inputs[0, :shared] @ direction.mT
        dots[:, number] += (output_grads[:, :shared] * pushed).sum(dim=(1, 2), dtype=torch.float32)
    return dots


def linear_token_dots(
    inputs: Float[Tensor, "rows tokens in"],
    output_grads: Float[Tensor, "rows tokens out"],
    directions: Float[Tensor, "directions out in"],
) -> Float[Tensor, "rows tokens directions"]:
    """Each token's term of those, ``b_tᵀ V a_t``."""
    narrow_in = inputs.shape[-1] <= output_grads.shape[-1]
    dots = torch.zeros(*inputs.shape[:2], len(directions), device=inputs.device)
    for number, direction in enumerate(directions):
        if narrow_in:
            pushed, other = output_grads @ direction, inputs
        else:
            pushed, other = inputs @ direction.mT, output_grads
        dots[:, :, number] = (pushed * other).sum(dim=-1, dtype=torch.float32)
    return dots


def transient_products(
    inputs: Float[Tensor, "rows tokens in"],
    output_grads: Float[Tensor, "rows tokens out"],
    directions: Float[Tensor, "directions out in"],
    ways: Ways,
) -> tuple[Float[Tensor, "rows directions"] | None, Float[Tensor, " rows"] | None]:
    """Dots and squared norms read off transient row gradients, a few rows at a time; None where ``ways`` says no."""
    rows, _, fan_in = inputs.shape
    fan_out = output_grads.shape[-1]
    flat = directions.reshape(directions.shape[0], fan_out * fan_in)
    at_once = max(1, TRANSIENT_BYTES // (fan_out * fan_in * inputs.element_size()))
    dots, norms = [], []
    for start in range(0, rows, at_once):
        stop = min(start + at_once, rows)
        gradient = torch.bmm(output_grads[start:stop].mT, inputs[start:stop]).reshape(stop - start, fan_out * fan_in)
        if ways.transient_dots:
            dots.append(_dots(gradient, flat))
        if ways.transient_norm:
            norms.append(_squared_norms(gradient))
    return (torch.cat(dots) if dots else None, torch.cat(norms) if norms else None)


def _dots(
    vectors: Float[Tensor, "rows size"], directions: Float[Tensor, "directions size"]
) -> Float[Tensor, "rows directions"]:
    """Dots in float32; of few vectors, which are slow on a CPU, as the diagonal of all pieces times all pieces."""
    if vectors.device.type != "cpu":
        return batched_dots(vectors, directions)
    few = len(vectors) * len(directions) <= FEW_DOTS
    pieces = math.gcd(vectors.shape[1], DOT_PIECES) if few else 1
    every = vectors.reshape(len(vectors) * pieces, -1) @ directions.reshape(len(directions) * pieces, -1).mT
    same = every.view(len(vectors), pieces, len(directions), pieces).diagonal(dim1=1, dim2=3)
    return same.sum(dim=-1, dtype=torch.float32)


def batched_dots(
    vectors: Float[Tensor, "rows size"], directions: Float[Tensor, "directions size"]
) -> Float[Tensor, "rows directions"]:
    """Dots in float32, from pieces whose products are one batch."""
    pieces = math.gcd(vectors.shape[1], BATCHED_PIECES)
    one, other = (each.view(len(each), pieces, -1).transpose(0, 1) for each in (vectors, directions))
    return torch.bmm(one, other.mT).sum(dim=0, dtype=torch.float32)


def _squared_norms(vectors: Float[Tensor, "rows size"]) -> Float[Tensor, " rows"]:
    """Squared norms from pieces whose norms are rounded each, which averages out: nothing is copied to float32."""
    pieces = math.gcd(vectors.shape[1], 64)
    norms = torch.linalg.vector_norm(vectors.view(len(vectors) * pieces, -1), dim=1)
    squares: Tensor = norms.float().square().view(len(vectors), pieces).sum(dim=1)
    return squares


def linear_products(
    inputs: Float[Tensor, "rows tokens in"],
    output_grads: Float[Tensor, "rows tokens out"],
    directions: Float[Tensor, "directions out in"],
    ways: Ways | None = None,
    shared: int = 0,
) -> tuple[Float[Tensor, "rows directions"], Float[Tensor, " rows"]]:
    """Each row's dots with the directions and squared norm of its weight gradient, each by the cheaper way."""
    if ways is None:
        rows, tokens, fan_in = inputs.shape
        pushed = tokens - shared + shared / rows
        ways = choose_ways(
            tokens, output_grads.shape[-1], fan_in, directions.shape[0], inputs.device.type, pushed=pushed
        )
    dots: Tensor | None = None
    norms: Tensor | None = None
    if ways.transient_dots or ways.transient_norm:
        dots, norms = transient_products(inputs, output_grads, directions, ways)
    if dots is None:
        dots = linear_dots(inputs, output_grads, directions, shared)
    if norms is None:
        # the inner product of two Gram matrices over tokens
        grams = torch.bmm(inputs, inputs.mT) * torch.bmm(output_grads, output_grads.mT)
        norms = grams.sum(dim=(1, 2), dtype=torch.float32)
    return dots, norms


def linear_gradient(
    inputs: Float[Tensor, "rows tokens in"], output_grads: Float[Tensor, "rows tokens out"]
) -> Float[Tensor, "out in"]:
    """The weight gradient summed over rows, in float32."""
    return output_grads.flatten(0, 1).float().mT @ inputs.flatten(0, 1).float()
