"""Anchor sets: the harmful and safe examples that every row is compared with."""

from ripcurrent.anchors._load import BUILTIN, load_anchors
from ripcurrent.anchors._types import HARMFUL, Anchor, AnchorSet, AnchorsInfo

__all__ = ["BUILTIN", "HARMFUL", "Anchor", "AnchorSet", "AnchorsInfo", "load_anchors"]
