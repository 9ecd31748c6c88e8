"""Selections of rows by score, and the controls that stand beside them."""

from ripcurrent.select_old._controls import controls_for
from ripcurrent.select_old._draw import FORMATS, draw_format, draw_random
from ripcurrent.select_old._match import FORMAT_TRAITS, distance, match_format, match_length, match_loss
from ripcurrent.select_old._rank import between, between_quantiles, bottom, highest, lowest, top
from ripcurrent.select_old._summary import overlap, summarise
from ripcurrent.select_old._types import Distance, Kind, Overlap, Selection, SelectionRecord, Spread, Summary
from ripcurrent.select_old._union import CosineBatch, read_cosines, union_per_anchor
from ripcurrent.select_old._write import RowSource, plain_numbers, read_scores, write_selection

__all__ = [
    "FORMATS",
    "FORMAT_TRAITS",
    "CosineBatch",
    "Distance",
    "Kind",
    "Overlap",
    "RowSource",
    "Selection",
    "SelectionRecord",
    "Spread",
    "Summary",
    "between",
    "between_quantiles",
    "bottom",
    "controls_for",
    "distance",
    "draw_format",
    "draw_random",
    "highest",
    "lowest",
    "match_format",
    "match_length",
    "match_loss",
    "overlap",
    "plain_numbers",
    "read_cosines",
    "read_scores",
    "summarise",
    "top",
    "union_per_anchor",
    "write_selection",
]
