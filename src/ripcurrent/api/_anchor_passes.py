"""The further passes of ``--per-anchor``: which anchors have directions of their own in each, and how they are held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ripcurrent.data import EncodedRow
from ripcurrent.signals import (
    Directions,
    Factoring,
    GradientPass,
    choose_factoring,
    count_terms,
    set_direction,
    stack_directions,
    stacked_bytes,
)

PER_ANCHOR_BYTES = 2 * 2**30
"""Directions held at once when every anchor has its own."""


@dataclass(frozen=True, slots=True)
class AnchorPass:
    """One pass."""

    places: range
    """Its anchors, by their place in the anchor set."""
    factoring: Factoring
    """What their directions keep as terms and entries."""


def anchor_passes(gradient_pass: GradientPass, rows: Sequence[EncodedRow]) -> list[AnchorPass]:
    """As few passes over all anchors, in order, as :data:`PER_ANCHOR_BYTES` allows; at least one anchor in each."""
    found: list[AnchorPass] = []
    start = 0
    while start < len(rows):
        stop = start + 1
        while stop < len(rows) and _bytes(gradient_pass, rows[start : stop + 1]) <= PER_ANCHOR_BYTES:
            stop += 1
        found.append(AnchorPass(range(start, stop), _factoring(gradient_pass, rows[start:stop])))
        start = stop
    return found


def own_directions(gradient_pass: GradientPass, rows: Sequence[EncodedRow], one: AnchorPass) -> Directions:
    """The normalised gradient of each anchor of a pass, formed one after another."""
    gradients = (set_direction(gradient_pass, [rows[place]], factoring=one.factoring).gradient for place in one.places)
    return stack_directions(
        gradient_pass.catalogue, gradients, gradient_pass.dtype, count=len(one.places), factoring=one.factoring
    )


def _factoring(gradient_pass: GradientPass, rows: Sequence[EncodedRow]) -> Factoring:
    return choose_factoring(gradient_pass.catalogue, *count_terms([[row] for row in rows]), directions=len(rows))


def _bytes(gradient_pass: GradientPass, rows: Sequence[EncodedRow]) -> int:
    return stacked_bytes(
        gradient_pass.catalogue,
        _factoring(gradient_pass, rows),
        *count_terms([[row] for row in rows]),
        entries=len(np.unique(np.concatenate([row.tokens for row in rows]))),
        count=len(rows),
        itemsize=gradient_pass.dtype.itemsize,
    )
