"""Selections by rank: riskiest, most protective, highest, lowest, and ranges of a score."""

from __future__ import annotations

from collections.abc import Collection
from math import inf

import numpy as np
import pyarrow as pa

from ripcurrent.errors import RipcurrentError
from ripcurrent.select_old._table import ScoredRows, checked_count
from ripcurrent.select_old._types import IntArray, Kind, Selection


def top(table: pa.Table, k: int, by: str | None = None) -> Selection:
    """The ``k`` riskiest rows by a column's own direction of risk.

    Args:
        table: The scores table.
        k: Rows to take; fewer come back, as a shortfall, where fewer are scored.
        by: A column whose direction of risk is ``higher`` or ``lower``; the run's default ranking unless named.

    Returns:
        The rows, riskiest first; equal scores in the order of their row numbers.

    Raises:
        RipcurrentError: An unknown column, a column that ranks no risk, or one without any score.
    """
    return rank_by_risk(ScoredRows(table), "top", k, by)


def bottom(table: pa.Table, k: int, by: str | None = None) -> Selection:
    """The ``k`` most protective rows, most protective first; otherwise as :func:`top`."""
    return rank_by_risk(ScoredRows(table), "bottom", k, by)


def highest(table: pa.Table, k: int, by: str | None = None) -> Selection:
    """The ``k`` rows of largest value in any numeric column, largest first; otherwise as :func:`top`."""
    return rank_by_value(ScoredRows(table), "highest", k, by)


def lowest(table: pa.Table, k: int, by: str | None = None) -> Selection:
    """The ``k`` rows of smallest value in any numeric column, smallest first; otherwise as :func:`top`."""
    return rank_by_value(ScoredRows(table), "lowest", k, by)


def between(table: pa.Table, by: str | None = None, low: float | None = None, high: float | None = None) -> Selection:
    """The rows whose value lies in ``[low, high]``, riskiest first (of a column that ranks no risk, highest first).

    Args:
        table: The scores table.
        by: Any numeric column; the run's default ranking unless named.
        low: Smallest value taken; None leaves this end open.
        high: Largest value taken; None leaves this end open.

    Raises:
        RipcurrentError: An unknown column, one without any score, ``low`` above ``high``, or no row in the range.
    """
    scored = ScoredRows(table)
    column = by or scored.default_ranking
    least, most = -inf if low is None else low, inf if high is None else high
    ends = ("min" if low is None else f"{low:g}", "max" if high is None else f"{high:g}")
    # 1e+06 is no part of a file's name
    name = f"between-{ends[0]}-{ends[1]}".replace("+", "")
    return _within(scored, column, least, most, name, f"rows whose {column} lies in [{least!r}, {most!r}]")


def between_quantiles(table: pa.Table, by: str | None = None, low: float = 0.0, high: float = 1.0) -> Selection:
    """The rows between two quantiles of a column, both ends taken; otherwise as :func:`between`.

    Args:
        table: The scores table.
        by: Any numeric column; the run's default ranking unless named.
        low: Probability in [0, 1] of the lower end, among the rows that have a score.
        high: Probability in [0, 1] of the upper end.
    """
    scored = ScoredRows(table)
    column = by or scored.default_ranking
    if not 0.0 <= low <= high <= 1.0:
        raise RipcurrentError(
            f"Quantiles {low:g} to {high:g} are not a range.", "Give two numbers from 0 to 1, the lower one first."
        )
    ends = np.nanquantile(scored.scores(column), [low, high])
    rule = f"rows whose {column} lies between its quantiles {low!r} and {high!r}"
    return _within(scored, column, float(ends[0]), float(ends[1]), f"quantiles-{low:g}-{high:g}", rule)


def rank_by_risk(scored: ScoredRows, kind: Kind, k: int, by: str | None, without: Collection[int] = ()) -> Selection:
    """:func:`top` or :func:`bottom` among the rows that ``without`` does not name."""
    column = by or scored.default_ranking
    direction = scored.direction(column)
    if direction == "none":
        raise RipcurrentError(
            f"Column {column!r} ranks no risk: neither of its ends is the riskier one.",
            f"Say which end you want: --highest {k} --by {column}, or --lowest {k} --by {column}.",
        )
    descending = (direction == "higher") == (kind == "top")
    which = "riskiest" if kind == "top" else "most protective"
    rule = f"the {{k}} {which} rows by {column} ({direction} is riskier)"
    return _take(scored, kind, k, column, descending, rule, without)


def rank_by_value(scored: ScoredRows, kind: Kind, k: int, by: str | None, without: Collection[int] = ()) -> Selection:
    """:func:`highest` or :func:`lowest` among the rows that ``without`` does not name."""
    column = by or scored.default_ranking
    rule = f"the {{k}} rows of {kind} {column}"
    return _take(scored, kind, k, column, kind == "highest", rule, without)


def ranked_positions(scored: ScoredRows, column: str, *, descending: bool) -> IntArray:
    """Positions of the rows that have a score, in rank order, ties by row number."""
    values = scored.scores(column)
    # A stable sort of arrays that stand in row order breaks ties by row number in both directions.
    order = np.argsort(-values if descending else values, kind="stable")
    return order[: np.count_nonzero(~np.isnan(values))].astype(np.int64)


def riskiest_first(scored: ScoredRows, column: str) -> bool:
    """True where rank order of a column is descending: all but the columns whose lower end is riskier."""
    return scored.direction(column) != "lower"


def _take(
    scored: ScoredRows, kind: Kind, k: int, column: str, descending: bool, rule: str, without: Collection[int]
) -> Selection:
    checked_count(k)
    order = ranked_positions(scored, column, descending=descending)
    if len(without):
        order = order[~np.isin(order, scored.positions(without))]
    taken = order[:k]
    scores = scored.scores(column)
    suffix = "" if column == scored.default_ranking else f"-{column}"
    edge: tuple[str, ...] = ()
    if 0 < len(taken) < len(order) and scores[order[len(taken)]] == scores[taken[-1]]:
        edge = ("the last score taken is tied with rows left out; the lower row numbers were taken",)
    return Selection(
        name=f"{kind}-{k}{suffix}",
        kind=kind,
        rule=rule.format(k=k) + (", among the rows outside the selection" if len(without) else ""),
        column=column,
        indices=tuple(scored.rows[taken].tolist()),
        scores=tuple(scores[taken].tolist()),
        shortfall=k - len(taken),
        notes=edge + ((f"only {len(taken)} rows could be ranked",) if len(taken) < k else ()),
    )


def _within(scored: ScoredRows, column: str, low: float, high: float, name: str, rule: str) -> Selection:
    if not low <= high:
        raise RipcurrentError(f"The range {low:g} to {high:g} of {column} is empty.", "Give the lower end first.")
    scores = scored.scores(column)
    order = ranked_positions(scored, column, descending=riskiest_first(scored, column))
    taken = order[(scores[order] >= low) & (scores[order] <= high)]
    if len(taken) == 0:
        raise RipcurrentError(
            f"No row's {column} lies between {low:g} and {high:g}.",
            f"It runs from {np.nanmin(scores):.6g} to {np.nanmax(scores):.6g}.",
        )
    return Selection(
        name=name + ("" if column == scored.default_ranking else f"-{column}"),
        kind="between",
        rule=rule,
        column=column,
        indices=tuple(scored.rows[taken].tolist()),
        scores=tuple(scores[taken].tolist()),
    )
