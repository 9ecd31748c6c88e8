"""Agreement between raters: Cohen's κ and Krippendorff's α, with intervals over prompts."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from ripcurrent.statistics import DRAWS, FloatArray, Interval, percentiles


def by_prompt(
    statistic: Callable[[FloatArray], FloatArray], tables: FloatArray, prompts: Sequence[str], *, seed: int = 0
) -> tuple[float, Interval]:
    """A statistic of the sum of all items' tables, and its bootstrap interval.

    Answers to one prompt err alike, so prompts are drawn, each with all its items. With fewer than two prompts the
    interval is NaN.

    Args:
        statistic: From tables of shape ``(…, values, values)`` to numbers, NaN where it is not defined.
        tables: Of each item.
        prompts: The prompt of each item.
        seed: Seed of the bootstrap.
    """
    names, owner = np.unique(list(prompts), return_inverse=True)
    own = np.zeros((len(names), *tables.shape[1:]))
    np.add.at(own, owner, tables)
    value = float(statistic(own.sum(axis=0)))
    if len(names) < 2:
        return value, Interval(np.nan, np.nan)
    # those with the same table are drawn together
    alike, counts = np.unique(own, axis=0, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(names), counts / len(names), DRAWS)
    values = statistic(np.tensordot(drawn.astype(np.float64), alike, axes=1))
    return value, percentiles(values[np.isfinite(values)])


def cohen_kappa(table: FloatArray) -> FloatArray:
    """Cohen's κ of counts by two raters, shape ``(…, labels, labels)``; NaN where chance agrees in all.

    Source: Cohen, "A coefficient of agreement for nominal scales" (1960).
    """
    total = table.sum(axis=(-2, -1))
    with np.errstate(invalid="ignore"):
        observed = np.trace(table, axis1=-2, axis2=-1) / total
        left = 1 - (table.sum(axis=-1) * table.sum(axis=-2)).sum(axis=-1) / total**2
        kappa: FloatArray = np.where(left > 1e-12, 1 - (1 - observed) / np.where(left > 1e-12, left, 1), np.nan)
    return kappa


def kappa(
    first: Sequence[int], second: Sequence[int], labels: int, prompts: Sequence[str], *, seed: int = 0
) -> tuple[float, Interval]:
    """Cohen's κ of two raters' labels, each a number below ``labels``, and its interval over prompts."""
    tables = np.zeros((len(first), labels, labels))
    tables[np.arange(len(first)), first, second] = 1
    return by_prompt(cohen_kappa, tables, prompts, seed=seed)


def coincidences(counts: FloatArray) -> FloatArray:
    """Pairs of values given to an item, shape ``(items, values, values)``, each rater weighing one in an item.

    ``counts`` are raters per value, shape ``(items, values)``, two raters or more for each item.
    """
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(counts.shape[1])
    weighted: FloatArray = pairs / (counts.sum(axis=1) - 1)[:, None, None]
    return weighted


def krippendorff_alpha(pairs: FloatArray, level: Literal["ordinal", "nominal"]) -> FloatArray:
    """Krippendorff's α: 1 for raters who always agree, 0 for agreement by chance; NaN where one value alone was given.

    Source: Krippendorff, Content Analysis (chapter on reliability). ``pairs`` are summed `coincidences`, shape
    ``(…, values, values)``, values in order. ``nominal``: values differ or not; ``ordinal``: by how many ratings lie
    between them.
    """
    given = pairs.sum(axis=-1)
    distance = 1.0 - np.eye(pairs.shape[-1])
    if level == "ordinal":
        middles = np.cumsum(given, axis=-1) - given / 2
        distance = (middles[..., :, None] - middles[..., None, :]) ** 2
    by_chance = given[..., :, None] * given[..., None, :] / np.maximum(given.sum(axis=-1) - 1, 1)[..., None, None]
    observed, chance = ((table * distance).sum(axis=(-2, -1)) for table in (pairs, by_chance))
    alpha: FloatArray = np.where(chance > 0, 1 - observed / np.where(chance > 0, chance, 1), np.nan)
    return alpha
