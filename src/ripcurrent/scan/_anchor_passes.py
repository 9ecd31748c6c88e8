"""The further passes of ``--per-anchor``: which anchors have directions of their own in each, and how they are held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ripcurrent.data import EncodedRow
from ripcurrent.gradients import (
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
    for place in range(len(rows)):
        if found:
            wider, size = _one_pass(gradient_pass, rows, range(found[-1].places.start, place + 1))
            if size <= PER_ANCHOR_BYTES:
                found[-1] = wider
                continue
        found.append(_one_pass(gradient_pass, rows, range(place, place + 1))[0])
    return found


def own_directions(gradient_pass: GradientPass, rows: Sequence[EncodedRow], one: AnchorPass) -> Directions:
    """The normalised gradient of each anchor of a pass, formed one after another."""
    gradients = [set_direction(gradient_pass, [rows[place]], factoring=one.factoring).gradient for place in one.places]
    return stack_directions(gradient_pass.layers, gradients, gradient_pass.dtype)


def _one_pass(gradient_pass: GradientPass, rows: Sequence[EncodedRow], places: range) -> tuple[AnchorPass, int]:
    """A pass for these anchors, and the bytes of its directions."""
    own = rows[places.start : places.stop]
    terms = count_terms([[row] for row in own])
    factoring = choose_factoring(gradient_pass.layers, *terms, directions=len(own))
    size = stacked_bytes(
        gradient_pass.layers,
        factoring,
        *terms,
        entries=len(np.unique(np.concatenate([row.tokens for row in own]))),
        count=len(own),
        itemsize=gradient_pass.dtype.itemsize,
    )
    return AnchorPass(places, factoring), size
