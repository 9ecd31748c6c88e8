"""Directions: fixed vectors of the parameters' shape, held stacked and grouped as the recorder reads them.

A linear group's directions are held dense, or factored: a mean of anchors' gradients is a sum of outer products, one
for each of their tokens, and where these are few for the layer's size they take less memory and fewer products.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ripcurrent.signals._sites import Catalogue, SiteGroup, is_linear, linear_shape

Gradient = dict[str, Tensor]
"""One vector of the parameters' shape: parameter name to tensor (``(out, in)`` for linear kinds). In place of the
weights of a factored group it has :func:`term_keys`: inputs ``(terms, in)``, output gradients ``(terms, out)`` and the
terms' weights ``(terms,)``."""


@dataclass(frozen=True, slots=True)
class Directions:
    """Several directions, stacked parameter by parameter and joined group by group."""

    count: int
    """How many."""
    linear: Mapping[int, Tensor]
    """Group number to the joined weights' directions in the compute dtype: dense, shape ``(directions, out, in)``, or
    factored, shape ``(terms, in + out)``, each term an input and an output gradient."""
    other: Mapping[str, Tensor]
    """Parameter name to directions of vectors and tables, shape ``(directions, *shape)``."""
    term_weights: Mapping[int, Tensor] = field(default_factory=dict)
    """Number of each factored group to its terms' weight in each direction, shape ``(terms, directions)``, float32."""


def stack_directions(
    catalogue: Catalogue,
    gradients: Iterable[Mapping[str, Tensor]],
    dtype: torch.dtype,
    *,
    count: int | None = None,
    empty: Callable[..., Tensor] = torch.empty,
    written: Callable[[], None] = lambda: None,
) -> Directions:
    """Stack directions for the recorder: matrices and tables in the compute type, vectors in float32, on its device.

    ``gradients`` may be mappings that read from disk tensor by tensor, or an iterator of ``count`` gradients that are
    formed one after another, so that nothing is held twice. ``empty`` makes the tensors, as ``torch.empty`` does;
    ``written`` is told after each parameter.
    """
    if count is None:
        gradients = list(gradients)
        count = len(gradients)
    device = catalogue.input_embedding.weight.device
    shapes = catalogue.parameter_shapes()
    linear: dict[int, Tensor] = {}
    term_weights: dict[int, Tensor] = {}
    slots: dict[str, Tensor] = {}
    for number, group in enumerate(catalogue.groups):
        names = group_weights(group)
        if not names:
            continue
        kind = _product_dtype(group, dtype)
        out, fan_in = group_shape(group)
        inputs, grads, weights = term_keys(number)
        if isinstance(gradients, list) and gradients and inputs in gradients[0]:
            found = [gradient[weights].to(device) for gradient in gradients]
            total = sum(len(one) for one in found)
            linear[number] = empty(total, fan_in + out, dtype=kind, device=device)
            term_weights[number] = torch.zeros(total, count, device=device)
            start = 0
            for direction, (gradient, own) in enumerate(zip(gradients, found, strict=True)):
                part = slice(start, start := start + len(own))
                linear[number][part, :fan_in] = gradient[inputs].to(device)
                linear[number][part, fan_in:] = gradient[grads].to(device)
                term_weights[number][part, direction] = own
                written()
            shapes = {name: shape for name, shape in shapes.items() if name not in names}
            continue
        linear[number] = empty(count, out, fan_in, dtype=kind, device=device)
        start = 0
        for name in names:
            slots[name] = linear[number][:, start : start + shapes[name][0]]
            start += shapes[name][0]
    other = {
        name: empty(count, *shape, dtype=dtype if len(shape) == 2 else torch.float32, device=device)
        for name, shape in shapes.items()
        if name not in slots
    }
    slots |= other
    for number, gradient in enumerate(gradients):
        for name, slot in slots.items():
            slot[number] = gradient[name].to(slot.device)
            written()
    return Directions(count, linear, other, term_weights)


