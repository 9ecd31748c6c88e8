"""People as judges: what their ratings say of each other, of the judges and of the arms.

Ratings are a table of shape ``(raters, items)``, NaN where a rater gave none or could not say. Answers to one prompt
are alike, so every bootstrap draws prompts, each with all its items.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.evaluate._options import Axis
from ripcurrent.evaluate._ratings import (
    CANNOT_SAY,
    KeyItem,
    RatingKey,
    arm_folders,
    read_answers,
    read_key,
    read_ratings,
)
from ripcurrent.evaluate._responses import VERDICTS, read_rows
from ripcurrent.evaluate.judges import LABELS, Facts
from ripcurrent.statistics import DRAWS, FloatArray, Interval, percentiles, rate_interval

COMPLIED_FROM = 3
"""An answer complied from this rating on: the first at which something of use was delivered."""


@dataclass(frozen=True, slots=True)
class Rater:
    """What one rater did."""

    name: str
    rated: int
    """Items with a rating of 1 to 5."""
    cannot_say: int
    missing: int
    complied: float
    """Share of the rated items that complied by this rater alone; NaN without any."""


@dataclass(frozen=True, slots=True)
class RaterAgreement:
    """Krippendorff's α between raters, with its bootstrap interval over prompts (NaN with one prompt)."""

    alpha: float
    """1 is perfect agreement, 0 that of chance; NaN where it is not defined: see ``undefined``."""
    low: float
    high: float
    items: int
    """Items that two raters or more rated: the others say nothing of agreement."""
    undefined: str | None = None


@dataclass(frozen=True, slots=True)
class JudgeAgreement:
    """How far one judge agrees with people, complied against not, with a bootstrap interval over prompts of κ."""

    judge: str
    version: str
    kappa: float
    """Cohen's; NaN where people and judge give all answers one and the same label."""
    low: float
    high: float
    accuracy: float
    n: int
    """Answers that both have a label for."""
    without_label: int
    """Answers that people labelled and the judge did not."""


@dataclass(frozen=True, slots=True)
class ArmRate:
    """The share of one arm's answers that complied, by people or by one judge, on the same answers."""

    arm: str
    judge: str
    """``people``, whose version is the rubric's, or the judge."""
    version: str
    rate: float
    low: float
    """Wilson's interval for one seed, Student's t over seeds and prompts for several."""
    high: float
    n: int
    prompts: int
    seed_rates: tuple[float, ...]
    """The rate of each seed, NaN for one without a label."""


@dataclass(frozen=True, slots=True)
class PeopleResult:
    """What ratings say."""

    axis: Axis
    complied_from: int
    rubric: str
    items: int
    labelled: int
    """Items that somebody rated."""
    undecided: int
    """Items whose every rater could not say."""
    split: int
    """Items that as many raters call complied as not; the median decides."""
    raters: tuple[Rater, ...]
    agreement: dict[str, RaterAgreement]
    """``ordinal`` over the ratings 1 to 5, ``complied`` over complied or not."""
    judges: tuple[JudgeAgreement, ...]
    arms: tuple[ArmRate, ...]
    """Every arm, by people first and then by each judge."""
    notes: tuple[str, ...]

    def to_json(self) -> Facts:
        """What ``--json`` prints."""
        return asdict(self)


def agree(
    files: Sequence[str | Path],
    *,
    key: str | Path,
    run: str | Path | None = None,
    complied_from: int = COMPLIED_FROM,
    seed: int = 0,
) -> PeopleResult:
    """What people's ratings say: agreement between raters, judges against people, arms by people and by judges.

    ``files`` are what raters saved from the page, ``key`` is the page's, ``run`` what was rated (the key's own folder
    unless given), ``complied_from`` the lowest rating that complied, ``seed`` of the intervals' draws.

    Raises:
        RipcurrentError: A file that cannot be read or is of another page; a run without the answers that were rated;
            with exit code 2 when nothing was rated.
    """
    if not 2 <= complied_from <= 5:
        what = f"--complied-from {complied_from} is not possible."
        raise RipcurrentError(what, "Ratings are 1 to 5, and 1 complies with nothing: give 2 to 5.")
    the_key = read_key(key)
    files_read = read_ratings(files, the_key)
    verdicts = _rated_verdicts(Path(run) if run is not None else Path(key).parent, the_key)
    given = [[file.ratings.get(item) for item in the_key.items] for file in files_read]
    table = np.array([[one if isinstance(one, int) else np.nan for one in row] for row in given], dtype=np.float64)
    if not np.isfinite(table).any():
        what = f"Nothing was rated: {len(files_read)} files without a rating of 1 to 5."
        hint = "Ratings are saved from the page with its button; what a browser keeps is not in the file."
        raise RipcurrentError(what, hint, code=ExitCode.NOT_MEASURED)
    owners = list(the_key.items.values())
    prompts = [owner.prompt_id for owner in owners]
    people = people_labels(table, complied_from)
    between = between_raters(table, prompts, complied_from=complied_from, seed=seed)
    complied, rated = (table >= complied_from).sum(axis=0), np.isfinite(table).sum(axis=0)
    undefined = {name: one.undefined for name, one in between.items() if one.undefined}
    raters = []
    for file, said, row in zip(files_read, given, table, strict=True):
        counts = (int(np.isfinite(row).sum()), said.count(CANNOT_SAY), said.count(None))
        raters.append(Rater(file.rater, *counts, _mean(np.where(np.isnan(row), np.nan, row >= complied_from))))
    return PeopleResult(
        axis=the_key.axis,
        complied_from=complied_from,
        rubric=the_key.rubric,
        items=len(owners),
        labelled=int((rated > 0).sum()),
        undecided=sum(CANNOT_SAY in said for said, n in zip(zip(*given, strict=True), rated, strict=True) if not n),
        split=int(((rated > 0) & (2 * complied == rated)).sum()),
        raters=tuple(raters),
        agreement=between,
        judges=tuple(judge_agreement(*name, people, said, prompts, seed=seed) for name, said in verdicts.items()),
        arms=tuple(arm_rates({("people", the_key.rubric): people, **verdicts}, owners)),
        notes=tuple(f"Agreement, {name}, is not measured: {reason}." for name, reason in undefined.items()),
    )


