"""From a ladder of runs to a calibration: the facts that vary, the fit, and its error on what it has not seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.experiment._conditions import recipe_sha256
from ripcurrent.experiment._harm_fit import FloatArray, Trials, fit_harm
from ripcurrent.experiment._ladder import Ladder
from ripcurrent.experiment._shared_rows import neighbours
from ripcurrent.scoring import spearman
from ripcurrent.scoring._calibration import (
    LOG_ROWS,
    LOG_STEPS,
    Calibration,
    CalibrationRun,
    Compared,
    ForecastError,
    LeftOut,
    rows_beyond,
    score_beyond,
)
from ripcurrent.scoring._columns import DIRECTION_OF_RISK
from ripcurrent.scoring._harm import HarmForecast

FEWEST_ARMS = 5
"""A fit of fewer arms would be its priors'."""
CEILING = 0.02
"""Runs that all lie so near to 0 or to 1 say nothing of what made the difference."""
VARIES = 0.05
"""A logarithm is a fact where its standard deviation over the runs is above this: 5 %."""
SAME = 0.95
"""Steps are no fact of their own where they correlate so with the rows: an epoch's steps follow from its rows."""

BESIDE = ("response_tokens", "loss", "gradient_norm")
"""Columns that are tried beside the forecast's own."""
PAIR = ("gradient_harmful", "gradient_safe")
"""The two parts of the gradient scores, each with a weight of its own."""


def make_calibration(
    ladder: Ladder,
    columns: Sequence[str] = (),
    *,
    version: str,
    date: str,
    compare: bool = False,
    on_fit: Callable[[int], None] | None = None,
) -> Calibration:
    """Fit a ladder's runs and measure the fit's error on arms and sources left out.

    Args:
        ladder: The runs.
        columns: Score columns; the default ranking of the scan when left out.
        version: Version of the package.
        date: Today.
        compare: Also measure the error of other columns on the same runs.
        on_fit: Told how many fits were made.

    Raises:
        RipcurrentError: A column that runs have no score in, fewer than five arms, or arms that all have one score.
    """
    told = on_fit or (lambda count: None)
    columns = tuple(dict.fromkeys(columns or (ladder.default_column,)))
    ladder = _with_means(ladder, columns)
    _refuse_reference_without(ladder, columns)
    trials = as_trials(ladder.runs, columns)
    _refuse_too_little(trials, columns)
    by_arm, forecasts = error_by_arm(trials, told)
    runs = tuple(
        run.model_copy(update={"forecast": found.answered, "low": found.low, "high": found.high})
        for run, found in zip(ladder.runs, forecasts, strict=True)
    )
    conditions = ladder.conditions
    fit = fit_harm(trials)
    by_name = {source.name: source for source in ladder.sources}
    return Calibration(
        version=version,
        date=date,
        columns=columns,
        scored_with=ladder.scored_with,
        recipe_name=str(conditions.recipe.get("name", "unnamed")),
        recipe=conditions.recipe,
        recipe_sha256=recipe_sha256(conditions.recipe),
        finetune=conditions.finetune,
        prompts=conditions.prompts,
        system=conditions.system,
        max_new_tokens=conditions.max_new_tokens,
        judge=conditions.judge,
        sources=tuple(by_name[name] for name in fit.sources),
        fit=fit,
        error_by_arm=by_arm,
        error_by_rows=error_by_rows(trials, [run.row_hashes for run in runs], forecasts, told),
        error_by_source=error_by_source(trials, told),
        compared=tuple(_compared(ladder.runs, columns, told)) if compare else (),
        runs=runs,
        left_out=ladder.left_out,
        notes=tuple(_notes(trials)),
    )


def _with_means(ladder: Ladder, columns: Sequence[str]) -> Ladder:
    """The ladder without runs that lack a column where others have it, as after a scan with ``--prefilter``."""
    lacking = {
        place: next(column for column in columns if column not in run.means)
        for place, run in enumerate(ladder.runs)
        if any(column not in run.means for column in columns)
    }
    if not lacking or len(lacking) == len(ladder.runs):
        return ladder
    left_out = [
        LeftOut(experiment=run.experiment, arm=run.arm, seed=run.seed, reason=f"some of its rows have no {column}")
        for place, column in lacking.items()
        for run in (ladder.runs[place],)
    ]
    runs = tuple(run for place, run in enumerate(ladder.runs) if place not in lacking)
    counts = Counter(run.source for run in runs)
    sources = [one.model_copy(update={"runs": counts[one.name]}) for one in ladder.sources if counts[one.name]]
    return replace(ladder, runs=runs, sources=tuple(sources), left_out=(*ladder.left_out, *left_out))


