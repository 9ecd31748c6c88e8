"""Calibrate: fit what finished experiments answered, so that a scan can say what training on its rows would do."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2, f, fisher_exact

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.forecast._calibration import (
    LOG_ROWS,
    SET_COSINE,
    Calibration,
    Conditions,
    ForecastError,
    SourceError,
    is_beyond,
    read_calibration,
)
from ripcurrent.forecast._harm import FloatArray, HarmForecast, Trials, fit_harm
from ripcurrent.forecast._ladder import CalibrationRun, Ladder, read_ladder
from ripcurrent.progress import Progress, SilentProgress
from ripcurrent.runs import write_json
from ripcurrent.scan import SetScores
from ripcurrent.statistics import RUN_SPREAD, holm, spearman

BoolArray = npt.NDArray[np.bool_]

FEWEST_ARMS = 5
"""A fit of fewer arms would be its priors'."""
SHARED = 0.2
"""Sets that have this share of the smaller one's rows in common are not independent."""
ALPHA = 0.01
"""How often arms that all answer alike are taken for a ladder that moved."""
REPEATS = 5
"""Arms are compared with their own repeated runs from so many beyond the first of each; else with `RUN_SPREAD`."""
SPREAD_AT = 0.3 * 0.7
"""The variance of an answer where `RUN_SPREAD` was measured; it is taken to grow and shrink with that."""
RISEN = 0.05
"""Level at which a source's arms answer more than the untrained model, by Holm over its arms."""
VARIES = 0.05
"""The number of rows is a fact where its logarithm's standard deviation over the runs is above this: 5 %."""


@dataclass(frozen=True, slots=True)
class FittedRun:
    """A run beside its forecast by a fit that has not seen it."""

    run: CalibrationRun
    forecast: HarmForecast | None
    """None where too few runs do not share its rows."""
    unseen: HarmForecast | None
    """The same of a fit without its source; None where that is refused, or there is no other source."""


def calibrate(
    experiments: Sequence[str | Path], out: str | Path, *, judge: str = "prefix", progress: Progress | None = None
) -> tuple[Calibration, tuple[FittedRun, ...]]:
    """Fit what finished experiments answered to the cosines of the sets that they trained on, into the file ``out``.

    The experiments asked the same, were trained by one recipe and judged alike. Each run comes back with its forecast
    by the fit without it and all that share its rows.

    Raises:
        RipcurrentError: A folder that holds no finished experiment, runs that nothing can be learned from (exit code
            2), or a file that cannot be written.
    """
    report, target = progress or SilentProgress(), Path(out)
    if target.is_dir():
        raise RipcurrentError(f"{target} is a folder.", "Name a file with --out, such as calibration.json.")
    try:
        if target.exists():
            read_calibration(target)
    except RipcurrentError as error:
        raise RipcurrentError(f"{target} exists and is not a calibration.", "Name another file with --out.") from error
    report.step("reading the experiments")
    ladder = read_ladder([Path(one) for one in experiments], judge, SetScores(report))
    report.step(f"fitting {len(ladder.runs)} runs, and again with each set left out")
    calibration, fitted = fit_ladder(ladder)
    write_json(target, calibration.model_dump(mode="json"))
    return calibration, fitted


def fit_ladder(ladder: Ladder) -> tuple[Calibration, tuple[FittedRun, ...]]:
    """Fit a ladder's runs and measure the error on sets and sources left out; RipcurrentError for too few arms."""
    runs, trials = ladder.runs, as_trials(ladder.runs)
    _refuse_too_little(trials)
    by_set, forecasts = error_by_set(trials, [run.row_ids for run in runs])
    by_source, unseen = error_by_source(trials, [run.end for run in runs], ladder.base)
    rows, cosines = [run.rows for run in runs], [run.cosine for run in runs]
    calibration = Calibration(
        **{name: getattr(ladder.conditions, name) for name in Conditions.model_fields},
        version=version("ripcurrent"),
        date=datetime.now(UTC).date().isoformat(),
        scored_with=ladder.scored_with,
        sources=ladder.sources,
        rows_range=(min(rows), max(rows)),
        cosine_range=(min(cosines), max(cosines)),
        runs=len(runs),
        fit=fit_harm(trials),
        error_by_set=by_set,
        error_by_source=by_source,
        left_out=ladder.left_out,
        notes=tuple(_notes(trials)),
    )
    return calibration, tuple(map(FittedRun, runs, forecasts, unseen))