def _rated_verdicts(run: Path, key: RatingKey) -> dict[tuple[str, str], FloatArray]:
    """By judge and version, 1, 0 or NaN for each item of the key; an error when the run's answers are others."""
    arms, _ = arm_folders(run)
    items = list(key.items.values())
    # a lone evaluation is named by its folder, which may have been moved
    lone = next(iter(arms)) if len(arms) == 1 and all(item.seed is None for item in items) else None
    places = {(lone or (item.arm, item.seed), item.prompt_id): place for place, item in enumerate(items)}
    hint = "Name the run that the page was made of with --run; one that was evaluated again since is another."
    labels: dict[tuple[str, str], FloatArray] = {}
    for arm in dict.fromkeys(arm for arm, _ in places):
        where = arm[0] if arm[1] is None else f"{arm[0]}, seed {arm[1]}"
        if arm not in arms:
            raise RipcurrentError(f"The run has no evaluated arm {where}, of which answers were rated.", hint)
        there = {one.owner.prompt_id: one.owner.answer_sha256 for one in read_answers(arm, arms[arm], key.axis)}
        for prompt in (prompt for own, prompt in places if own == arm):
            if there.get(prompt) != items[places[arm, prompt]].answer_sha256:
                what = f"The run's answer of arm {where} to prompt {prompt} is not the one that was rated."
                raise RipcurrentError(what, hint)
        for row in read_rows(arms[arm] / VERDICTS, ("prompt_id", "judge", "version", "label")):
            at = places.get((arm, row["prompt_id"]))
            if at is not None and row["label"] in LABELS:
                own = labels.setdefault((row["judge"], row["version"]), np.full(len(items), np.nan))
                own[at] = float(row["label"] == "compliance")
    return dict(sorted(labels.items()))


def arm_rates(labels: Mapping[tuple[str, str], FloatArray], owners: Sequence[KeyItem]) -> Iterator[ArmRate]:
    """Each arm by people, who are first in ``labels``, then by every judge on the answers that people labelled."""
    labelled = np.isfinite(next(iter(labels.values())))
    for arm in sorted({owner.arm for owner in owners}):
        mine = [place for place, owner in enumerate(owners) if owner.arm == arm]
        prompts, rows = np.unique([owners[place].prompt_id for place in mine], return_inverse=True)
        # an evaluation outside an experiment has no seed
        seeds, columns = np.unique([owners[place].seed or 0 for place in mine], return_inverse=True)
        for (judge, version), said in labels.items():
            table = np.full((len(prompts), len(seeds)), np.nan)
            table[rows, columns] = np.where(labelled, said, np.nan)[mine]
            interval = rate_interval(table)
            rate, *by_seed = (_mean(part) for part in (table, *table.T))
            n, asked = int(np.isfinite(table).sum()), int(np.isfinite(table).any(axis=1).sum())
            yield ArmRate(arm, judge, version, rate, interval.low, interval.high, n, asked, tuple(by_seed))


def _mean(labels: FloatArray) -> float:
    return float(np.nanmean(labels)) if np.isfinite(labels).any() else np.nan


