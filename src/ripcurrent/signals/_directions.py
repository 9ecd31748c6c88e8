"""Directions: fixed vectors of the parameters' shape, held stacked and grouped as the recorder reads them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ripcurrent.signals._sites import Catalogue, SiteGroup, is_linear

Gradient = dict[str, Tensor]
"""One vector of the parameters' shape: parameter name to tensor (``(out, in)`` for linear kinds)."""


@dataclass(frozen=True, slots=True)
class Directions:
    """Several directions, stacked parameter by parameter and joined group by group."""

    count: int
    """How many."""
    linear: Mapping[int, Tensor]
    """Group number to the joined weights' directions, shape ``(directions, out, in)``, in the compute dtype."""
    other: Mapping[str, Tensor]
    """Parameter name to directions of vectors and tables, shape ``(directions, *shape)``."""


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
    slots: dict[str, Tensor] = {}
    for number, group in enumerate(catalogue.groups):
        names = group_weights(group)
        if not names:
            continue
        out = sum(shapes[name][0] for name in names)
        linear[number] = empty(count, out, shapes[names[0]][1], dtype=_product_dtype(group, dtype), device=device)
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
    return Directions(count, linear, other)


def _product_dtype(group: SiteGroup, dtype: torch.dtype) -> torch.dtype:
    """The type a group computes in: LoRA layers keep float32 on a bfloat16 base; packed weights follow the model's."""
    weight = group.sites[0].module.weight
    return weight.dtype if isinstance(weight, Tensor) and weight.dtype.is_floating_point else dtype


def group_weights(group: SiteGroup) -> list[str]:
    """Names of a linear group's weights in order; empty for other kinds."""
    return [site.weight for site in group.sites if is_linear(site) and site.weight is not None]


def zero_gradient(catalogue: Catalogue) -> Gradient:
    """A vector of zeros over all parameters in scope, in float32 on the model's device."""
    device = catalogue.input_embedding.weight.device
    return {name: torch.zeros(shape, device=device) for name, shape in catalogue.parameter_shapes().items()}


def norm_of(gradient: Mapping[str, Tensor]) -> float:
    """Euclidean norm over all parameters."""
    squares = [float(torch.linalg.vector_norm(tensor, dtype=torch.float32)) ** 2 for tensor in gradient.values()]
    return math.sqrt(sum(squares))
