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
from ripcurrent.forecast._harm import HarmForecast, Trials, fit_harm
from ripcurrent.statistics import spearman

BoolArray = npt.NDArray[np.bool_]

FEWEST_ARMS = 5
"""A fit of fewer arms would be its priors'."""
SHARED = 0.2
"""Sets that have this share of the smaller one's rows in common are not independent."""


def error_by_set(
    trials: Trials, keys: Sequence[frozenset[str]]
) -> tuple[ForecastError | None, list[HarmForecast | None]]:
    """The error on each arm left out with every run that shares its rows, and every run's forecast so made.

    ``keys`` are the rows of each run. A run whose rows are not known may share those of any run of its source: it is
    left out with each of them, and is not forecast itself. The error is None where no arm can be forecast so.
    """
    folds = []
    for held in _groups(trials.arms):
        places = np.flatnonzero(held).tolist()
        own, sources = [keys[place] for place in places], {trials.sources[place] for place in places}
        if all(own):
            shared = [
                any(len(a & rows) >= SHARED * min(len(a), len(rows)) for a in own) if rows else source in sources
                for rows, source in zip(keys, trials.sources, strict=True)
            ]
            folds.append((held, np.array(shared)))
    # of five arms in all, the fits without one have four
    found = _left_out(trials, folds, min(FEWEST_ARMS, len(set(trials.arms)) - 1))
    return _error("set", trials, found), found


def error_by_source(trials: Trials) -> ForecastError | None:
    """The error on each source with all its arms left out, as one that the fit has never seen.

    A run whose rows or cosine are beyond those of all other sources is not counted: it would be refused a forecast.
    None where there is one source, or where no source leaves five arms of others.
    """
    if len(set(trials.sources)) < 2:
        return None
    every = _left_out(trials, [(held, held) for held in _groups(trials.sources)], FEWEST_ARMS)
    beyond = _beyond_the_rest(trials)
    found = [None if own else one for one, own in zip(every, beyond, strict=True)]
    error = _error("source", trials, found)
    return error and error.model_copy(update={"refused": found.count(None) - every.count(None)})


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
    """How forecasts of runs differ from what they answered, over arms and for each source; None without a forecast.

    Of whole sources left out each counts alike, however many arms it has: a new one is like any of them.
    """
    forecasts = [one for one in found if one is not None]
    if not forecasts:
        return None
    trials = trials.where(np.array([one is not None for one in found]))
    answered, lows, highs = np.array([[one.answered, one.low, one.high] for one in forecasts]).T
    observed = trials.answered / trials.asked
    inside = (lows <= observed + 1e-9) & (observed <= highs + 1e-9)
    arms = list(_groups(trials.arms))
    seen, said = (np.array([values[arm].mean() for arm in arms]) for values in (observed, answered))
    source_of_arm = np.array([trials.sources[arm.argmax()] for arm in arms])
    by_source = []
    for name, runs in zip(dict.fromkeys(trials.sources), _groups(trials.sources), strict=True):
        own = source_of_arm == name
        by_source.append(
            SourceError(
                name=name,
                arms=int(own.sum()),
                observed=float(seen[own].mean()),
                forecast=float(said[own].mean()),
                mean_absolute_error=float(np.abs(said - seen)[own].mean()),
                coverage=float(inside[runs].mean()),
            )
        )
    error, bias, coverage = float(np.abs(said - seen).mean()), float((said - seen).mean()), float(inside.mean())
    if held_out == "source":
        figures = [[one.mean_absolute_error, one.forecast - one.observed, one.coverage] for one in by_source]
        error, bias, coverage = np.mean(figures, axis=0).tolist()
    rank = spearman(seen, said)
    return ForecastError(
        held_out=held_out,
        groups=len(by_source) if held_out == "source" else len(arms),
        runs=len(trials),
        mean_absolute_error=error,
        bias=bias,
        coverage=coverage,
        mean_width=float((highs - lows).mean()),
        rank_correlation=rank if np.isfinite(rank) else None,
        by_source=tuple(by_source),
    )
