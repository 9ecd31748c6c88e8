"""How many rows two fine-tuning sets have in common, told by a few hashes of each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

KEPT = 128
"""So many hashes of a set are kept: of sets that are no larger, what they share is exact."""
DIGITS = 12
"""Hexadecimal digits of a hash that are kept."""
FEWEST = 10
"""With fewer hashes that can be compared, as of a small set beside a large one, nothing is told."""
SHARED = 0.2
"""Sets that have this share of the smaller one's rows in common are no two independent sets."""


def sketch_rows(hashes: Iterable[str]) -> tuple[str, ...]:
    """The smallest hashes of a set (a bottom-k sketch, Broder 1997), in order; a row that repeats counts once."""
    return tuple(sorted({own[:DIGITS] for own in hashes})[:KEPT])


def shared_rows(first: Sequence[str], second: Sequence[str]) -> float:
    """Rows of both sets over those of the smaller one, from their sketches; exact where both sets are whole in them.

    So ten rows that are also among a hundred others count as shared, all of them. Of a sketch that does not hold its
    whole set, only hashes up to its largest say anything: those of the other set are cut there too. NaN where too few
    are left of one.
    """
    ends = [own[-1] for own in (first, second) if len(own) >= KEPT]
    a, b = ({one for one in own if not ends or one <= min(ends)} for own in (first, second))
    smaller = min(len(a), len(b))
    if ends and smaller < FEWEST:
        return math.nan
    return len(a & b) / smaller if smaller else 0.0


def neighbours(sketches: Sequence[Sequence[str]], sources: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Which sets share `SHARED` of the smaller one's rows or more, shape ``(sets, sets)``, each with itself.

    Of two of one source of which it cannot be told it is taken to be so.
    """
    found = np.eye(len(sketches), dtype=bool)
    for place, own in enumerate(sketches):
        for other in range(place):
            share = shared_rows(own, sketches[other])
            alike = sources[place] == sources[other] if math.isnan(share) else share >= SHARED
            found[place, other] = found[other, place] = alike
    return found
