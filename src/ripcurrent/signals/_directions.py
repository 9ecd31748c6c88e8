"""Directions: fixed vectors of the parameters' shape, held stacked and grouped as the recorder reads them."""

from __future__ import annotations

import math
from collections.abc import Mapping
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
    linear: dict[int, Tensor]
    """Group number to the joined weights' directions, shape ``(directions, out, in)``, in the compute dtype."""
    other: dict[str, Tensor]
    """Parameter name to directions of vectors and tables, shape ``(directions, *shape)``."""


def stack_directions(catalogue: Catalogue, gradients: list[Mapping[str, Tensor]], dtype: torch.dtype) -> Directions:
    """Stack directions for the recorder: matrices and tables in the compute type, vectors in float32, on its device.

    ``gradients`` may be mappings that read from disk tensor by tensor, so that nothing is held twice.
    """
    device = catalogue.input_embedding.weight.device
    linear: dict[int, Tensor] = {}
    other: dict[str, Tensor] = {}
    shapes = catalogue.parameter_shapes()
    for number, group in enumerate(catalogue.groups):
        names = group_weights(group)
        if names:
            out = sum(shapes[name][0] for name in names)
            kept = _product_dtype(group, dtype)
            joined = torch.empty(len(gradients), out, shapes[names[0]][1], dtype=kept, device=device)
            for slot, gradient in enumerate(gradients):
                start = 0
                for name in names:
                    joined[slot, start : start + shapes[name][0]] = gradient[name].to(device)
                    start += shapes[name][0]
            linear[number] = joined
    in_groups = {name for group in catalogue.groups for name in group_weights(group)}
    for name, shape in shapes.items():
        if name in in_groups:
            continue
        kind = dtype if len(shape) == 2 else torch.float32
        stacked = torch.empty(len(gradients), *shape, dtype=kind, device=device)
        for slot, gradient in enumerate(gradients):
            stacked[slot] = gradient[name].to(device)
        other[name] = stacked
    return Directions(len(gradients), linear, other)


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