def _refuse_reference_without(ladder: Ladder, columns: Sequence[str]) -> None:
    """Refuse rows without a score where others have it, if they are of the source that forecasts stand beside."""
    reference = next(one for one in ladder.sources if one.name == ladder.runs[0].source)
    for column in columns:
        if column in ladder.runs[0].means and column not in reference.means:
            raise RipcurrentError(
                f"Some rows of {reference.name} have no {column}, so that no random set of it can be forecast.",
                "Calibrate on a scan of all rows with this column, without --prefilter.",
            )


def as_trials(runs: Sequence[CalibrationRun], columns: Sequence[str]) -> Trials:
    """Runs as the fit takes them: the columns' means, and rows and steps where they vary.

    Raises:
        RipcurrentError: A run has no mean of a column.
    """
    for column in columns:
        lacking = next((run for run in runs if column not in run.means), None)
        if lacking is not None:
            known = [name for name in runs[0].means if all(name in run.means for run in runs)]
            raise RipcurrentError(
                f"The rows of arm {lacking.arm} ({lacking.experiment}) have no {column!r}.",
                f"Columns that all arms have: {', '.join(known) or 'none'}.",
            )
    facts = {column: np.array([run.means[column] for run in runs]) for column in columns}
    rows, steps = (np.log([getattr(run, what) for run in runs]) for what in ("rows", "steps"))
    if rows.std() > VARIES:
        facts[LOG_ROWS] = rows
    if steps.std() > VARIES and (LOG_ROWS not in facts or abs(np.corrcoef(rows, steps)[0, 1]) < SAME):
        facts[LOG_STEPS] = steps
    return Trials(
        names=tuple(facts),
        facts=np.stack(list(facts.values()), axis=1) if facts else np.zeros((len(runs), 0)),
        answered=np.array([float(run.answered) for run in runs]),
        asked=np.array([float(run.asked) for run in runs]),
        sources=tuple(run.source for run in runs),
        arms=_arms(runs),
    )


def _arms(runs: Sequence[CalibrationRun]) -> tuple[str, ...]:
    """Each run's arm; arms of several experiments are one where a run of each trained on the same rows."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    for run in runs:
        parent[root(run.tokens_sha256)] = root(f"{run.experiment}/{run.arm}")
    return tuple(root(f"{run.experiment}/{run.arm}") for run in runs)


def error_by_arm(
    trials: Trials, told: Callable[[int], None] = lambda count: None
) -> tuple[ForecastError, list[HarmForecast]]:
    """The error on each arm with all its seeds left out, and every run's forecast so made."""
    found = _left_out(trials, ((held, held) for held in _groups(trials.arms)), _fewest(trials), told)
    forecasts = [one for one in found if one is not None]
    return forecast_error("arm", trials, forecasts, np.ones(len(trials), dtype=bool)), forecasts


def error_by_rows(
    trials: Trials,
    sketches: Sequence[Sequence[str]],
    by_arm: Sequence[HarmForecast],
    told: Callable[[int], None] = lambda count: None,
) -> ForecastError | None:
    """The error on each arm with all its seeds left out, and with them every run that shares its rows.

    A run whose rows are not known may share those of any of its source: it is left out with each of them, and is not
    forecast itself. ``by_arm`` are the forecasts without the arm alone: they stand where no other run is left out. None
    where no arm can be forecast so.
    """
    shared, sources = neighbours(sketches), np.array(trials.sources)
    unknown = np.array([not own for own in sketches])
    alone = np.zeros(len(trials), dtype=bool)
    folds = []
    for held in _groups(trials.arms):
        if unknown[held].any():
            continue
        out = held | shared[held].any(axis=0) | (unknown & np.isin(sources, sources[held]))
        if (out == held).all():
            alone |= held
        else:
            folds.append((held, out))
    fitted = _left_out(trials, folds, _fewest(trials), told)
    return _error_where_done(
        "rows", trials, [one if own else found for own, one, found in zip(alone, by_arm, fitted, strict=True)]
    )