def _product_dtype(group: SiteGroup, dtype: torch.dtype) -> torch.dtype:
    """The type a group computes in: LoRA layers keep float32 on a bfloat16 base; packed weights follow the model's."""
    weight = group.sites[0].module.weight
    return weight.dtype if isinstance(weight, Tensor) and weight.dtype.is_floating_point else dtype


def group_weights(group: SiteGroup) -> list[str]:
    """Names of a linear group's weights in order; empty for other kinds."""
    return [site.weight for site in group.sites if is_linear(site) and site.weight is not None]


def group_shape(group: SiteGroup) -> tuple[int, int]:
    """``(out, in)`` of a linear group's joined weight; only of sites whose weight is in scope."""
    shapes = [linear_shape(site.module) for site in group.sites if is_linear(site) and site.weight is not None]
    return sum(out for out, _ in shapes), shapes[0][1]


def term_keys(number: int) -> tuple[str, str, str]:
    """Where a gradient has a factored group's inputs, output gradients and weights."""
    return f"inputs.{number}", f"output_grads.{number}", f"weights.{number}"


def groups_to_factor(catalogue: Catalogue, terms: int, directions: int = 2) -> frozenset[int]:
    """Numbers of the linear groups whose directions are smaller as so many terms than dense; products shrink alike."""
    found = []
    for number, group in enumerate(catalogue.groups):
        if group_weights(group):
            out, fan_in = group_shape(group)
            if terms * (out + fan_in) < directions * out * fan_in:
                found.append(number)
    return frozenset(found)


def direction_elements(catalogue: Catalogue, terms: int, factored: Collection[int]) -> int:
    """Numbers that one direction is made of, with so many terms in each factored group."""
    dense = sum(math.prod(shape) for shape in catalogue.parameter_shapes().values())
    for number in factored:
        out, fan_in = group_shape(catalogue.groups[number])
        dense += terms * (out + fan_in) - out * fan_in
    return dense


def zero_gradient(catalogue: Catalogue, factored: Collection[int] = ()) -> Gradient:
    """A vector of zeros over all parameters in scope but factored groups', in float32 on the model's device."""
    device = catalogue.input_embedding.weight.device
    left = {name for number in factored for name in group_weights(catalogue.groups[number])}
    shapes = catalogue.parameter_shapes()
    return {name: torch.zeros(shape, device=device) for name, shape in shapes.items() if name not in left}


def mean_gradient(gradients: Sequence[Mapping[str, Tensor]], dtype: torch.dtype) -> Gradient:
    """The mean, formed tensor by tensor in float32; matrices then in ``dtype``. Factored groups' terms are joined."""
    mean: Gradient = {}
    for key in gradients[0]:
        parts = [gradient[key] for gradient in gradients]
        if key.startswith(("inputs.", "output_grads.")):
            mean[key] = torch.cat(parts)
        elif key.startswith("weights."):
            mean[key] = torch.cat(parts) / len(parts)
        else:
            total = parts[0].to(torch.float32, copy=True)
            for part in parts[1:]:
                total += part
            total /= len(parts)
            mean[key] = total.to(dtype) if total.dim() == 2 else total
    return mean


def norm_of(gradient: Mapping[str, Tensor]) -> float:
    """Euclidean norm over all parameters."""
    total = 0.0
    for key in gradient:
        if key.startswith("inputs."):
            inputs, grads, weights = (gradient[part].float() for part in term_keys(int(key.partition(".")[2])))
            scaled = grads * weights.unsqueeze(1)
            total += float(((inputs @ inputs.mT) * (scaled @ scaled.mT)).sum(dtype=torch.float64))
        elif not key.startswith(("output_grads.", "weights.")):
            total += float(torch.linalg.vector_norm(gradient[key], dtype=torch.float32)) ** 2
    return math.sqrt(total)
