"""The controls that stand beside every selection (methods §7): always computed, never optional."""

from collections.abc import Sequence
from dataclasses import replace

from ripcurrent.errors import RipcurrentError
from ripcurrent.scan import ScanRun
from ripcurrent.select._match import as_control, match_format, match_length, match_loss
from ripcurrent.select._rules import random, rank_by_risk
from ripcurrent.select._types import Kind, Selection


def controls_for(
    run: ScanRun, selection: Selection, seeds: Sequence[int] = (0, 1, 2), *, losses: bool = False
) -> tuple[Selection, ...]:
    """Every control of a selection, none of which holds a row of the selection.

    For each seed a random draw, a length-matched and a format-matched draw; then the other end of the ranking: the most
    protective rows, or of ``bottom`` the riskiest. Each carries its distance from the selection in response tokens.

    Args:
        run: The scan.
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
    controls: list[Selection] = []
    for seed in seeds:
        drawn = random(run, len(selection.indices), seed, without=selection.indices)
        controls.append(as_control(run, selection, replace(drawn, name=f"random-{seed}")))
        controls.append(match_length(run, selection, seed))
        controls.append(match_format(run, selection, seed))
        if losses:
            controls.append(match_loss(run, selection, seed))
    return (*controls, _other_end(run, selection))


def _other_end(run: ScanRun, selection: Selection) -> Selection:
    column = selection.column or run.default_ranking
    # A column without a risk direction uses the default ranking's opposite end.
    by = column if run.risk_direction(column) != "none" else run.default_ranking
    kind: Kind = "top" if selection.kind == "bottom" else "bottom"
    ranked = rank_by_risk(run, kind, len(selection.indices), by, without=selection.indices)
    if not ranked.indices:
        raise RipcurrentError(
            f"No row with a score by {ranked.column} is left outside the selection for its control, the other end of "
            "the ranking.",
            f"Select fewer than {len(selection.indices)} rows.",
        )
    return as_control(run, selection, replace(ranked, name=ranked.kind))
