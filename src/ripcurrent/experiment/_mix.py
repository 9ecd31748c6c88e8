"""Sets mixed of both ends of a ranking and of random rows: scores between those of pure selections."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment._config import Mix
from ripcurrent.select_old import Selection, bottom, top
from ripcurrent.select_old._draw import generator
from ripcurrent.select_old._table import ScoredRows


def mix_rows(table: pa.Table, mix: Mix, by: str | None, k: int, seed: int) -> Selection:
    """``k`` rows: the riskiest, the most protective, and the rest at random of all others.

    Args:
        table: The scores.
        mix: Percent of either end.
        by: The column that ranks; the default ranking when left out.
        k: Rows in all.
        seed: Decides the random rows.

    Raises:
        RipcurrentError: A column that cannot rank, fewer usable rows than ``k``, or ends that would overlap.
    """
    scored = ScoredRows(table)
    usable = scored.rows[scored.ok]
    if k > len(usable):
        raise RipcurrentError(f"{k} rows cannot be mixed of {len(usable)} usable ones.", "Give a smaller size.")
    counts = {"top": round(k * mix.top / 100), "bottom": round(k * mix.bottom / 100)}
    counts["bottom"] = min(counts["bottom"], k - counts["top"])
    ends = {"top": top, "bottom": bottom}
    chosen = [ends[end](table, count, by) for end, count in counts.items() if count]
    fixed = [row for one in chosen for row in one.indices]
    column = by or scored.default_ranking
    if len(set(fixed)) < sum(counts.values()):
        raise RipcurrentError(
            f"{counts['top']} riskiest and {counts['bottom']} most protective rows cannot be taken of the "
            f"{len(set(fixed))} that have a {column}.",
            "Give a smaller size, or a column that every row has.",
        )
    left = np.setdiff1d(usable, fixed)
    drawn = generator(seed, "mix").permutation(left)[: k - len(fixed)].tolist()
    rows = sorted([*fixed, *drawn])
    return Selection(
        "mix",
        "mix",
        f"{counts['top']} riskiest and {counts['bottom']} most protective rows by {column}, "
        f"{len(drawn)} others at random, seed {seed}",
        column if chosen else None,
        tuple(rows),
        tuple(scored.scores(column)[scored.positions(rows)].tolist()) if chosen else (),
        seed=seed,
    )
