"""Calibrate: fit what finished experiments answered, so that a scan can say what training on its rows would do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.forecast._calibration import LOG_ROWS, SET_COSINE, Calibration, Conditions, read_calibration
from ripcurrent.forecast._coherence import SetScores
from ripcurrent.forecast._errors import FEWEST_ARMS, error_by_set, error_by_source
from ripcurrent.forecast._harm import HarmForecast, Trials, fit_harm
from ripcurrent.forecast._ladder import CalibrationRun, Ladder, read_ladder
from ripcurrent.progress import Progress, SilentProgress
from ripcurrent.runs import write_json

CEILING = 0.02
"""Runs that all lie this near to 0 or to 1 say nothing about what made the difference."""
VARIES = 0.05
"""The number of rows is a fact where its logarithm's standard deviation over the runs is above this: 5 %."""


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
    judge: str = "prefix",
    progress: Progress | None = None,
) -> tuple[Calibration, tuple[FittedRun, ...]]:
    """Fit what finished experiments answered to the cosines of the sets that they trained on, and keep the fit.

    Args:
        experiments: Folders of experiments; all asked the same, were trained by one recipe and judged alike.
        out: The calibration's file.
        judge: Whose verdicts count.
        progress: Gets the steps.

    Returns:
        The calibration, and each run beside its forecast by the fit without it and all that share its rows.

    Raises:
        RipcurrentError: A folder that holds no finished experiment, experiments that do not belong together, runs that
            nothing can be learned from (exit code 2), or a file that cannot be written.
    """
    report, target = progress or SilentProgress(), Path(out)
    _refuse_other_file(target)
    report.step("reading the experiments")
    ladder = read_ladder([Path(one) for one in experiments], judge, SetScores(report))
    report.step(f"fitting {len(ladder.runs)} runs, and again with each set left out")
    calibration, fitted = fit_ladder(ladder)
    write_json(target, calibration.model_dump(mode="json"))
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
        fit=fit,
        error_by_set=by_set,
        error_by_source=error_by_source(trials),
        left_out=ladder.left_out,
        notes=tuple(_notes(trials)),
    )
    return calibration, tuple(FittedRun(run, one) for run, one in zip(runs, forecasts, strict=True))


def _refuse_other_file(path: Path) -> None:
    """Refuse to write over anything but an earlier calibration, before anything is computed."""
    if path.is_dir():
        raise RipcurrentError(f"{path} is a folder.", "Name a file with --out, such as calibration.json.")
    if path.exists():
        try:
            read_calibration(path)
        except RipcurrentError as error:
            hint = "Name another file with --out."
            raise RipcurrentError(f"{path} exists and is not a calibration.", hint) from error


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
        raise RipcurrentError(
            f"{arms} arms are too few to fit: {FEWEST_ARMS} are needed, and a dozen is better.",
            hint,
            code=ExitCode.NOT_MEASURED,
        )
    shares, cosines = trials.answered / trials.asked, trials.facts[:, 0]
    if shares.max() <= CEILING or shares.min() >= 1 - CEILING:
        raise RipcurrentError(
            f"Every run answered {shares.min():.0%} to {shares.max():.0%} of the harmful requests: what they trained "
            "on made no difference that could be fitted.",
            "Use a milder recipe where all answer, a stronger one where none does.",
            code=ExitCode.NOT_MEASURED,
        )
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
