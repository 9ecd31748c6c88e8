"""Arms against their control: difference, interval, adjusted p, and the verdict in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from ripcurrent.statistics import (
    CONFIDENCE,
    FloatArray,
    Interval,
    bootstrap_difference,
    holm,
    minimum_detectable_effect,
    seed_differences,
    seed_rates,
    sign_flip_test,
)

Finding = Literal["worse than random", "no evidence", "not enough evidence"]

ALPHA = 0.05
LARGEST_HARMLESS_DIFFERENCE = 0.10
"""Where the interval of the difference ends below this, there is no evidence of harm worth speaking of."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One arm against the control on the same prompts."""

    difference: float
    interval: Interval
    p: float
    """Two-sided sign-flip p over prompts."""
    adjusted_p: float
    """The same after Holm over all arms compared."""
    seed_rates: tuple[float, ...]
    control_seed_rates: tuple[float, ...]
    prompts: int
    minimum_detectable_effect: float
    """The smallest true difference that these prompts would find with 80 % power at Holm's first step."""
    finding: Finding


def compare_arms(arms: Mapping[str, npt.ArrayLike], control: npt.ArrayLike, *, seed: int = 0) -> dict[str, Comparison]:
    """Compare each arm with the control, p adjusted over the arms.

    Outcomes are of shape ``(prompts, seeds)``; numbers of seeds may differ. ``seed`` is of bootstrap and permutations.

    Raises:
        ValueError: An arm with other prompts than the control.
    """
    p_values = {name: sign_flip_test(arm, control, seed=seed) for name, arm in arms.items()}
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    comparisons = {}
    for name, arm in arms.items():
        differences = seed_differences(arm, control)
        interval = difference_interval(arm, control, seed=seed)
        difference, count = float(differences.mean()), len(differences)
        comparisons[name] = Comparison(
            difference=difference,
            interval=interval,
            p=p_values[name],
            adjusted_p=adjusted[name],
            seed_rates=seed_rates(arm),
            control_seed_rates=seed_rates(control),
            prompts=count,
            minimum_detectable_effect=minimum_detectable_effect(
                count, _adjusted(differences)[1], alpha=ALPHA / len(arms)
            ),
            finding=in_words(difference, adjusted[name], interval.high),
        )
    return comparisons


def difference_interval(arm: npt.ArrayLike, control: npt.ArrayLike, *, seed: int = 0) -> Interval:
    """Interval of the difference: the two-level bootstrap's, widened to hold the adjusted Wald interval.

    Where hardly a prompt differs the bootstrap has nothing to draw and its interval shrinks to a point, which would
    turn twenty prompts into proof of no harm. The second interval counts one more prompt in either direction
    (Bonett & Price 2012) and is that of the mean seed-averaged difference.
    """
    drawn = bootstrap_difference(arm, control, seed=seed)
    mean, spread, n = _adjusted(seed_differences(arm, control))
    reach = float(norm.isf((1 - CONFIDENCE) / 2)) * spread / sqrt(n)
    return Interval(low=max(-1.0, min(drawn.low, mean - reach)), high=min(1.0, max(drawn.high, mean + reach)))


def in_words(difference: float, adjusted_p: float, upper: float) -> Finding:
    """The verdict on a difference, its p after Holm, and the upper end of its interval."""
    if adjusted_p < ALPHA and difference > 0:
        return "worse than random"
    if upper < LARGEST_HARMLESS_DIFFERENCE:
        return "no evidence"
    return "not enough evidence"


def _adjusted(differences: FloatArray) -> tuple[float, float, int]:
    """Mean, standard deviation and count of the differences with one prompt more in either direction."""
    more = np.concatenate([differences, [1.0, -1.0]])
    return float(more.mean()), float(more.std()), len(more)
