"""The rows that a scan's page holds in full: which ones, their texts, their nearest anchors."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ripcurrent.errors import RipcurrentError
from ripcurrent.report._summary import Bools, Indices
from ripcurrent.scan import ScanRun

WHOLE_TABLE_ROWS = 1_500
END_GROUP_ROWS = 500
SAMPLE_ROWS = 300
UNSCORED_ROWS = 200
NEAREST_PER_SET = 2
SAMPLE_SEED = 0
TEXT_BUDGET_BYTES = 1_300_000
ROW_BUDGET_BYTES = 2_400


@dataclass(frozen=True, slots=True)
class ShownRows:
    """The rows that the page holds, in input order."""

    indices: Indices
    """Their numbers, ascending, shape ``(shown,)``."""
    groups: tuple[str, ...]
    """Why each is there: ``riskiest``, ``safest``, ``sample``, ``unscored``; ``all`` where every row is."""
    ranks: tuple[int | None, ...]
    """1-based rank of each among the rows that the ranking has, riskiest first; None for others."""
    whole: bool
    """Whether every row of the table is shown."""


class Clip(NamedTuple):
    """The head of a text, and the length of the whole in characters."""

    text: str
    characters: int


Texts = Mapping[int, tuple[Clip, Clip]]
"""Prompt and response of a row, by its number."""


def choose_shown_rows(ranked: Indices, scored: Bools) -> ShownRows:
    """Choose the rows for the page: all of a small table; of a large one both ends, a sample and unscored rows.

    Args:
        ranked: Numbers of the ranked rows, riskiest first.
        scored: Whether a row's status is ok, shape ``(rows,)``.
    """
    rank = np.zeros(len(scored), dtype=np.int64)
    rank[ranked] = np.arange(1, len(ranked) + 1)
    if len(scored) <= WHOLE_TABLE_ROWS:
        chosen = dict.fromkeys(range(len(scored)), "all")
    else:
        end = min(END_GROUP_ROWS, len(ranked) // 2)
        riskiest, safest = ranked[:end].tolist(), ranked[len(ranked) - end :].tolist()
        middle = np.concatenate([ranked[end : len(ranked) - end], np.flatnonzero(scored & (rank == 0))])
        sample = np.random.default_rng(SAMPLE_SEED).choice(middle, min(SAMPLE_ROWS, len(middle)), replace=False)
        chosen = dict.fromkeys(np.flatnonzero(~scored)[:UNSCORED_ROWS].tolist(), "unscored")
        chosen |= dict.fromkeys(sample.tolist(), "sample")
        chosen |= dict.fromkeys(safest, "safest") | dict.fromkeys(riskiest, "riskiest")
    indices = sorted(chosen)
    return ShownRows(
        np.array(indices, dtype=np.int64),
        tuple(chosen[index] for index in indices),
        tuple(int(rank[index]) or None for index in indices),
        len(indices) == len(scored),
    )


def nearest_anchors(run: ScanRun, indices: Indices) -> list[list[tuple[int, float]]] | None:
    """For each row its two nearest anchors of every set, as ``(place in the anchors' order, cosine)``, nearest first.

    Cosines are those of the representations. A row without them has an empty list; None where the run kept none at all.
    """
    sets: dict[str, list[int]] = {}
    for place, (name, _) in enumerate(run.manifest.anchors.order):
        sets.setdefault(name, []).append(place)
    nearest: dict[int, list[tuple[int, float]]] = {}
    for rows, cosines in run.cosines():
        for at in np.flatnonzero(np.isin(rows, indices)).tolist():
            nearest[int(rows[at])] = _nearest(cosines[at], list(sets.values()))
    return [nearest.get(index, []) for index in indices.tolist()] if nearest else None


def _nearest(cosines: npt.NDArray[np.float32], sets: list[list[int]]) -> list[tuple[int, float]]:
    if not np.isfinite(cosines).all():
        return []
    chosen = [p for members in sets for p in sorted(members, key=lambda p: -cosines[p])[:NEAREST_PER_SET]]
    return [(p, round(float(cosines[p]), 3)) for p in sorted(chosen, key=lambda p: -cosines[p])]


def read_row_texts(run: ScanRun, indices: Indices) -> tuple[Texts, str]:
    """Prompt and response of the rows, clipped so that the page stays small, and why there are none.

    A dataset that was edited since the scan must not put other words beside a score. One that is gone, changed or
    cannot be read costs the texts, not the page.
    """
    budget = min(ROW_BUDGET_BYTES, TEXT_BUDGET_BYTES // max(1, len(indices)))
    texts: dict[int, tuple[Clip, Clip]] = {}
    try:
        for row in run.dataset().at(indices.tolist()):
            prompt = clip_text(row.prompt, budget // 3)
            texts[row.index] = prompt, clip_text(row.response, budget - _cost(prompt.text))
    except RipcurrentError as error:
        return {}, f"Rows are shown by number and id, without their text. {error.message}"
    return texts, ""


def clip_text(text: str, budget: int) -> Clip:
    """The head of a text that takes at most ``budget`` bytes in the page; what is not valid Unicode becomes ``?``."""
    head = text[:budget].encode("utf-8", "replace").decode()
    while (cost := _cost(head)) > budget:
        head = head[: min(len(head) - 1, len(head) * budget // cost)]
    return Clip(head, len(text))


def _cost(text: str) -> int:
    escaped = json.dumps(text, ensure_ascii=False)
    return len(escaped.encode()) - 2 + 5 * escaped.count("<")
