"""Named score columns from signals, the anchors' separation check, and rank statistics."""

from ripcurrent.scoring._anchors import (
    MINIMUM_SEPARATION,
    AnchorMeasurements,
    leave_one_out_scores,
    require_separation,
    separation,
)
from ripcurrent.scoring._columns import COLUMNS, DIRECTION_OF_RISK, TRAIT_COLUMNS, Column, Direction
from ripcurrent.scoring._score import (
    PREFILTER,
    Scorer,
    cosine_matrix,
    describe_table,
    dot_column,
    per_anchor_column,
    write_scores,
)
from ripcurrent.scoring._statistics import auroc, partial_spearman, quantiles, spearman
from ripcurrent.scoring._tokens import TOKEN_SCHEMA, load_tokens, read_token_record, summarise_tokens, write_tokens
from ripcurrent.scoring._windows import write_windows

__all__ = [
    "COLUMNS",
    "DIRECTION_OF_RISK",
    "MINIMUM_SEPARATION",
    "PREFILTER",
    "TOKEN_SCHEMA",
    "TRAIT_COLUMNS",
    "AnchorMeasurements",
    "Column",
    "Direction",
    "Scorer",
    "auroc",
    "cosine_matrix",
    "describe_table",
    "dot_column",
    "leave_one_out_scores",
    "load_tokens",
    "partial_spearman",
    "per_anchor_column",
    "quantiles",
    "read_token_record",
    "require_separation",
    "separation",
    "spearman",
    "summarise_tokens",
    "write_scores",
    "write_tokens",
    "write_windows",
]
