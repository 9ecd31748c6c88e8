"""Scores of rows: options, shards, resume, executors, score columns, and the one reader of a finished scan.

Names are loaded when first used: the command line's help needs the options alone, and a reader of scores no model.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ripcurrent.scan._check_anchors import AnchorCheck, check_anchors
    from ripcurrent.scan._columns import (
        COLUMNS,
        DIRECTION_OF_RISK,
        GRADIENT_COLUMNS,
        REPRESENTATION_COLUMNS,
        TRAIT_COLUMNS,
        Column,
    )
    from ripcurrent.scan._doctor import DatasetReport, Diagnosis, RenderedRow, doctor
    from ripcurrent.scan._manifest import ScanAnchors, ScanManifest
    from ripcurrent.scan._options import Execution, ScanOptions
    from ripcurrent.scan._overview import format_shares, riskiest_rows, scan_notes, score_quantiles, weak_anchors_note
    from ripcurrent.scan._parts import Part, bind_local_gpu, parse_part
    from ripcurrent.scan._passes import SignalStage
    from ripcurrent.scan._run import BoolArray, FloatArray, RowNumbers, ScanRun
    from ripcurrent.scan._scan import default_folder, scan
    from ripcurrent.scan._scan_model import load_scan_model, require_positions
    from ripcurrent.scan._score import representation_scores
    from ripcurrent.scan._separation import AnchorMeasurements, require_separation, weakly_separated
    from ripcurrent.scan._tokens import TOKEN_SCHEMA, load_tokens

# fmt: off
_HOMES = {
    "_check_anchors": "AnchorCheck check_anchors",
    "_columns": "COLUMNS DIRECTION_OF_RISK GRADIENT_COLUMNS REPRESENTATION_COLUMNS TRAIT_COLUMNS Column",
    "_doctor": "DatasetReport Diagnosis RenderedRow doctor",
    "_manifest": "ScanAnchors ScanManifest",
    "_options": "Execution ScanOptions",
    "_overview": "format_shares riskiest_rows scan_notes score_quantiles weak_anchors_note",
    "_parts": "Part bind_local_gpu parse_part",
    "_run": "BoolArray FloatArray RowNumbers ScanRun",
    "_scan": "default_folder scan",
    "_scan_model": "load_scan_model require_positions",
    "_score": "representation_scores",
    "_separation": "AnchorMeasurements require_separation weakly_separated",
    "_passes": "SignalStage",
    "_tokens": "TOKEN_SCHEMA load_tokens",
}

__all__ = [
    "COLUMNS", "DIRECTION_OF_RISK", "GRADIENT_COLUMNS",
    "REPRESENTATION_COLUMNS", "TOKEN_SCHEMA", "TRAIT_COLUMNS", "AnchorCheck",
    "AnchorMeasurements", "BoolArray", "Column", "DatasetReport", "Diagnosis", "Execution",
    "FloatArray", "Part", "RenderedRow", "RowNumbers", "ScanAnchors", "ScanManifest", "ScanOptions",
    "ScanRun", "SignalStage", "bind_local_gpu", "check_anchors", "default_folder", "doctor",
    "format_shares", "load_scan_model", "load_tokens", "parse_part", "representation_scores",
    "require_positions", "require_separation", "riskiest_rows", "scan", "scan_notes", "score_quantiles",
    "weak_anchors_note", "weakly_separated",
]
# fmt: on
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

# hidden from type checkers, which would otherwise let every misspelt name pass
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        return value
