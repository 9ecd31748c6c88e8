"""What one forward and one backward pass yield per row: states, losses, and exact gradient products and norms."""

from ripcurrent.gradients._anchor_directions import (
    ANCHOR_TOKEN_BUDGET,
    SetDirection,
    anchor_directions,
    count_terms,
    largest_direction,
    mean_cosine,
    norm_of_mean,
    set_direction,
    similarities,
)
from ripcurrent.gradients._batch import WIDTH_MULTIPLE, Batch, make_batch, plan_batches
from ripcurrent.gradients._directions import (
    DENSE,
    ENTRIES,
    Directions,
    Factoring,
    Gradient,
    GroupKey,
    choose_factoring,
    dense_shapes,
    mean_gradient,
    norm_of,
    stack_directions,
    zero_gradient,
)
from ripcurrent.gradients._feature_reader import FeatureReader
from ripcurrent.gradients._gradient_pass import GradientPass
from ripcurrent.gradients._head import find_logit_transform
from ripcurrent.gradients._layers import ModelLayers
from ripcurrent.gradients._mapped import MappedStore
from ripcurrent.gradients._out_of_memory import Halving, RanOut, attempt, does_not_fit, in_memory
from ripcurrent.gradients._shared_linear import SHORTEST_SHARE, worth_sharing
from ripcurrent.gradients._transitional import direction_shapes, stacked_bytes
from ripcurrent.gradients._types import BatchSignals, Position, SignalKind
from ripcurrent.gradients.kernels.head import LogitTransform, cross_entropy_with_gradient

__all__ = [
    "ANCHOR_TOKEN_BUDGET",
    "DENSE",
    "ENTRIES",
    "SHORTEST_SHARE",
    "WIDTH_MULTIPLE",
    "Batch",
    "BatchSignals",
    "Directions",
    "Factoring",
    "FeatureReader",
    "Gradient",
    "GradientPass",
    "GroupKey",
    "Halving",
    "LogitTransform",
    "MappedStore",
    "ModelLayers",
    "Position",
    "RanOut",
    "SetDirection",
    "SignalKind",
    "anchor_directions",
    "attempt",
    "choose_factoring",
    "count_terms",
    "cross_entropy_with_gradient",
    "dense_shapes",
    "direction_shapes",
    "does_not_fit",
    "find_logit_transform",
    "in_memory",
    "largest_direction",
    "make_batch",
    "mean_cosine",
    "mean_gradient",
    "norm_of",
    "norm_of_mean",
    "plan_batches",
    "set_direction",
    "similarities",
    "stack_directions",
    "stacked_bytes",
    "worth_sharing",
    "zero_gradient",
]
