"""Scores of rows: options, shards, resume, executors, score columns, and the one reader of a finished scan.

Names are loaded when first used: the command line's help needs the options alone, and a reader of scores no model.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ripcurrent.scan._check_anchors import AnchorCheck, check_anchors
    from ripcurrent.scan._columns import (
        COHERENCE,
        COLUMNS,
        DIRECTION_OF_RISK,
        GRADIENT_COLUMNS,
        REPRESENTATION_COLUMNS,
        SET_COSINE,
        SUMMED,
        TRAIT_COLUMNS,
        Column,
        Direction,
    )
    from ripcurrent.scan._environment import size
    from ripcurrent.scan._execution import Execution
    from ripcurrent.scan._manifest import PartCost, ScanAnchors, ScanManifest
    from ripcurrent.scan._options import ScanOptions, require_combination, require_positions, resolve_options
    from ripcurrent.scan._overview import (
        RankedRow,
        ScoreQuantiles,
        format_shares,
        riskiest_rows,
        scan_notes,
        score_quantiles,
        weak_anchors_note,
    )
    from ripcurrent.scan._part import Part, bind_local_gpu, parse_part
    from ripcurrent.scan._run import BATCH_ROWS, BoolArray, FloatArray, RowNumbers, ScanRun
    from ripcurrent.scan._scan import default_folder, scan
    from ripcurrent.scan._scan_model import load_scan_model
    from ripcurrent.scan._score import Scorer, representation_scores
    from ripcurrent.scan._scored_with import ScoredWith
    from ripcurrent.scan._separation import (
        MINIMUM_SEPARATION,
        AnchorMeasurements,
        require_separation,
        separation,
        weakly_separated,
    )
    from ripcurrent.scan._signal_stage import DROPPED, NOT_EMBEDDED, SignalStage, unit
    from ripcurrent.scan._token_tables import TOKEN_SCHEMA, load_tokens, read_token_record, write_tokens

_HOMES = {
    "_check_anchors": ("AnchorCheck", "check_anchors"),
    "_columns": (
        *("COHERENCE", "COLUMNS", "DIRECTION_OF_RISK", "GRADIENT_COLUMNS", "REPRESENTATION_COLUMNS"),
        *("SET_COSINE", "SUMMED", "TRAIT_COLUMNS", "Column", "Direction"),
    ),
    "_environment": ("size",),
    "_execution": ("Execution",),
    "_manifest": ("PartCost", "ScanAnchors", "ScanManifest"),
    "_options": ("ScanOptions", "require_combination", "require_positions", "resolve_options"),
    "_part": ("Part", "bind_local_gpu", "parse_part"),
    "_run": ("BATCH_ROWS", "BoolArray", "FloatArray", "RowNumbers", "ScanRun"),
    "_scan": ("default_folder", "scan"),
    "_scan_model": ("load_scan_model",),
    "_score": ("Scorer", "representation_scores"),
    "_scored_with": ("ScoredWith",),
    "_separation": (
        *("MINIMUM_SEPARATION", "AnchorMeasurements", "require_separation", "separation", "weakly_separated"),
    ),
    "_signal_stage": ("DROPPED", "NOT_EMBEDDED", "SignalStage", "unit"),
    "_overview": (
        *("RankedRow", "ScoreQuantiles", "format_shares", "riskiest_rows", "scan_notes", "score_quantiles"),
        "weak_anchors_note",
    ),
    "_token_tables": ("TOKEN_SCHEMA", "load_tokens", "read_token_record", "write_tokens"),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "BATCH_ROWS",
    "COHERENCE",
    "COLUMNS",
    "DIRECTION_OF_RISK",
    "DROPPED",
    "GRADIENT_COLUMNS",
    "MINIMUM_SEPARATION",
    "NOT_EMBEDDED",
    "REPRESENTATION_COLUMNS",
    "SET_COSINE",
    "SUMMED",
    "TOKEN_SCHEMA",
    "TRAIT_COLUMNS",
    "AnchorCheck",
    "AnchorMeasurements",
    "BoolArray",
    "Column",
    "Direction",
    "Execution",
    "FloatArray",
    "Part",
    "PartCost",
    "RankedRow",
    "RowNumbers",
    "ScanAnchors",
    "ScanManifest",
    "ScanOptions",
    "ScanRun",
    "ScoreQuantiles",
    "ScoredWith",
    "Scorer",
    "SignalStage",
    "bind_local_gpu",
    "check_anchors",
    "default_folder",
    "format_shares",
    "load_scan_model",
    "load_tokens",
    "parse_part",
    "read_token_record",
    "representation_scores",
    "require_combination",
    "require_positions",
    "require_separation",
    "resolve_options",
    "riskiest_rows",
    "scan",
    "scan_notes",
    "score_quantiles",
    "separation",
    "size",
    "unit",
    "weak_anchors_note",
    "weakly_separated",
    "write_tokens",
]

# hidden from type checkers, which would otherwise let every misspelt name pass
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value
