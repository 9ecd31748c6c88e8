"""What one forward and one backward pass yield per row: states, losses, and exact gradient products and norms."""

from ripcurrent.signals._anchor_gradients import (
    SetDirection,
    count_terms,
    mean_cosine,
    norm_of_mean,
    set_direction,
    similarities,
)
from ripcurrent.signals._batch import WIDTH_MULTIPLE, Batch, make_batch
from ripcurrent.signals._directions import (
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
from ripcurrent.signals._gradient import GradientPass
from ripcurrent.signals._mapped import MappedStore
from ripcurrent.signals._out_of_memory import in_memory
from ripcurrent.signals._remote import RemoteStage, release_stage, share_stage
from ripcurrent.signals._representation import FeatureReader
from ripcurrent.signals._stage import SignalStage
from ripcurrent.signals._types import BatchSignals, Position, SignalKind

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
    "RemoteStage",
    "SetDirection",
    "SignalKind",
    "SignalStage",
    "choose_factoring",
    "count_terms",
    "direction_shapes",
    "in_memory",
    "make_batch",
    "mean_cosine",
    "mean_gradient",
    "norm_of",
    "norm_of_mean",
    "release_stage",
    "set_direction",
    "share_stage",
    "similarities",
    "stack_directions",
    "stacked_bytes",
    "zero_gradient",
]
