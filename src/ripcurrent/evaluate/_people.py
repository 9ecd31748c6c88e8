"""People as judges: how far raters agree with each other, how far judges agree with them, and people's rates.

Ratings are a table of shape ``(raters, items)``, NaN where a rater gave none or could not say. Answers to one prompt
are alike, so every bootstrap draws prompts anew, each with all its items.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ripcurrent.evaluate._ratings import RaterFile
from ripcurrent.evaluate._validate import cohen_kappa
from ripcurrent.statistics import CONFIDENCE, FloatArray, Interval, wilson_interval

DRAWS = 2_000
"""Bootstrap draws of an agreement's interval."""
RATE_DRAWS = 10_000
"""Bootstrap draws of a rate's interval over seeds."""
_UNKNOWN = Interval(float("nan"), float("nan"))


@dataclass(frozen=True, slots=True)
class RaterAgreement:
    """Krippendorff's α between raters."""

    alpha: float
    """1 is perfect agreement, 0 that of chance; NaN where it is not defined: see ``undefined``."""
    low: float
    """Lower end of its bootstrap interval over prompts; NaN with one prompt."""
    high: float
    """Upper end."""
    items: int
    """Items that two raters or more rated: the others say nothing of agreement."""
    undefined: str | None = None
    """Why there is no α, in words."""


@dataclass(frozen=True, slots=True)
class JudgeAgreement:
    """How far one judge agrees with people, complied against not."""

    kappa: float
    """Cohen's κ; NaN where people and judge give all answers one and the same label."""
    low: float
    """Lower end of its bootstrap interval over prompts; NaN with one prompt."""
    high: float
    """Upper end."""
    accuracy: float
    """Share of answers with the people's label."""
    n: int
    """Answers that both have a label for."""
    without_label: int
    """Answers that people labelled and the judge did not."""


@dataclass(frozen=True, slots=True)
class PeopleRate:
    """The share of one arm's rated answers that complied, by people or by one judge."""

    rate: float
    """Over all answers with a label."""
    low: float
    """Lower end: Wilson's interval for one seed, two-level bootstrap for several."""
    high: float
    """Upper end."""
    n: int
    """Answers with a label."""
    prompts: int
    """Their prompts."""
    seed_rates: tuple[float, ...]
    """The rate of each seed, NaN for one without a label."""


def rating_table(files: Sequence[RaterFile], items: Sequence[str]) -> FloatArray:
    """Ratings of shape ``(raters, items)``; NaN where there is none and where the rater could not say."""
    rows = [[file.ratings.get(item) for item in items] for file in files]
    return np.array(
        [[np.nan if value is None or isinstance(value, str) else float(value) for value in row] for row in rows]
    )


def between_raters(
    table: FloatArray, prompts: Sequence[str], *, complied_from: int, seed: int = 0
) -> tuple[RaterAgreement, RaterAgreement]:
    """Krippendorff's α, ordinal over the ratings and nominal over complied or not, with intervals over prompts.

    Source: Krippendorff, Content Analysis (chapter on reliability).

    Args:
        table: Ratings, shape ``(raters, items)``.
        prompts: The prompt of each item, which the bootstrap draws.
        complied_from: The lowest rating that complied.
        seed: Seed of the bootstrap.
    """
    steps = np.arange(1, 6)
    ratings = (table[:, :, None] == steps).sum(axis=0)
    complied = np.stack(
        [ratings[:, : complied_from - 1].sum(axis=1), ratings[:, complied_from - 1 :].sum(axis=1)], axis=1
    )
    return _alpha(ratings, prompts, "ordinal", seed), _alpha(complied, prompts, "nominal", seed)


def krippendorff_alpha(counts: npt.NDArray[np.int64], level: Literal["ordinal", "nominal"]) -> float:
    """Krippendorff's α: 1 for raters who always agree, 0 for agreement by chance; NaN where one value alone was given.

    Source: Krippendorff, Content Analysis (chapter on reliability), in coincidences.

    Args:
        counts: Raters per value, shape ``(items, values)``, values in order; each item rated twice or more.
        level: ``nominal``: values differ or not; ``ordinal``: by how many ratings lie between them.
    """
    raters = counts.sum(axis=1, keepdims=True)
    coincidences = (counts / (raters - 1)).T @ counts - np.diag((counts / (raters - 1)).sum(axis=0))
    given = coincidences.sum(axis=0)
    if level == "nominal":
        distance = 1.0 - np.eye(len(given))
    else:
        middles = np.cumsum(given) - given / 2
        distance = (middles[:, None] - middles) ** 2
    chance = (np.outer(given, given) * distance).sum() / (given.sum() - 1)
    return float(1 - (coincidences * distance).sum() / chance) if chance > 0 else np.nan


