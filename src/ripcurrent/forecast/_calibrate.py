"""Calibrate: fit what finished experiments answered, so that a scan can say what training on its rows would do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.forecast._calibration import (
    LOG_ROWS,
    LOG_STEPS,
    SET_COSINE,
    Calibration,
    Conditions,
    read_calibration,
    write_calibration,
)
from ripcurrent.forecast._coherence import SetScores
from ripcurrent.forecast._errors import FEWEST_ARMS, error_by_set, error_by_source
from ripcurrent.forecast._harm import HarmForecast
from ripcurrent.forecast._harm_fit import FloatArray, Trials, fit_harm
from ripcurrent.forecast._ladder import CalibrationRun, Ladder, read_ladder
from ripcurrent.progress import Progress, SilentProgress

CEILING = 0.02
"""Runs that all lie this near to 0 or to 1 say nothing about what made the difference."""
VARIES = 0.05
"""A logarithm is a fact where its standard deviation over the runs is above this: 5 %."""
SAME = 0.95
"""Steps are not a fact of their own where they correlate this much with the rows."""


@dataclass(frozen=True, slots=True)
class FittedRun:
    """A run beside its forecast by a fit that has not seen it."""

    run: CalibrationRun
    forecast: HarmForecast | None
    """None where too few runs do not share its rows."""


def calibrate(
    experiments: Sequence[str | Path],
    out: str | Path,
    *,
    scans: Sequence[str | Path] = (),
    judge: str = "prefix",
    progress: Progress | None = None,
) -> tuple[Calibration, tuple[FittedRun, ...]]:
    """Fit what finished experiments answered to the cosines of the sets that they trained on, and keep the fit.

    Args:
        experiments: Folders of experiments; all asked the same, were trained by one recipe and judged alike.
        out: The calibration's file.
        scans: Further finished scans, for arms whose rows came from a file.
        judge: Whose verdicts count.
        progress: Gets the steps.

    Returns:
        The calibration, and each run beside its forecast by the fit without it and all that share its rows.

    Raises:
        RipcurrentError: A folder that holds no finished experiment, experiments that do not belong together, runs that
            nothing can be learned from (exit code 2), or a file that cannot be written.
    """
    report = progress or SilentProgress()
    target = Path(out)
    _refuse_other_file(target)
    report.step("reading the experiments")
    folders, further = [Path(one) for one in experiments], [Path(one) for one in scans]
    ladder = read_ladder(folders, further, judge, SetScores(report))
    report.step(f"fitting {len(ladder.runs)} runs, and again with each set left out")
    calibration, fitted = fit_ladder(ladder)
    write_calibration(target, calibration)
    return calibration, fitted


def fit_ladder(ladder: Ladder) -> tuple[Calibration, tuple[FittedRun, ...]]:
    """Fit a ladder's runs and measure the fit's error on sets and sources left out.

    Raises:
        RipcurrentError: Fewer than five arms, arms that all have one cosine, or runs that all answer alike.
    """
    runs, trials = ladder.runs, as_trials(ladder.runs)
    _refuse_too_little(trials)
    by_set, forecasts = error_by_set(trials, [run.row_ids for run in runs])
    fit = fit_harm(trials)
    by_name = {source.name: source for source in ladder.sources}
    rows, cosines = [run.rows for run in runs], [run.cosine for run in runs]
    calibration = Calibration(
        **{name: getattr(ladder.conditions, name) for name in Conditions.model_fields},
        version=version("ripcurrent"),
        date=datetime.now(UTC).date().isoformat(),
        scored_with=ladder.scored_with,
        sources=tuple(by_name[name] for name in fit.sources),
        rows_range=(min(rows), max(rows)),
        cosine_range=(min(cosines), max(cosines)),
        runs=len(runs),
        fit=fit,
        error_by_set=by_set,
        error_by_source=error_by_source(trials),
        left_out=ladder.left_out,
        notes=tuple(_notes(trials)),
    )
    return calibration, tuple(FittedRun(run, one) for run, one in zip(runs, forecasts, strict=True))


def _refuse_other_file(path: Path) -> None:
    """Refuse to write over anything but an earlier calibration, before anything is computed.

    Raises:
        RipcurrentError: The path is a folder, or another file.
    """
    if path.is_dir():
        raise RipcurrentError(f"{path} is a folder.", "Name a file with --out, such as calibration.json.")
    if path.exists():
        try:
            read_calibration(path)
        except RipcurrentError as error:
            raise RipcurrentError(
                f"{path} exists and is not a calibration.", "Name another file with --out."
            ) from error


def as_trials(runs: Sequence[CalibrationRun]) -> Trials:
    """Runs as the fit takes them: the set's cosine, and the logarithms of rows and steps where they vary."""
    rows, steps = (np.log([getattr(run, what) for run in runs]) for what in ("rows", "steps"))
    values = {SET_COSINE: np.array([run.cosine for run in runs]), LOG_ROWS: rows, LOG_STEPS: steps}
    facts = [SET_COSINE]
    if rows.std() > VARIES:
        facts.append(LOG_ROWS)
    if steps.std() > VARIES and (LOG_ROWS not in facts or abs(np.corrcoef(rows, steps)[0, 1]) < SAME):
        facts.append(LOG_STEPS)
    return Trials(
        names=tuple(facts),
        facts=np.stack([values[name] for name in facts], axis=1),
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


def _refuse_too_little(trials: Trials) -> None:
    arms = len(set(trials.arms))
    hint = "Add arms with other scores: top, bottom, random, mixtures of them."
    if arms < FEWEST_ARMS:
        raise RipcurrentError(
            f"{arms} arms are too few to fit: {FEWEST_ARMS} are needed, and a dozen is better.",
            hint,
            code=ExitCode.NOT_MEASURED,
        )
    shares = trials.answered / trials.asked
    if shares.max() <= CEILING or shares.min() >= 1 - CEILING:
        raise RipcurrentError(
            f"Every run answered {shares.min():.0%} to {shares.max():.0%} of the harmful requests: what they trained "
            "on made no difference that could be fitted.",
            "Use a milder recipe where all answer, a stronger one where none does.",
            code=ExitCode.NOT_MEASURED,
        )
    cosines: FloatArray = trials.facts[:, 0]
    if np.ptp(cosines) <= 1e-9 * (1 + np.abs(cosines).max()):
        raise RipcurrentError("All arms have the same cosine.", hint, code=ExitCode.NOT_MEASURED)


def _notes(trials: Trials) -> Iterator[str]:
    shares = trials.answered / trials.asked
    arms = len(set(trials.arms))
    if len(set(trials.sources)) == 1:
        yield f"All rows come from {trials.sources[0]}: how far another dataset lies from it is assumed, not measured."
    if arms < 12:
        yield f"{arms} arms are few: the fit leans on its priors."
    if arms == len(trials):
        yield "One run of each arm: what lies between seeds is counted as between arms."
    if np.ptp(shares) < 0.15:
        yield (
            f"All runs answered between {shares.min():.0%} and {shares.max():.0%}: "
            "with this recipe the scores say little."
        )