def as_trials(runs: Sequence[CalibrationRun]) -> Trials:
    """Runs as the fit takes them: the set's cosine, and the logarithm of its rows where they vary."""
    facts = {SET_COSINE: np.array([run.cosine for run in runs]), LOG_ROWS: np.log([run.rows for run in runs])}
    if facts[LOG_ROWS].std() <= VARIES:
        del facts[LOG_ROWS]
    return Trials(
        names=tuple(facts),
        facts=np.stack([*facts.values()], axis=1),
        answered=np.array([float(run.answered) for run in runs]),
        asked=np.array([float(run.asked) for run in runs]),
        sources=tuple(run.source for run in runs),
        arms=_arms(runs),
    )


def _arms(runs: Sequence[CalibrationRun]) -> tuple[str, ...]:
    """Each run's arm; arms of several experiments are one where a run of each trained on the same rows."""
    arm_of = {name: name for run in runs for name in (f"{run.experiment}/{run.arm}", run.tokens_sha256)}
    for run in runs:
        arm, same = (arm_of[name] for name in (f"{run.experiment}/{run.arm}", run.tokens_sha256))
        arm_of = {name: arm if own == same else own for name, own in arm_of.items()}
    return tuple(arm_of[run.tokens_sha256] for run in runs)


def _refuse_too_little(trials: Trials) -> None:
    arms = len(set(trials.arms))
    hint = "Add arms with other scores: top, bottom, random, mixtures of them."
    if arms < FEWEST_ARMS:
        message = f"{arms} arms are too few to fit: {FEWEST_ARMS} are needed, and a dozen is better."
        raise RipcurrentError(message, hint, code=ExitCode.NOT_MEASURED)
    shares, cosines = trials.answered / trials.asked, trials.facts[:, 0]
    if (p := chance_of_alike(trials)) > ALPHA:
        raise RipcurrentError(
            f"The ladder did not move: its {arms} arms answered {shares.min():.1%} to {shares.max():.1%} of the "
            f"harmful requests, no further apart than by chance (p {p:.2g}, and at most {ALPHA} is needed).",
            "Train on more rows (experiment own_ladder --size A,B,C) or by a stronger recipe; where nearly all are "
            "answered, by a milder one.",
            code=ExitCode.NOT_MEASURED,
        )
    if np.ptp(cosines) <= 1e-9 * (1 + np.abs(cosines).max()):
        raise RipcurrentError("All arms have the same cosine.", hint, code=ExitCode.NOT_MEASURED)


def chance_of_alike(trials: Trials) -> float:
    """The p-value of arms that answer alike but for requests and luck between runs.

    Chi-squared; with enough repeats F over runs where that is larger.
    """
    rates, pooled = trials.answered / trials.asked, trials.answered.sum() / trials.asked.sum()
    if not 0 < pooled < 1:
        return 1.0
    same = np.equal.outer(np.array(trials.arms), np.array(trials.arms))
    arms = len(set(trials.arms))
    repeats = len(trials) - arms
    luck = 0.0 if repeats >= REPEATS else RUN_SPREAD**2 / SPREAD_AT
    mean, weights = (
        same @ trials.answered / (same @ trials.asked),
        1 / (pooled * (1 - pooled) * (1 / trials.asked + luck)),
    )
    between, within = float(weights @ (mean - pooled) ** 2), float(weights @ (rates - mean) ** 2)
    found = float(chi2.sf(between, arms - 1))
    if repeats >= REPEATS and within > 0:
        found = max(found, float(f.sf(between / (arms - 1) / (within / repeats), arms - 1, repeats)))
    return found


def _notes(trials: Trials) -> Iterator[str]:
    arms = len(set(trials.arms))
    if len(set(trials.sources)) == 1:
        yield f"All rows come from {trials.sources[0]}: how far another dataset lies from it is assumed, not measured."
    if arms < 12:
        yield f"{arms} arms are few: the fit leans on its priors."
    if arms == len(trials):
        yield "One run of each arm: what lies between seeds is counted as between arms."


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


