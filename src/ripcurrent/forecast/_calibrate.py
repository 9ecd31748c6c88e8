"""From a ladder of runs to a calibration: the facts that vary, the fit, and its error on what it has not seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.forecast._calibration import (
    LOG_ROWS,
    LOG_STEPS,
    Calibration,
    CalibrationRun,
    Compared,
    LeftOut,
    with_set_cosine,
)
from ripcurrent.forecast._calibration_errors import FEWEST_ARMS, error_by_arm, error_by_rows, error_by_source
from ripcurrent.forecast._conditions import recipe_sha256
from ripcurrent.forecast._harm_fit import FloatArray, Trials, fit_harm
from ripcurrent.forecast._ladder import Ladder
from ripcurrent.scan._columns import DIRECTION_OF_RISK, SET_COSINE

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
        if column in ladder.runs[0].means and column not in with_set_cosine(reference.means, 1):
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


def _compared(runs: Sequence[CalibrationRun], columns: tuple[str, ...], told: Callable[[int], None]) -> list[Compared]:
    """The error of every column alone, of none, of the two parts of the gradient, and of the columns with another.

    All on the runs that the forecast's own columns could forecast.
    """
    everywhere = [name for name in runs[0].means if all(name in run.means for run in runs)]
    own = as_trials(runs, columns)
    ranking = [name for name in everywhere if DIRECTION_OF_RISK.get(name) in ("higher", "lower")]
    alone = [SET_COSINE, *ranking, *BESIDE]
    choices: list[tuple[str, ...]] = [(), *((name,) for name in alone if name in everywhere)]
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
