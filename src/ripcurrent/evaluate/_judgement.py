"""Whether a model tells harmful requests from benign ones that sound dangerous; its interval holds at the ends too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ripcurrent.evaluate._people import people_rate
from ripcurrent.statistics import Discrimination, FloatArray, Interval, discrimination


def judgement(harmful: FloatArray, benign: FloatArray) -> Discrimination | None:
    """Harmful requests refused against benign ones; None where there are none of either.

    Where all outcomes of a kind are equal the bootstrap has nothing to draw of it: then the distances of both rates to
    the ends of their own intervals are put together by their squares (Newcombe 1998, method 10).

    Args:
        harmful: Outcomes of refusal, shape ``(harmful prompts, seeds)``; prompts without a verdict are left out.
        benign: The same of benign prompts and the same runs.
    """
    harmful, benign = (table[np.isfinite(table).all(axis=1)] for table in (harmful, benign))
    if not (harmful.size and benign.size):
        return None
    found = discrimination(harmful, benign)
    rates = (found.harmful_refused, found.benign_refused)
    if not {0.0, 1.0}.intersection(rates):
        return found
    first, second = (bounds(table) for table in (harmful, benign))
    low = found.difference - np.hypot(rates[0] - first.low, second.high - rates[1])
    high = found.difference + np.hypot(first.high - rates[0], rates[1] - second.low)
    return replace(found, difference_interval=Interval(max(-1.0, float(low)), min(1.0, float(high))))


def bounds(table: FloatArray) -> Interval:
    """`people_rate`'s interval: Wilson's of one run and of equal outcomes, a two-level bootstrap of several seeds."""
    prompts, seeds = (places.ravel() for places in np.indices(table.shape))
    found = people_rate(table.ravel(), [f"{place:09d}" for place in prompts], seeds.tolist())
    return Interval(found.low, found.high)
