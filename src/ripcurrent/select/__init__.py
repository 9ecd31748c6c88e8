"""Selections of rows by score, and the controls that stand beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ripcurrent.lazy import lazily

if TYPE_CHECKING:
    from ripcurrent.select._match import match_format, match_length
    from ripcurrent.select._options import SelectOptions
    from ripcurrent.select._rules import between, bottom, generator, number_of_rows, of_format, random, top
    from ripcurrent.select._select import select
    from ripcurrent.select._types import Kind, Overlap, Selection, SelectionRecord
    from ripcurrent.select._union import union
    from ripcurrent.select._write import overlap, summarise, write_selection

__all__ = [
    "Kind",
    "Overlap",
    "SelectOptions",
    "Selection",
    "SelectionRecord",
    "between",
    "bottom",
    "generator",
    "match_format",
    "match_length",
    "number_of_rows",
    "of_format",
    "overlap",
    "random",
    "select",
    "summarise",
    "top",
    "union",
    "write_selection",
]

_HOMES = {
    "_match": ("match_format", "match_length"),
    "_options": ("SelectOptions",),
    "_rules": ("between", "bottom", "generator", "number_of_rows", "of_format", "random", "top"),
    "_select": ("select",),
    "_types": ("Kind", "Overlap", "Selection", "SelectionRecord"),
    "_union": ("union",),
    "_write": ("overlap", "summarise", "write_selection"),
}

# hidden from type checkers, which would otherwise let every misspelt name pass
if not TYPE_CHECKING:
    __getattr__ = lazily(__name__, _HOMES)
