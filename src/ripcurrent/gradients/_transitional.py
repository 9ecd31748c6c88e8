"""Sizes of directions that ``--per-anchor`` and the doctor's simulation ask for; goes with them."""

from __future__ import annotations

import math

from ripcurrent.gradients._directions import Factoring, dense_shapes, entry_keys, term_keys
from ripcurrent.gradients._layers import ModelLayers


def direction_shapes(
    layers: ModelLayers, factoring: Factoring, terms: int, head_terms: int, entries: int
) -> dict[str, tuple[int, ...]]:
    """Shapes of all that a gradient has, with so many terms in a factored group and at the head, entries in a table."""
    whole = layers.parameter_shapes()
    shapes = dense_shapes(layers, factoring)
    for key in factoring.groups:
        many, shape = (head_terms, whole[key]) if isinstance(key, str) else (terms, layers.groups[key].shape())
        inputs, output_grads, weights = term_keys(key)
        shapes |= {inputs: (many, shape[1]), output_grads: (many, shape[0]), weights: (many,)}
    for name in factoring.tables:
        ids, rows = entry_keys(name)
        shapes |= {ids: (entries,), rows: (entries, whole[name][1])}
    return shapes


def stacked_bytes(
    layers: ModelLayers, factoring: Factoring, terms: int, head_terms: int, *, entries: int, count: int, itemsize: int
) -> int:
    """What ``count`` directions take when stacked, that have so many terms in all and entries in a table."""
    dense = dense_shapes(layers, factoring)
    terms_and_rows = direction_shapes(layers, factoring, terms, head_terms, entries + 1)
    total = sum(count * math.prod(shape) * (itemsize if len(shape) == 2 else 4) for shape in dense.values())
    for key in factoring.groups:
        inputs, output_grads, weights = (math.prod(terms_and_rows[part]) for part in term_keys(key))
        total += (inputs + output_grads) * itemsize + count * weights * 4
    for name in factoring.tables:
        total += count * math.prod(terms_and_rows[entry_keys(name)[1]]) * itemsize
    return total