def _fewest(trials: Trials) -> int:
    """Arms that a fit without one takes: of five in all, the fits without one have four."""
    return min(FEWEST_ARMS, len(set(trials.arms)) - 1)


def error_by_source(
    trials: Trials, told: Callable[[int], None] = lambda count: None, *, within: Trials | None = None
) -> ForecastError | None:
    """The error on each source with all its arms left out, as one that the fit has never seen.

    A run whose rows or scores are beyond those of all other sources is not counted: it would be refused a forecast.
    ``within`` are the same runs by the facts that tell this; those of ``trials`` unless given. None where there is one
    source, or where no source leaves five arms of others.
    """
    if len(set(trials.sources)) < 2:
        return None
    folds = [(held, held) for held in _groups(trials.sources)]
    found = _left_out(trials, folds, FEWEST_ARMS, told)
    beyond = _beyond_the_rest(within or trials)
    refused = sum(one is not None and bool(own) for one, own in zip(found, beyond, strict=True))
    kept = [None if own else one for one, own in zip(found, beyond, strict=True)]
    error = _error_where_done("source", trials, kept)
    return None if error is None else error.model_copy(update={"refused": refused})


def _beyond_the_rest(trials: Trials) -> npt.NDArray[np.bool_]:
    """Which runs have more or fewer rows, or other scores, than those of all other sources let forecast."""
    found = np.zeros(len(trials), dtype=bool)
    for held in _groups(trials.sources):
        own, rest = trials.facts[held], trials.facts[~held]
        for name, values, least, largest in zip(trials.names, own.T, rest.min(axis=0), rest.max(axis=0), strict=True):
            if name == LOG_ROWS:
                found[held] |= [rows_beyond(*np.exp((value, least, largest))) for value in values]
            elif name != LOG_STEPS:
                found[held] |= [score_beyond(value, least, largest) for value in values]
    return found


def _groups(names: Sequence[str]) -> Iterator[npt.NDArray[np.bool_]]:
    """The runs of each name, shape ``(runs,)`` each."""
    own = np.array(names)
    yield from (own == name for name in dict.fromkeys(names))


def _left_out(
    trials: Trials,
    folds: Iterable[tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]],
    fewest: int,
    told: Callable[[int], None],
) -> list[HarmForecast | None]:
    """Forecasts of each fold's first runs by a fit without its second ones.

    None for a run of no fold, and where the rest has fewer arms than ``fewest``.
    """
    found: list[HarmForecast | None] = [None] * len(trials)
    for held, out in folds:
        rest = trials.where(~out)
        if len(set(rest.arms)) < fewest:
            continue
        model = fit_harm(rest)
        told(1)
        for place in np.flatnonzero(held):
            found[place] = model.forecast(trials.facts[place], int(trials.asked[place]), trials.sources[place])
    return found


def _error_where_done(
    held_out: Literal["rows", "source"], trials: Trials, found: Sequence[HarmForecast | None]
) -> ForecastError | None:
    """The error over runs that were forecast; None without any."""
    done = np.array([one is not None for one in found])
    if not done.any():
        return None
    return forecast_error(held_out, trials, [one for one in found if one is not None], done)


