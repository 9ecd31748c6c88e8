"""How a fit errs on what it has not seen: sets with all that share their rows, and whole sources."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from ripcurrent.forecast._calibration import (
    LOG_ROWS,
    SET_COSINE,
    ForecastError,
    SourceError,
    cosine_beyond,
    rows_beyond,
)
from ripcurrent.forecast._harm import HarmForecast
from ripcurrent.forecast._harm_fit import Trials, fit_harm
from ripcurrent.statistics import spearman

BoolArray = npt.NDArray[np.bool_]

FEWEST_ARMS = 5
"""A fit of fewer arms would be its priors'."""
SHARED = 0.2
"""Sets that have this share of the smaller one's rows in common are not independent."""


def sharing(keys: Sequence[frozenset[str]]) -> BoolArray:
    """Which sets share `SHARED` of the smaller one's rows or more, shape ``(sets, sets)``, each with itself."""
    found = np.eye(len(keys), dtype=bool)
    for place, own in enumerate(keys):
        for other in range(place):
            smaller = min(len(own), len(keys[other]))
            alike = smaller > 0 and len(own & keys[other]) >= SHARED * smaller
            found[place, other] = found[other, place] = alike
    return found


def error_by_set(
    trials: Trials, keys: Sequence[frozenset[str]]
) -> tuple[ForecastError | None, list[HarmForecast | None]]:
    """The error on each arm left out with every run that shares its rows, and every run's forecast so made.

    A run whose rows are not known may share those of any run of its source: it is left out with each of them, and is
    not forecast itself. The error is None where no arm can be forecast so.
    """
    shared, sources = sharing(keys), np.array(trials.sources)
    unknown = np.array([not own for own in keys])
    folds = []
    for held in _groups(trials.arms):
        if not unknown[held].any():
            out = held | shared[held].any(axis=0) | (unknown & np.isin(sources, sources[held]))
            folds.append((held, out))
    # of five arms in all, the fits without one have four
    fewest = min(FEWEST_ARMS, len(set(trials.arms)) - 1)
    found = _left_out(trials, folds, fewest)
    return _error("set", trials, found), found


def error_by_source(trials: Trials) -> ForecastError | None:
    """The error on each source with all its arms left out, as one that the fit has never seen.

    A run whose rows or cosine are beyond those of all other sources is not counted: it would be refused a forecast.
    None where there is one source, or where no source leaves five arms of others.
    """
    if len(set(trials.sources)) < 2:
        return None
    found = _left_out(trials, [(held, held) for held in _groups(trials.sources)], FEWEST_ARMS)
    beyond = _beyond_the_rest(trials)
    refused = sum(one is not None and bool(own) for one, own in zip(found, beyond, strict=True))
    error = _error("source", trials, [None if own else one for one, own in zip(found, beyond, strict=True)])
    return None if error is None else error.model_copy(update={"refused": refused})


def _beyond_the_rest(trials: Trials) -> BoolArray:
    """Which runs have more or fewer rows, or another cosine, than those of all other sources let forecast."""
    found = np.zeros(len(trials), dtype=bool)
    for held in _groups(trials.sources):
        own, rest = trials.facts[held], trials.facts[~held]
        for name, values, least, largest in zip(trials.names, own.T, rest.min(axis=0), rest.max(axis=0), strict=True):
            if name == LOG_ROWS:
                found[held] |= [rows_beyond(*np.exp((value, least, largest))) for value in values]
            elif name == SET_COSINE:
                found[held] |= [cosine_beyond(value, least, largest) for value in values]
    return found


def _groups(names: Sequence[str]) -> Iterator[BoolArray]:
    """The runs of each name, shape ``(runs,)`` each."""
    own = np.array(names)
    yield from (own == name for name in dict.fromkeys(names))


def _left_out(trials: Trials, folds: Iterable[tuple[BoolArray, BoolArray]], fewest: int) -> list[HarmForecast | None]:
    """Forecasts of each fold's first runs by a fit without its second ones.

    None for a run of no fold, and where the rest has fewer arms than ``fewest``.
    """
    found: list[HarmForecast | None] = [None] * len(trials)
    for held, out in folds:
        rest = trials.where(~out)
        if len(set(rest.arms)) >= fewest:
            model = fit_harm(rest)
            for place in np.flatnonzero(held):
                found[place] = model.forecast(trials.facts[place], int(trials.asked[place]), trials.sources[place])
    return found


def _error(
    held_out: Literal["set", "source"], trials: Trials, found: Sequence[HarmForecast | None]
) -> ForecastError | None:
    """The error over runs that were forecast; None without any."""
    done = np.array([one is not None for one in found])
    if not done.any():
        return None
    return forecast_error(held_out, trials.where(done), [one for one in found if one is not None])


def forecast_error(
    held_out: Literal["set", "source"], trials: Trials, forecasts: Sequence[HarmForecast]
) -> ForecastError:
    """How forecasts of runs differ from what they answered, over arms and for each source.

    Of whole sources left out each counts alike, however many arms it has: a new one is like any of them.
    """
    observed = trials.answered / trials.asked
    middle = np.array([one.answered for one in forecasts])
    lows, highs = (np.array([getattr(one, end) for one in forecasts]) for end in ("low", "high"))
    inside = (lows <= observed + 1e-9) & (observed <= highs + 1e-9)
    arms = list(_groups(trials.arms))
    by_arm = np.array([[observed[arm].mean(), middle[arm].mean()] for arm in arms])
    biases = by_arm[:, 1] - by_arm[:, 0]
    rank = spearman(by_arm[:, 0], by_arm[:, 1])
    by_source, figures = [], [(np.abs(biases).mean(), biases.mean(), inside.mean())]
    for source, own in zip(dict.fromkeys(trials.sources), _groups(trials.sources), strict=True):
        of_source = np.array([bool(own[arm].all()) for arm in arms])
        gap = np.abs(biases[of_source]).mean()
        figures.append((gap, biases[of_source].mean(), inside[own].mean()))
        by_source.append(
            SourceError(
                name=source,
                arms=int(of_source.sum()),
                observed=float(by_arm[of_source, 0].mean()),
                forecast=float(by_arm[of_source, 1].mean()),
                mean_absolute_error=float(gap),
                coverage=float(inside[own].mean()),
            )
        )
    error, bias, coverage = np.mean(figures[1:], axis=0) if held_out == "source" else figures[0]
    return ForecastError(
        held_out=held_out,
        groups=len(by_source) if held_out == "source" else len(arms),
        runs=len(trials),
        mean_absolute_error=float(error),
        bias=float(bias),
        coverage=float(coverage),
        mean_width=float((highs - lows).mean()),
        rank_correlation=rank if np.isfinite(rank) else None,
        by_source=tuple(by_source),
    )
