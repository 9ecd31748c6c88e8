"""The controls that stand beside every selection (methods §7): always computed, never optional."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from ripcurrent.errors import RipcurrentError
from ripcurrent.select_old._draw import draw_random
from ripcurrent.select_old._match import as_control, match_format, match_length, match_loss
from ripcurrent.select_old._rank import rank_by_risk, rank_by_value
from ripcurrent.select_old._table import ScoredRows
from ripcurrent.select_old._types import Selection


def controls_for(
    table: pa.Table, selection: Selection, seeds: Sequence[int] = (0, 1, 2), *, losses: bool = False
) -> tuple[Selection, ...]:
    """Every control of a selection, none of which holds a row of the selection.

    For each seed a random draw, a length-matched and a format-matched draw; then the other end of the ranking: the most
    protective rows (of a ``bottom`` the riskiest, of ``highest`` the lowest and the reverse). Each carries its
    distance from the selection in response tokens.

    Args:
        table: The scores table.
        selection: What the controls stand beside.
        seeds: One set of random controls each; three or more to see the spread between draws.
        losses: Also match by ``loss`` and ``loss_first_10``, which needs a scan with gradients.

    Raises:
        RipcurrentError: No seed, one seed twice, or no usable row left outside the selection.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise RipcurrentError(
            "Controls need at least one seed, each only once.", "Leave --seed out for the usual 0, 1 and 2."
        )
    scored = ScoredRows(table)
    controls: list[Selection] = []
    for seed in seeds:
        drawn = draw_random(table, len(selection.indices), seed, without=selection.indices)
        controls.append(as_control(scored, selection, replace(drawn, name=f"random-{seed}")))
        controls.append(match_length(table, selection, seed))
        controls.append(match_format(table, selection, seed))
        if losses:
            controls.append(match_loss(table, selection, seed))
    return (*controls, _other_end(scored, selection))


def _other_end(scored: ScoredRows, selection: Selection) -> Selection:
    k, outside = len(selection.indices), selection.indices
    column = selection.column or scored.default_ranking
    if selection.kind == "highest":
        ranked = rank_by_value(scored, "lowest", k, column, without=outside)
    elif selection.kind == "lowest":
        ranked = rank_by_value(scored, "highest", k, column, without=outside)
    else:
        # A range of a column that ranks no risk has no protective end: the run's default ranking has one.
        by = column if scored.direction(column) != "none" else scored.default_ranking
        ranked = rank_by_risk(scored, "top" if selection.kind == "bottom" else "bottom", k, by, without=outside)
    if not ranked.indices:
        raise RipcurrentError(
            f"No row with a score by {ranked.column} is left outside the selection for its control, the other end of "
            "the ranking.",
            f"Select fewer than {k} rows.",
        )
    return as_control(scored, selection, replace(ranked, name=ranked.kind))
