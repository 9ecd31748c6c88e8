"""Scores of rows: options, shards, resume, executors, score columns, and the one reader of a finished scan.

Names are loaded when first used: the command line's help needs the options alone, and a reader of scores no model.
"""

# every name that is imported here is the room's
# mypy: implicit-reexport
# ruff: noqa: F401
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
    from ripcurrent.scan._run import BoolArray, FloatArray, RowNumbers, ScanRun
    from ripcurrent.scan._scan import default_folder, scan
    from ripcurrent.scan._scan_model import load_scan_model, require_positions
    from ripcurrent.scan._score import representation_scores
    from ripcurrent.scan._separation import (
        AnchorCheck,
        AnchorMeasurements,
        check_anchors,
        require_separation,
        weakly_separated,
    )
    from ripcurrent.scan._tokens import TOKEN_SCHEMA, load_tokens
else:
    # hidden from type checkers, which would otherwise let every misspelt name pass
    import lazy_loader

    _NAMES = {
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
        "_separation": "AnchorCheck AnchorMeasurements check_anchors require_separation weakly_separated",
        "_tokens": "TOKEN_SCHEMA load_tokens",
    }
    _attributes = {module: names.split() for module, names in _NAMES.items()}
    __getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=_attributes)
