"""A selection against the whole dataset and against other selections."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from ripcurrent.scan._columns import TRAIT_COLUMNS
from ripcurrent.select_old._table import ScoredRows
from ripcurrent.select_old._types import FloatArray, Overlap, Selection, Spread, Summary
from ripcurrent.statistics import quantiles


def summarise(table: pa.Table, selection: Selection, others: Iterable[Selection] = ()) -> Summary:
    """Format shares, lengths and scores of a selection beside those of the whole, and its overlap with others.

    Args:
        table: The scores table; the whole is its rows of status ``ok``.
        selection: The rows to describe.
        others: Selections to compare with; the selection itself among them is skipped.
    """
    scored = ScoredRows(table)
    chosen, whole = scored.positions(selection.indices), np.flatnonzero(scored.ok)
    column = selection.column or scored.default_ranking
    values, lengths = scored.scores(column), scored.numbers("response_tokens")
    flags = {trait: scored.flags(trait) for trait in TRAIT_COLUMNS if trait in table.column_names}
    return Summary(
        rows=len(chosen),
        whole_rows=len(whole),
        format_shares={trait: float(flag[chosen].mean()) for trait, flag in flags.items()},
        whole_format_shares={trait: float(flag[whole].mean()) for trait, flag in flags.items()},
        length=_spread(lengths[chosen]),
        whole_length=_spread(lengths[whole]),
        score_column=column,
        score_quantiles=quantiles(values[chosen]),
        whole_score_quantiles=quantiles(values[whole]),
        overlaps=tuple(overlap(selection, other) for other in others if other.name != selection.name),
    )


def overlap(selection: Selection, other: Selection) -> Overlap:
    """Rows that two selections share."""
    mine, theirs = set(selection.indices), set(other.indices)
    shared = len(mine & theirs)
    return Overlap(name=other.name, count=shared, jaccard=shared / (len(mine | theirs) or 1))


def _spread(values: FloatArray) -> Spread:
    at = quantiles(values, (0.25, 0.5, 0.75))
    finite = values[np.isfinite(values)]
    return Spread(
        mean=float(finite.mean()) if len(finite) else float("nan"),
        lower_quartile=at[0.25],
        median=at[0.5],
        upper_quartile=at[0.75],
    )