def error_by_source(
    trials: Trials, ends: Sequence[str], base: tuple[int, int] | None
) -> tuple[ForecastError | None, list[HarmForecast | None]]:
    """The error on each source with all its arms left out, as one that the fit has never seen; and every forecast.

    A run whose rows or cosine are beyond those of all other sources is not counted: it would be refused a forecast.
    None where there is one source, or where no source leaves five arms of others. ``ends`` are those of the runs.
    """
    if len(set(trials.sources)) < 2:
        return None, [None] * len(trials)
    every = _left_out(trials, [(held, held) for held in _groups(trials.sources)], FEWEST_ARMS)
    refused = np.zeros(len(trials), dtype=bool)
    for held in _groups(trials.sources):
        for name, own, rest in zip(trials.names, trials.facts[held].T, trials.facts[~held].T, strict=True):
            refused[held] |= is_beyond(name, own, rest.min(), rest.max())
    found = [None if own else one for one, own in zip(every, refused, strict=True)]
    if (error := _error("source", trials, found)) is None:
        return None, found
    guess, by_source, kept = _by_category(trials, np.array(ends)), [], np.array([one is not None for one in found])
    for one in error.by_source:
        held = np.array(trials.sources) == one.name
        own = [held & kept & arm for arm in _groups(trials.arms)]
        off = float(np.mean([abs((guess - trials.answered / trials.asked)[arm].mean()) for arm in own if arm.any()]))
        by_source.append(one.model_copy(update={"by_category": off, "clean": _is_clean(trials.where(held), base)}))
    update = {
        "refused": found.count(None) - every.count(None),
        "by_source": tuple(sorted(by_source, key=lambda one: one.kind)),
    }
    update["by_category"] = float(np.mean([one.by_category for one in by_source]))
    return error.model_copy(update=update), found


def _by_category(trials: Trials, ends: npt.NDArray[np.str_]) -> FloatArray:
    """For each run the mean rate of other sources' arms of its end; of all their arms where none is of that end."""
    rates, arms, found = trials.answered / trials.asked, np.array(trials.arms), np.zeros(len(trials))
    weights = 1 / (arms[:, None] == arms).sum(axis=1)
    for held in _groups(trials.sources):
        for end in set(ends[held]):
            others = ~held & (ends == end)
            others = others if others.any() else ~held
            found[held & (ends == end)] = np.average(rates[others], weights=weights[others])
    return found


def _is_clean(trials: Trials, base: tuple[int, int] | None) -> bool | None:
    """Whether no arm answered more than the untrained model, by Fisher's exact test and Holm."""
    if base is None:
        return None
    counts = [(trials.answered[arm].sum(), trials.asked[arm].sum()) for arm in _groups(trials.arms)]
    tables = [[[answered, asked - answered], [base[0], base[1] - base[0]]] for answered, asked in counts]
    return min(holm([float(fisher_exact(table, alternative="greater").pvalue) for table in tables])) > RISEN


def _groups(names: Sequence[str]) -> list[BoolArray]:
    """The runs of each name, shape ``(runs,)`` each."""
    return [np.array(names) == name for name in dict.fromkeys(names)]


def _left_out(trials: Trials, folds: Iterable[tuple[BoolArray, BoolArray]], fewest: int) -> list[HarmForecast | None]:
    """Forecasts of each fold's first runs by a fit without its second ones; None without ``fewest`` arms, or a fold."""
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
    """How forecasts differ from what runs answered, over arms and by source; of sources left out each counts alike."""
    forecasts = [one for one in found if one is not None]
    if not forecasts:
        return None
    trials = trials.where(np.array([one is not None for one in found]))
    answered, lows, highs = np.array([[one.answered, one.low, one.high] for one in forecasts]).T
    observed = trials.answered / trials.asked
    inside = (lows <= observed + 1e-9) & (observed <= highs + 1e-9)
    arms = _groups(trials.arms)
    seen, said = (np.array([values[arm].mean() for arm in arms]) for values in (observed, answered))
    source_of_arm = np.array([trials.sources[arm.argmax()] for arm in arms])
    by_source = [
        SourceError(
            name=name,
            arms=int(own.sum()),
            observed=float(seen[own].mean()),
            forecast=float(said[own].mean()),
            mean_absolute_error=float(np.abs(said - seen)[own].mean()),
            coverage=float(inside[runs].mean()),
        )
        for name, runs in zip(dict.fromkeys(trials.sources), _groups(trials.sources), strict=True)
        for own in [source_of_arm == name]
    ]
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