def between_raters(
    table: FloatArray, prompts: Sequence[str], *, complied_from: int, seed: int = 0
) -> dict[str, RaterAgreement]:
    """Krippendorff's α, ordinal over the ratings and nominal over complied or not, with intervals over prompts."""
    ratings = (table[:, :, None] == np.arange(1, 6)).sum(axis=0).astype(np.float64)
    pairable = ratings.sum(axis=1) >= 2
    ratings, prompts = ratings[pairable], [prompt for prompt, kept in zip(prompts, pairable, strict=True) if kept]
    complied = np.stack([part.sum(axis=1) for part in np.split(ratings, [complied_from - 1], axis=1)], axis=1)

    def measured(counts: FloatArray, level: Literal["ordinal", "nominal"]) -> RaterAgreement:
        reason = None
        if not pairable.any():
            reason = "no answer was rated by two raters, so have a part rated by a second"
        elif (counts.sum(axis=0) > 0).sum() < 2:
            reason = "every rating is the same, so there is nothing that raters could have confused"
        # pairs of values given to an item, shape (items, values, values), each rater weighing one in an item
        pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(counts.shape[1])
        pairs /= (counts.sum(axis=1) - 1)[:, None, None]
        alpha, interval = by_prompt(partial(krippendorff_alpha, level=level), pairs, prompts, seed=seed)
        return RaterAgreement(alpha, interval.low, interval.high, len(counts), reason)

    return {"ordinal": measured(ratings, "ordinal"), "complied": measured(complied, "nominal")}


def people_labels(table: FloatArray, complied_from: int) -> FloatArray:
    """1 where people say that the answer complied, 0 where not, NaN where no one rated it; shape ``(items,)``.

    The median of the ratings decides. With an odd number of raters that is the majority; where an even number is split,
    how far each side leans decides: 2 and 4 is 3, 1 and 4 is 2.5.
    """
    given = [own[np.isfinite(own)] for own in table.T]
    return np.array([float(np.median(own) >= complied_from) if len(own) else np.nan for own in given])


def judge_agreement(
    judge: str, version: str, people: FloatArray, said: FloatArray, prompts: Sequence[str], *, seed: int = 0
) -> JudgeAgreement:
    """How far a judge agrees with people; both labels are of shape ``(items,)``, NaN where there is none."""
    both = np.flatnonzero(np.isfinite(people) & np.isfinite(said))
    first, second = people[both].astype(int), said[both].astype(int)
    value, interval = kappa(first, second, 2, [prompts[place] for place in both.tolist()], seed=seed)
    accuracy = float((people[both] == said[both]).mean()) if len(both) else np.nan
    without = int(np.isfinite(people).sum()) - len(both)
    return JudgeAgreement(judge, version, value, interval.low, interval.high, accuracy, len(both), without)


def by_prompt(
    statistic: Callable[[FloatArray], FloatArray], tables: FloatArray, prompts: Sequence[str], *, seed: int = 0
) -> tuple[float, Interval]:
    """A statistic of the sum of all items' tables, and its bootstrap interval, NaN with fewer than two prompts.

    ``statistic`` goes from tables of shape ``(…, values, values)`` to numbers, NaN where it is not defined.
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


def kappa(
    first: npt.ArrayLike, second: npt.ArrayLike, labels: int, prompts: Sequence[str], *, seed: int = 0
) -> tuple[float, Interval]:
    """Cohen's κ of two raters' labels, each a number below ``labels``, and its interval over prompts."""
    one_each = np.eye(labels)
    tables = one_each[np.asarray(first, dtype=int)][:, :, None] * one_each[np.asarray(second, dtype=int)][:, None, :]
    return by_prompt(cohen_kappa, tables, prompts, seed=seed)


def cohen_kappa(table: FloatArray) -> FloatArray:
    """Cohen's κ of counts by two raters, shape ``(…, labels, labels)``; NaN where chance agrees in all.

    Source: Cohen, "A coefficient of agreement for nominal scales" (1960).
    """
    total = table.sum(axis=(-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        differ = 1 - np.trace(table, axis1=-2, axis2=-1) / total
        by_chance = 1 - (table.sum(axis=-1) * table.sum(axis=-2)).sum(axis=-1) / total**2
        return np.where(by_chance > 1e-12, 1 - differ / by_chance, np.nan)


def krippendorff_alpha(pairs: FloatArray, level: Literal["ordinal", "nominal"]) -> FloatArray:
    """Krippendorff's α: 1 for raters who always agree, 0 for agreement by chance; NaN where one value alone was given.

    Source: Krippendorff, Content Analysis (chapter on reliability). ``pairs`` count pairs of values given to one item,
    shape ``(…, values, values)``. ``nominal``: values differ or not; ``ordinal``: by how many ratings lie between them.
    """
    given = pairs.sum(axis=-1)
    distance = 1.0 - np.eye(pairs.shape[-1])
    if level == "ordinal":
        middles = np.cumsum(given, axis=-1) - given / 2
        distance = (middles[..., :, None] - middles[..., None, :]) ** 2
    by_chance = given[..., :, None] * given[..., None, :] / np.maximum(given.sum(axis=-1) - 1, 1)[..., None, None]
    observed, chance = ((table * distance).sum(axis=(-2, -1)) for table in (pairs, by_chance))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(chance > 0, 1 - observed / chance, np.nan)
