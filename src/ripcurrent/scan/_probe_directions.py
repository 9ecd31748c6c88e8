"""Directions as a scan holds them, of random numbers: what they take is known before any anchor is measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ripcurrent.anchors import AnchorSet
from ripcurrent.data import EncodedRow
from ripcurrent.gradients import (
    ANCHOR_TOKEN_BUDGET,
    ENTRIES,
    Factoring,
    GradientPass,
    choose_factoring,
    count_terms,
    direction_shapes,
    make_batch,
    plan_batches,
    set_direction,
    stack_directions,
)


@dataclass(frozen=True, slots=True)
class RandomDirection(Mapping[str, torch.Tensor]):
    """A direction of random numbers that holds none of its matrices: each repeats one random row."""

    shapes: Mapping[str, tuple[int, ...]]
    """Name to shape: of dense parameters, of factored groups' terms, of tables' entries."""
    seed: int
    """Seed of the numbers."""

    def __getitem__(self, name: str) -> torch.Tensor:
        shape = self.shapes[name]
        if name.startswith(ENTRIES):
            return torch.arange(*shape)
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(shape[-1], generator=generator).expand(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


class LikeDirections:
    """What a scan's directions are like on a model: which are factored, and of how many terms."""

    def __init__(self, gradient_pass: GradientPass, anchor_set: AnchorSet, rows: Sequence[EncodedRow]) -> None:
        """Look at the anchors, encoded for their gradients."""
        self._gradient_pass = gradient_pass
        self._sets = [[rows[place] for place in anchor_set.places(name)] for name in anchor_set.sets]
        self.factoring: Factoring = choose_factoring(gradient_pass.layers, *count_terms(self._sets))
        """What is not held as matrices."""

    def of_scan(self) -> list[RandomDirection]:
        """Stands for those that rows are multiplied with: of the harmful set, and of all safe ones together."""
        first, *others = self._sets
        return [self._of([first], 0), self._of(others, 1)]

    def bytes_of_scan(self) -> int:
        """What these take, in the type in which they are multiplied."""
        elements = sum(math.prod(shape) for one in self.of_scan() for shape in one.shapes.values())
        return elements * self._gradient_pass.dtype.itemsize

    def shapes_of_a_set(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of what is held while an anchor set's direction is computed, at most."""
        terms = count_terms(self._sets)
        return direction_shapes(self._gradient_pass.layers, self.factoring, *terms, entries=terms[0])

    def compute(self, at_once: int) -> None:
        """Take the memory that computing directions takes, and give it back.

        The largest set's is computed, with its copy as it is stored; then the largest batch of anchors is compared with
        ``at_once`` sets. What comes of it is kept nowhere.
        """
        largest = max(self._sets, key=lambda rows: sum(len(row.tokens) for row in rows))
        direction = set_direction(self._gradient_pass, largest, factoring=self.factoring)
        dtype = self._gradient_pass.dtype
        stored = {name: t.to(dtype) if t.dim() == 2 else t for name, t in direction.gradient.items()}
        del direction, stored
        rows = [row for own in self._sets for row in own]
        places, *_ = plan_batches([len(row.tokens) for row in rows], ANCHOR_TOKEN_BUDGET)
        batch = make_batch([rows[place] for place in places], self._gradient_pass.device)
        random = [self._of([own], seed) for seed, own in enumerate(self._sets[:at_once])]
        self._gradient_pass.measure(batch, stack_directions(self._gradient_pass.layers, list(random), dtype))

    def _of(self, sets: Sequence[Sequence[EncodedRow]], seed: int) -> RandomDirection:
        occurring = len(np.unique(np.concatenate([row.tokens for rows in sets for row in rows])))
        layers = self._gradient_pass.layers
        return RandomDirection(direction_shapes(layers, self.factoring, *count_terms(sets), occurring), seed)
