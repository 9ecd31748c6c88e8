"""Random draws: from every usable row, or from all rows of one format."""

from __future__ import annotations

from collections.abc import Collection
from zlib import crc32

import numpy as np
import pyarrow as pa

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.select_old._table import ScoredRows, checked_count
from ripcurrent.select_old._types import Selection

FORMATS: tuple[str, ...] = ("list", "bullet", "numbered", "maths", "code")
"""Response formats that rows can be drawn from; each is the column ``is_<format>``."""


def generator(seed: int, purpose: str) -> np.random.Generator:
    """A random stream of its own for each purpose, so that draws of one seed do not depend on one another."""
    if seed < 0:
        raise RipcurrentError(f"Seed {seed} is negative.", "Give a whole number from 0 up.")
    return np.random.default_rng([seed, crc32(purpose.encode())])


def draw_random(table: pa.Table, k: int, seed: int, without: Collection[int] = ()) -> Selection:
    """``k`` rows of status ``ok`` drawn at random, each equally likely.

    Args:
        table: The scores table.
        k: Rows to draw; fewer come back, as a shortfall, where fewer are usable.
        seed: Equal seeds draw equal rows, whatever the order of the table.
        without: Row numbers that must not be drawn.

    Returns:
        The rows in the order drawn, without scores.

    Raises:
        RipcurrentError: No usable row is left.
    """
    scored = ScoredRows(table)
    pool = scored.pool(without)
    drawn = generator(seed, "random").permutation(pool)[: checked_count(k)]
    return Selection(
        name=f"random-{k}-seed-{seed}",
        kind="random",
        rule=f"{k} rows at random" + (" from outside the selection" if len(without) else "") + f", seed {seed}",
        column=None,
        indices=tuple(scored.rows[drawn].tolist()),
        scores=(),
        seed=seed,
        shortfall=k - len(drawn),
        notes=(f"only {len(drawn)} usable rows to draw from",) if len(drawn) < k else (),
    )


def draw_format(table: pa.Table, trait: str, k: int, seed: int) -> Selection:
    """``k`` rows drawn at random from all rows of one format (methods §4: all lists, all maths).

    Args:
        table: The scores table.
        trait: ``list`` (bulleted or numbered), ``bullet``, ``numbered``, ``maths`` or ``code``.
        k: Rows to draw; fewer come back, as a shortfall, where fewer have the format.
        seed: Equal seeds draw equal rows, whatever the order of the table.

    Raises:
        RipcurrentError: An unknown format, or one that no usable row has.
    """
    if trait not in FORMATS:
        raise RipcurrentError(f"There is no format {trait!r}.", f"Formats: {', '.join(FORMATS)}.")
    scored = ScoredRows(table)
    pool = np.flatnonzero(scored.ok & scored.flags(f"is_{trait}"))
    if len(pool) == 0:
        raise RipcurrentError(
            f"No usable row has the format {trait!r}.", "Draw another format.", code=ExitCode.NOT_MEASURED
        )
    drawn = generator(seed, f"format {trait}").permutation(pool)[: checked_count(k)]
    return Selection(
        name=f"{trait}-{k}-seed-{seed}",
        kind="format",
        rule=f"{k} rows at random from all {len(pool)} rows with is_{trait}, seed {seed}",
        column=None,
        indices=tuple(scored.rows[drawn].tolist()),
        scores=(),
        seed=seed,
        shortfall=k - len(drawn),
        notes=(f"only {len(drawn)} rows have this format",) if len(drawn) < k else (),
    )