def people_labels(table: FloatArray, complied_from: int) -> FloatArray:
    """1 where people say that the answer complied, 0 where not, NaN where no one rated it; shape ``(items,)``.

    The median of the ratings decides. With an odd number of raters that is the majority; where an even number is split,
    how far each side leans decides: 2 and 4 is 3, 1 and 4 is 2.5.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an item that no one rated has no median, and is NaN
        median = np.nanmedian(table, axis=0)
    labels: FloatArray = np.where(np.isnan(median), np.nan, (median >= complied_from).astype(np.float64))
    return labels


def split_items(table: FloatArray, complied_from: int) -> int:
    """How many items as many raters call complied as not."""
    complied = (table >= complied_from).sum(axis=0)
    rated = np.isfinite(table).sum(axis=0)
    return int(((rated > 0) & (2 * complied == rated)).sum())


def judge_agreement(people: FloatArray, judge: FloatArray, prompts: Sequence[str], *, seed: int = 0) -> JudgeAgreement:
    """How far a judge agrees with people.

    Args:
        people: `people_labels`, shape ``(items,)``.
        judge: The judge's labels likewise, NaN where it gave none.
        prompts: The prompt of each item, which the bootstrap draws.
        seed: Seed of the bootstrap.
    """
    both = np.isfinite(people) & np.isfinite(judge)
    without = int((np.isfinite(people) & ~np.isfinite(judge)).sum())
    if not both.any():
        return JudgeAgreement(np.nan, np.nan, np.nan, np.nan, 0, without)
    first, second = people[both], judge[both]
    of_items = [prompt for prompt, kept in zip(prompts, both, strict=True) if kept]
    interval = _bootstrap(lambda drawn: cohen_kappa(first[drawn], second[drawn]), of_items, seed)
    return JudgeAgreement(
        kappa=cohen_kappa(first, second),
        low=interval.low,
        high=interval.high,
        accuracy=float((first == second).mean()),
        n=int(both.sum()),
        without_label=without,
    )


def people_rate(
    labels: FloatArray, prompts: Sequence[str], seeds: Sequence[int | None], *, seed: int = 0
) -> PeopleRate:
    """The share of an arm's answers that complied, over those that have a label.

    One seed has Wilson's interval. Several have the two-level bootstrap of `bootstrap_rate`, which here also bears a
    table with holes (answers not drawn, or without a label): a draw's rate is over the answers it holds. Where all
    answers have one label the bootstrap has nothing to draw, and the interval is Wilson's over the prompts.

    Args:
        labels: 1, 0 or NaN for each item of the arm; all NaN gives a rate of NaN.
        prompts: The prompt of each item.
        seeds: The seed of each item.
        seed: Seed of the bootstrap.
    """
    names, of_seeds = sorted(set(prompts)), sorted(set(seeds), key=lambda number: -1 if number is None else number)
    table = np.full((len(names), len(of_seeds)), np.nan)
    for label, prompt, number in zip(labels, prompts, seeds, strict=True):
        table[names.index(prompt), of_seeds.index(number)] = label
    there = np.isfinite(table)
    n, filled = int(there.sum()), np.where(there, table, 0.0)
    labelled = int(there.any(axis=1).sum())
    columns = there.sum(axis=0)
    by_seed = tuple(float(filled[:, at].sum() / count) if count else np.nan for at, count in enumerate(columns))
    if n == 0:
        return PeopleRate(np.nan, np.nan, np.nan, 0, 0, by_seed)
    rate = float(filled.sum() / n)
    if (columns > 0).sum() == 1 or rate in (0.0, 1.0):
        interval = wilson_interval(round(rate * labelled), labelled)
    else:
        generator = np.random.default_rng(seed)
        drawn_prompts, drawn_seeds = (
            generator.multinomial(count, np.full(count, 1 / count), size=RATE_DRAWS) / count for count in table.shape
        )
        share = ((drawn_prompts @ there) * drawn_seeds).sum(axis=1)
        held = share > 0
        interval = _percentiles(((drawn_prompts @ filled) * drawn_seeds).sum(axis=1)[held] / share[held])
    return PeopleRate(rate, interval.low, interval.high, n, labelled, by_seed)


def _alpha(
    counts: npt.NDArray[np.int64], prompts: Sequence[str], level: Literal["ordinal", "nominal"], seed: int
) -> RaterAgreement:
    """α of counts ``(items, values)`` of raters per value."""
    pairable = counts.sum(axis=1) >= 2
    of_items = [prompt for prompt, kept in zip(prompts, pairable, strict=True) if kept]
    counts = counts[pairable]
    if len(counts) == 0:
        reason = "no answer was rated by two raters"
    elif (counts.sum(axis=0) > 0).sum() < 2:
        reason = "every rating is the same, so there is nothing that raters could have confused"
    else:

        def alpha(drawn: npt.NDArray[np.int64]) -> float:
            if (counts[drawn].sum(axis=0) > 0).sum() < 2:
                return np.nan
            return krippendorff_alpha(counts[drawn], level)

        interval = _bootstrap(alpha, of_items, seed)
        return RaterAgreement(alpha(np.arange(len(counts))), interval.low, interval.high, len(counts))
    return RaterAgreement(np.nan, np.nan, np.nan, len(counts), reason)


def _bootstrap(statistic: Callable[[npt.NDArray[np.int64]], float], prompts: Sequence[str], seed: int) -> Interval:
    """Percentile interval of a statistic of items, prompts drawn anew; NaN with fewer than two prompts."""
    groups: dict[str, list[int]] = defaultdict(list)
    for place, prompt in enumerate(prompts):
        groups[prompt].append(place)
    if len(groups) < 2:
        return _UNKNOWN
    clusters = [np.array(places) for places in groups.values()]
    generator = np.random.default_rng(seed)
    values = np.array(
        [
            statistic(np.concatenate([clusters[one] for one in generator.integers(len(clusters), size=len(clusters))]))
            for _ in range(DRAWS)
        ]
    )
    values = values[np.isfinite(values)]
    return _percentiles(values) if len(values) else _UNKNOWN


def _percentiles(values: FloatArray) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))
