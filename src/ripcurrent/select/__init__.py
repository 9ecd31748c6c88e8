"""Selections of rows by score, and the controls that stand beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ripcurrent.lazy import lazily

if TYPE_CHECKING:
    from ripcurrent.select._controls import controls_for
    from ripcurrent.select._match import FORMAT_TRAITS, distance, match_format, match_length, match_loss
    from ripcurrent.select._options import SelectOptions
    from ripcurrent.select._rules import (
        FORMATS,
        between,
        bottom,
        generator,
        number_of_rows,
        of_format,
        random,
        rank_by_risk,
        top,
    )
    from ripcurrent.select._select import select
    from ripcurrent.select._types import Distance, Kind, Overlap, Selection, SelectionRecord, SelectionSummary
    from ripcurrent.select._union import union
    from ripcurrent.select._write import overlap, summarise, write_selection

__all__ = [
    "FORMATS",
    "FORMAT_TRAITS",
    "Distance",
    "Kind",
    "Overlap",
    "SelectOptions",
    "Selection",
    "SelectionRecord",
    "SelectionSummary",
    "between",
    "bottom",
    "controls_for",
    "distance",
    "generator",
    "match_format",
    "match_length",
    "match_loss",
    "number_of_rows",
    "of_format",
    "overlap",
    "random",
    "rank_by_risk",
    "select",
    "summarise",
    "top",
    "union",
    "write_selection",
]

_HOMES = {
    "_controls": ("controls_for",),
    "_match": ("FORMAT_TRAITS", "distance", "match_format", "match_length", "match_loss"),
    "_options": ("SelectOptions",),
    "_rules": (
        *("FORMATS", "between", "bottom", "generator", "number_of_rows", "of_format"),
        *("random", "rank_by_risk", "top"),
    ),
    "_select": ("select",),
    "_types": ("Distance", "Kind", "Overlap", "Selection", "SelectionRecord", "SelectionSummary"),
    "_union": ("union",),
    "_write": ("overlap", "summarise", "write_selection"),
}

# hidden from type checkers, which would otherwise let every misspelt name pass
if not TYPE_CHECKING:
    __getattr__ = lazily(__name__, _HOMES)
