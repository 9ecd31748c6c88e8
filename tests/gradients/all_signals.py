"""Everything that a scan takes from a model, computed once: for comparing where and how it is computed."""

from typing import Any

import numpy as np
import torch

from ripcurrent.data import EncodedRow
from ripcurrent.gradients import (
    FeatureReader,
    GradientPass,
    choose_factoring,
    make_batch,
    set_direction,
    similarities,
    stack_directions,
)
from ripcurrent.models import ChatModel
from tests.gradients.oracle import rows_behind_a_prefix


def rows_of(seed: int, count: int) -> list[EncodedRow]:
    """Random rows that begin with the same tokens, so that a forward pass reads these once."""
    return rows_behind_a_prefix(count, seed, prefix=9, longest=12)


def computed(model: ChatModel, factored: bool) -> dict[str, Any]:
    """By name; directions dense, or factored."""
    gradient_pass = GradientPass(model)
    anchors, rows = rows_of(5, 3), rows_of(3, 4)
    # a layer is factored where it has few terms
    terms = 1 if factored else 10**6
    factoring = choose_factoring(gradient_pass.layers, terms, terms)
    direction = set_direction(gradient_pass, anchors, factoring=factoring)
    directions = stack_directions(gradient_pass.layers, [direction.gradient] * 2, torch.float32)
    batch = make_batch(rows, model.device)
    # a batch is padded to other widths on other devices
    longest = max(len(row.tokens) for row in rows)
    signals = gradient_pass.measure(batch, directions, FeatureReader(model, layer=0))
    return {
        "anchor norms": direction.norms,
        "anchor similarities": similarities(gradient_pass, anchors, [direction.gradient]),
        "dots": signals.dots,
        "squared norms": signals.squared_norm,
        "losses": signals.loss,
        "first losses": signals.loss_first_10,
        "features of a layer": signals.features,
        "features": FeatureReader(model).forward(batch).features,
        "mean features of a layer": FeatureReader(model, layer=-1, position="mean_response").forward(batch).features,
        "token shares": gradient_pass.token_shares(batch, directions)[:, :longest],
    }


def apart(one: Any, other: Any) -> float:
    """The largest difference, in units of the largest value; infinity where shapes differ."""
    if np.shape(one) != np.shape(other):
        return float("inf")
    return float(np.abs(one - other).max()) / float(np.abs(one).max())
