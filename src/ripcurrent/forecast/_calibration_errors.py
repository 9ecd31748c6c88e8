"""How a fit to runs errs on what it has not seen: arms, arms with all that share their rows, whole sources."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from ripcurrent.forecast._calibration import LOG_ROWS, LOG_STEPS, ForecastError, rows_beyond, score_beyond
from ripcurrent.forecast._harm import HarmForecast
from ripcurrent.forecast._harm_fit import Trials, fit_harm
from ripcurrent.forecast._shared_rows import neighbours
from ripcurrent.statistics import spearman

FEWEST_ARMS = 5
"""A fit of fewer arms would be its priors'."""


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
    shared, sources = neighbours(sketches, trials.sources), np.array(trials.sources)
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
    """How forecasts of the runs marked in ``done`` differ from what they answered, over arms and for each source.

    Of whole sources left out each counts alike, however many arms it has: a new one is as any of them.
    """
    used = trials.where(done)
    observed = used.answered / used.asked
    middle = np.array([one.answered for one in forecasts])
    lows, highs = (np.array([getattr(one, end) for one in forecasts]) for end in ("low", "high"))
    inside = (lows <= observed + 1e-9) & (observed <= highs + 1e-9)
    arms = [np.array([own == arm for own in used.arms]) for arm in dict.fromkeys(used.arms)]
    by_arm = np.array([[observed[arm].mean(), middle[arm].mean()] for arm in arms])
    biases = by_arm[:, 1] - by_arm[:, 0]
    gaps = np.abs(biases)
    rank = spearman(by_arm[:, 0], by_arm[:, 1])
    by_source, figures = [], [(gaps.mean(), biases.mean(), inside.mean())]
    for source in dict.fromkeys(used.sources):
        own = _is(used, source)
        of_source = np.array([bool(own[arm].all()) for arm in arms])
        figures.append((gaps[of_source].mean(), biases[of_source].mean(), inside[own].mean()))
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
    error, bias, coverage = np.mean(figures[1:], axis=0) if held_out == "source" else figures[0]
    return ForecastError(
        held_out=held_out,
        groups=len(by_source) if held_out == "source" else len(arms),
        runs=len(used),
        mean_absolute_error=float(error),
        bias=float(bias),
        coverage=float(coverage),
        mean_width=float((highs - lows).mean()),
        rank_correlation=rank if np.isfinite(rank) else None,
        by_source=tuple(by_source),
    )


def _is(trials: Trials, source: str) -> npt.NDArray[np.bool_]:
    return np.array([own == source for own in trials.sources])