def forecast_error(
    held_out: Literal["arm", "rows", "source"],
    trials: Trials,
    forecasts: Sequence[HarmForecast],
    done: npt.NDArray[np.bool_],
) -> ForecastError:
    """How forecasts of the runs marked in ``done`` differ from what they answered, over arms and for each source."""
    used = trials.where(done)
    observed = used.answered / used.asked
    middle = np.array([one.answered for one in forecasts])
    lows, highs = (np.array([getattr(one, end) for one in forecasts]) for end in ("low", "high"))
    inside = (lows <= observed + 1e-9) & (observed <= highs + 1e-9)
    arms = [np.array([own == arm for own in used.arms]) for arm in dict.fromkeys(used.arms)]
    by_arm = np.array([[observed[arm].mean(), middle[arm].mean()] for arm in arms])
    gaps = np.abs(by_arm[:, 1] - by_arm[:, 0])
    rank = spearman(by_arm[:, 0], by_arm[:, 1])
    by_source = []
    for source in dict.fromkeys(used.sources):
        own = _is(used, source)
        of_source = np.array([bool(own[arm].all()) for arm in arms])
        by_source.append(
            {
                "name": source,
                "arms": int(of_source.sum()),
                "runs": int(own.sum()),
                "observed": float(by_arm[of_source, 0].mean()),
                "forecast": float(by_arm[of_source, 1].mean()),
                "mean_absolute_error": float(gaps[of_source].mean()),
                "coverage": float(inside[own].mean()),
            }
        )
    return ForecastError(
        held_out=held_out,
        groups=len(set(used.sources)) if held_out == "source" else len(arms),
        runs=len(used),
        mean_absolute_error=float(gaps.mean()),
        bias=float((by_arm[:, 1] - by_arm[:, 0]).mean()),
        coverage=float(inside.mean()),
        mean_width=float((highs - lows).mean()),
        rank_correlation=rank if np.isfinite(rank) else None,
        by_source=tuple(by_source),
    )


def _compared(runs: Sequence[CalibrationRun], columns: tuple[str, ...], told: Callable[[int], None]) -> list[Compared]:
    """The error of every column alone, of none, of the two parts of the gradient, and of the columns with another.

    All on the runs that the forecast's own columns could forecast.
    """
    everywhere = [name for name in runs[0].means if all(name in run.means for run in runs)]
    own = as_trials(runs, columns)
    ranking = [name for name in everywhere if DIRECTION_OF_RISK.get(name) in ("higher", "lower")]
    choices: list[tuple[str, ...]] = [(), *((name,) for name in [*ranking, *BESIDE] if name in everywhere)]
    if all(name in everywhere for name in PAIR):
        choices.append(PAIR)
    choices += [(*columns, name) for name in BESIDE if name in everywhere and name not in columns]
    found = []
    for choice in dict.fromkeys(choices):
        trials = as_trials(runs, choice)
        found.append(
            Compared(
                columns=choice,
                arms=error_by_arm(trials, told)[0],
                sources=error_by_source(trials, told, within=own),
            )
        )
    return found


def _refuse_too_little(trials: Trials, columns: Sequence[str]) -> None:
    arms = len(set(trials.arms))
    if arms < FEWEST_ARMS:
        raise RipcurrentError(
            f"{arms} arms are too few to fit: {FEWEST_ARMS} are needed, and a dozen is better.",
            "Add arms with other scores: top, bottom, random, mixtures of them.",
            code=ExitCode.NOT_MEASURED,
        )
    shares = trials.answered / trials.asked
    if shares.max() <= CEILING or shares.min() >= 1 - CEILING:
        raise RipcurrentError(
            f"Every run answered {shares.min():.0%} to {shares.max():.0%} of the harmful requests: what they trained "
            "on made no difference that could be fitted.",
            "Take a gentler recipe where all answer, a stronger one where none does.",
            code=ExitCode.NOT_MEASURED,
        )
    for place, column in enumerate(columns):
        values: FloatArray = trials.facts[:, place]
        if np.ptp(values) <= 1e-9 * (1 + np.abs(values).max()):
            raise RipcurrentError(
                f"All arms have one mean {column}: nothing can be learned of it.",
                "Add arms with other scores: top, bottom, random, mixtures of them.",
                code=ExitCode.NOT_MEASURED,
            )


def _notes(trials: Trials) -> list[str]:
    shares = trials.answered / trials.asked
    arms, sources = len(set(trials.arms)), len(set(trials.sources))
    notes = []
    if sources == 1:
        notes.append(
            f"All rows come from {trials.sources[0]}: how far another dataset lies from it is assumed, not measured."
        )
    if arms < 12:
        notes.append(f"{arms} arms are few: the fit leans on its priors.")
    if arms == len(trials):
        notes.append("One run of each arm: what lies between seeds is counted as between arms.")
    if np.ptp(shares) < 0.15:
        notes.append(
            f"All runs answered between {shares.min():.0%} and {shares.max():.0%}: "
            "with this recipe the scores say little."
        )
    return notes


def _is(trials: Trials, source: str) -> npt.NDArray[np.bool_]:
    return np.array([own == source for own in trials.sources])
