"""From anchors to directions: each set's mean of normalised gradients, and every anchor's similarity to it.

Two passes over a set, no anchor's gradient ever formed: the first yields the norms, the second sums the gradients
weighted by one over count and norm. Where the anchors' tokens are few for a layer's size, the sum's terms are kept.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ripcurrent.data import EncodedRow
from ripcurrent.gradients._batch import Batch, make_batch, plan_batches
from ripcurrent.gradients._directions import (
    DENSE,
    Factoring,
    Gradient,
    choose_factoring,
    dense_shapes,
    norm_of,
    stack_directions,
    zero_gradient,
)
from ripcurrent.gradients._gradient_pass import GradientPass
from ripcurrent.gradients._hooks import KeptTerms
from ripcurrent.models import give_back_freed_memory

ANCHOR_TOKEN_BUDGET = 512
"""Padded tokens per batch of anchors."""
OnRows = Callable[[int], None]


def silent(rows: int) -> None:
    """Hear of rows that are done, and say nothing."""


@dataclass(frozen=True, slots=True)
class SetDirection:
    """One anchor set's direction."""

    gradient: Gradient
    """Mean of the set's normalised gradients, not normalised again, float32."""
    norms: npt.NDArray[np.float64]
    """Gradient norm of each of its anchors, shape ``(anchors of the set,)``."""


def anchor_directions(
    gradient_pass: GradientPass, sets: Sequence[Sequence[EncodedRow]], on_rows: OnRows = silent
) -> Iterator[SetDirection]:
    """Each anchor set's direction, one after another; all keep the same parts as terms, so that they can be stacked.

    ``on_rows`` is called as anchors are done, twice for each.
    """
    factoring = choose_factoring(gradient_pass.layers, *count_terms(sets))
    return (set_direction(gradient_pass, rows, factoring, on_rows) for rows in sets)


def largest_direction(gradient_pass: GradientPass, sets: Sequence[Sequence[EncodedRow]]) -> int:
    """At most how many numbers one of the sets' directions has, known before any is computed."""
    layers, (terms, head_terms) = gradient_pass.layers, count_terms(sets)
    factoring, whole = choose_factoring(layers, terms, head_terms), layers.parameter_shapes()
    total = sum(math.prod(shape) for shape in dense_shapes(layers, factoring).values())
    for key in factoring.groups:
        many, shape = (head_terms, whole[key]) if isinstance(key, str) else (terms, layers.groups[key].shape())
        total += many * (shape[0] + shape[1] + 1)
    # a table has no more entries than the anchors have tokens
    return total + sum(terms * (whole[name][1] + 1) for name in factoring.tables)


def set_direction(
    gradient_pass: GradientPass, rows: Sequence[EncodedRow], factoring: Factoring = DENSE, on_rows: OnRows = silent
) -> SetDirection:
    """The direction of one anchor set: ``(1/n) Σ g_i / ‖g_i‖`` over its rows; what is in ``factoring`` as terms."""
    norms = np.zeros(len(rows))
    no_directions = stack_directions(gradient_pass.layers, [], gradient_pass.dtype)
    for places, batch in _batches(gradient_pass, rows, on_rows):
        squared = gradient_pass.measure(batch, no_directions).squared_norm
        assert squared is not None
        norms[places] = np.sqrt(squared)
    total, kept = zero_gradient(gradient_pass.layers, factoring), KeptTerms(factoring)
    _add_units(gradient_pass, rows, norms, total, kept, on_rows)
    return SetDirection(total | kept.gradient(shared_tokens(rows)), norms)


def count_terms(sets: Sequence[Sequence[EncodedRow]]) -> tuple[int, int]:
    """At most how many terms the factored directions of these anchor sets have together, in a layer and at the head."""
    total = 0
    for rows in sets:
        shared = shared_tokens(rows)
        # the last token that bears loss is predicted from the one before it
        total += shared + sum(int(np.flatnonzero(row.loss_mask)[-1]) - shared for row in rows)
    return total, sum(int(row.loss_mask.sum()) for rows in sets for row in rows)


def shared_tokens(rows: Sequence[EncodedRow]) -> int:
    """How many first tokens are the same in all rows, none of them bearing loss or predicting a token that does."""
    shared = min(int(np.flatnonzero(row.loss_mask)[0]) - 1 for row in rows)
    first = rows[0].tokens[:shared]
    for row in rows[1:]:
        differing = np.flatnonzero(row.tokens[: len(first)] != first)
        first = first[: differing[0]] if len(differing) else first
    return len(first)


def similarities(
    gradient_pass: GradientPass,
    rows: Sequence[EncodedRow],
    directions: Sequence[Mapping[str, torch.Tensor]],
    on_rows: OnRows = silent,
) -> npt.NDArray[np.float64]:
    """Each row's ``<ĝ, direction>`` for each direction, shape ``(rows, directions)``."""
    stacked = stack_directions(gradient_pass.layers, directions, gradient_pass.dtype)
    similar = np.zeros((len(rows), len(directions)))
    for places, batch in _batches(gradient_pass, rows, on_rows):
        signals = gradient_pass.measure(batch, stacked)
        assert signals.dots is not None
        assert signals.squared_norm is not None
        similar[places] = signals.dots / np.sqrt(signals.squared_norm)[:, None]
    return similar


def norm_of_mean(
    gradient_pass: GradientPass, rows: Sequence[EncodedRow], norms: npt.NDArray[np.float64], on_rows: OnRows = silent
) -> float:
    """The norm, 0 to 1, of the mean of rows' unit gradients; ``norms`` are their gradients', shape ``(rows,)``."""
    total = zero_gradient(gradient_pass.layers)
    _add_units(gradient_pass, rows, norms, total, KeptTerms(), on_rows)
    return norm_of(total)


def mean_cosine(norm: float, rows: int) -> float:
    """The mean cosine between two different ones of ``rows`` unit vectors, from the norm of their mean; NaN for one."""
    return (rows * norm**2 - 1) / (rows - 1) if rows > 1 else float("nan")


def _batches(
    gradient_pass: GradientPass, rows: Sequence[EncodedRow], on_rows: OnRows
) -> Iterator[tuple[list[int], Batch]]:
    for places in plan_batches([len(row.tokens) for row in rows], ANCHOR_TOKEN_BUDGET):
        yield places, make_batch([rows[place] for place in places], gradient_pass.device)
        on_rows(len(places))


def _add_units(
    gradient_pass: GradientPass,
    rows: Sequence[EncodedRow],
    norms: npt.NDArray[np.float64],
    total: Gradient,
    kept: KeptTerms,
    on_rows: OnRows,
) -> None:
    """Add the mean of the rows' unit gradients to ``total``, and to ``kept`` what that factors."""
    for places, batch in _batches(gradient_pass, rows, on_rows):
        factors = torch.tensor(1.0 / (len(rows) * norms[places]), dtype=torch.float32)
        gradient_pass.accumulate(batch, factors, total, kept)
        # few batches, whose layers' gradients in float32 leave larger holes than a scan's
        give_back_freed_memory()
