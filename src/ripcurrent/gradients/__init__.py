"""What one forward and one backward pass yield per row: states, losses, and exact gradient products and norms."""

from ripcurrent.gradients._anchor_gradients import (
    SetDirection,
    count_terms,
    mean_cosine,
    norm_of_mean,
    set_direction,
    similarities,
)
from ripcurrent.gradients._batch import WIDTH_MULTIPLE, Batch, make_batch
from ripcurrent.gradients._directions import (
    DENSE,
    Directions,
    Factoring,
    Gradient,
    choose_factoring,
    direction_shapes,
    mean_gradient,
    norm_of,
    stack_directions,
    stacked_bytes,
    zero_gradient,
)
from ripcurrent.gradients._gradient import GradientPass
from ripcurrent.gradients._mapped import MappedStore
from ripcurrent.gradients._out_of_memory import in_memory
from ripcurrent.gradients._representation import FeatureReader
from ripcurrent.gradients._types import BatchSignals, Position, SignalKind

__all__ = [
    "DENSE",
    "WIDTH_MULTIPLE",
    "Batch",
    "BatchSignals",
    "Directions",
    "Factoring",
    "FeatureReader",
    "Gradient",
    "GradientPass",
    "MappedStore",
    "Position",
    "SetDirection",
    "SignalKind",
    "choose_factoring",
    "count_terms",
    "direction_shapes",
    "in_memory",
    "make_batch",
    "mean_cosine",
    "mean_gradient",
    "norm_of",
    "norm_of_mean",
    "set_direction",
    "similarities",
    "stack_directions",
    "stacked_bytes",
    "zero_gradient",
]
