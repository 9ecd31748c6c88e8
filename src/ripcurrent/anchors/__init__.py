"""Anchor sets: the harmful and safe examples that every row is compared with."""

from ripcurrent.anchors._anchors import BUILTIN, HARMFUL, Anchor, AnchorSet, load_anchors

__all__ = ["BUILTIN", "HARMFUL", "Anchor", "AnchorSet", "load_anchors"]
