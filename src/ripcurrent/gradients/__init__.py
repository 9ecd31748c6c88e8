"""What one forward and one backward pass yield per row: states, losses, and exact gradient products and norms."""

from ripcurrent.gradients._anchor_directions import (
    ANCHOR_TOKEN_BUDGET,
    SetDirection,
    anchor_directions,
    largest_direction,
    mean_cosine,
    norm_of_mean,
    set_direction,
    similarities,
)
from ripcurrent.gradients._batch import (
    WIDTH_MULTIPLE,
    Batch,
    BatchSignals,
    Position,
    SignalKind,
    make_batch,
    plan_batches,
)
from ripcurrent.gradients._directions import (
    Directions,
    Factoring,
    Gradient,
    choose_factoring,
    mean_gradient,
    norm_of,
    stack_directions,
)
from ripcurrent.gradients._feature_reader import FeatureReader
from ripcurrent.gradients._gradient_pass import GradientPass
from ripcurrent.gradients._head import find_logit_transform
from ripcurrent.gradients._layers import ModelLayers
from ripcurrent.gradients._mapped import MappedStore
from ripcurrent.gradients._out_of_memory import Halving, RanOut, attempt, in_memory
from ripcurrent.gradients.kernels.head import LogitTransform, cross_entropy_with_gradient

__all__ = [
    "ANCHOR_TOKEN_BUDGET", "WIDTH_MULTIPLE", "Batch", "BatchSignals", "Directions", "Factoring", "FeatureReader",
    "Gradient", "GradientPass", "Halving", "LogitTransform", "MappedStore", "ModelLayers", "Position", "RanOut",
    "SetDirection", "SignalKind", "anchor_directions", "attempt", "choose_factoring", "cross_entropy_with_gradient",
    "find_logit_transform", "in_memory", "largest_direction", "make_batch", "mean_cosine", "mean_gradient", "norm_of",
    "norm_of_mean", "plan_batches", "set_direction", "similarities", "stack_directions",
]  # fmt: skip
