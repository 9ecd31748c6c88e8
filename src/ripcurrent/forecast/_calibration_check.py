"""A calibration against finished experiments that it was not made of: what it forecasts of them, and what came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.forecast._calibrate import as_trials
from ripcurrent.forecast._calibration import Calibration, CalibrationRun, ForecastError, LeftOut, find_calibration
from ripcurrent.forecast._calibration_errors import forecast_error
from ripcurrent.forecast._coherence import CoherenceOfRuns
from ripcurrent.forecast._conditions import differences, recipe_sha256
from ripcurrent.forecast._harm import HarmForecast
from ripcurrent.forecast._ladder import Ladder, read_ladder
from ripcurrent.forecast._shared_rows import shared_rows
from ripcurrent.forecast._write import facts_of, outside
from ripcurrent.progress import Progress, SilentProgress

SEEN = 0.5
"""A run that shares this part of the smaller one's rows with a run of the calibration is none that it has not seen."""


@dataclass(frozen=True, slots=True)
class CheckedRun:
    """A run beside its forecast."""

    run: CalibrationRun
    """The run, with the forecast and its 90 % interval where there is one."""
    known_source: bool
    """Whether the calibration has runs of its dataset."""
    reason: str | None
    """Why its forecast does not count; None where it does."""

    @property
    def inside(self) -> bool | None:
        """Whether the outcome lies inside the interval; None without a forecast."""
        if self.run.low is None or self.run.high is None:
            return None
        return self.run.low - 1e-9 <= self.run.share <= self.run.high + 1e-9


@dataclass(frozen=True, slots=True)
class CalibrationCheck:
    """How a calibration's forecasts of finished runs erred."""

    calibration: str
    """Its file or name."""
    columns: tuple[str, ...]
    """Score columns that it forecasts by."""
    runs: tuple[CheckedRun, ...]
    """All runs that can be read."""
    error: ForecastError
    """Over the runs whose forecast counts: no run of the same rows is in the calibration, and it speaks of them."""
    left_out: tuple[LeftOut, ...]
    """Runs that cannot be read, and why."""
    notes: tuple[str, ...]
    """What is not as in the calibration."""

    def as_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "calibration": self.calibration,
            "columns": list(self.columns),
            "error": self.error.model_dump(mode="json"),
            "runs": [
                {
                    **one.run.model_dump(mode="json"),
                    "share": one.run.share,
                    "known_source": one.known_source,
                    "inside": one.inside,
                    "reason": one.reason,
                }
                for one in self.runs
            ],
            "left_out": [one.model_dump(mode="json") for one in self.left_out],
            "notes": list(self.notes),
        }


def check_calibration(
    experiments: Sequence[str | Path],
    calibration: str | Path,
    *,
    scans: Sequence[str | Path] = (),
    progress: Progress | None = None,
) -> CalibrationCheck:
    """Forecast the runs of finished experiments by a calibration, and say how far that is from what came.

    Runs on rows that the calibration was made of are listed and not counted.

    Args:
        experiments: Folders of experiments of arms, with the calibration's model, anchors and recipe.
        calibration: A calibration's file, or the name of one that comes with the package, such as ``embedded``.
        scans: Further finished scans, for arms whose rows came from a file.
        progress: Told of steps.

    Raises:
        RipcurrentError: No calibration, folders that hold no finished experiment, another model, other scores or
            another recipe than the calibration's (the first difference is named), or no run that can be forecast.
    """
    told = progress or SilentProgress()
    made = find_calibration(calibration)
    told.step("reading the experiments")
    folders, further = [Path(one) for one in experiments], [Path(one) for one in scans]
    measure = CoherenceOfRuns(told) if made.wants_coherence else None
    ladder = read_ladder(folders, further, judge=made.judge.name, coherence=measure)
    _refuse_others(made, ladder)
    checked = tuple(_checked(run, made, ladder) for run in ladder.runs)
    counted = [one.run for one in checked if one.reason is None]
    if not counted:
        raise RipcurrentError(
            f"No run can be held against the calibration: {checked[0].reason}.",
            "Name experiments on other rows, of as many as it was made with.",
            code=ExitCode.NOT_MEASURED,
        )
    forecasts = [HarmForecast(run.forecast or 0.0, run.low or 0.0, run.high or 0.0) for run in counted]
    error = forecast_error("arm", as_trials(counted, made.columns), forecasts, np.ones(len(counted), dtype=bool))
    return CalibrationCheck(
        str(calibration), made.columns, checked, error, ladder.left_out, tuple(_notes(made, ladder))
    )


def _checked(run: CalibrationRun, made: Calibration, ladder: Ladder) -> CheckedRun:
    sha256 = next(source.sha256 for source in ladder.sources if source.name == run.source)
    source = next((one.name for one in made.sources if one.sha256 == sha256), None)
    lacking = next((column for column in made.columns if column not in run.means), None)
    if lacking is not None:
        return CheckedRun(run, source is not None, f"its rows have no {lacking}")
    reason = outside(made, run.rows, run.means)
    if reason is None:
        found = made.fit.forecast(facts_of(made, run.rows, run.means, run.steps), run.asked, source)
        run = run.model_copy(update={"forecast": found.answered, "low": found.low, "high": found.high})
        if any(run.tokens_sha256 == own.tokens_sha256 for own in made.runs):
            reason = "the calibration was made of its rows"
        elif (shared := np.nanmax([0.0, *(shared_rows(run.row_hashes, own.row_hashes) for own in made.runs)])) >= SEEN:
            reason = f"a run of the calibration shares {100 * shared:.0f} % of the smaller one's rows with it"
    return CheckedRun(run, source is not None, reason)


def _refuse_others(made: Calibration, ladder: Ladder) -> None:
    hint = "A calibration speaks of the model, anchors, options and recipe that it was made with."
    reason = made.scored_with.difference(ladder.scored_with, made.columns)
    if reason is not None:
        raise RipcurrentError(f"The calibration does not match these experiments: {reason}.", hint)
    recipe = ladder.conditions.recipe
    if recipe_sha256(recipe) != made.recipe_sha256:
        raise RipcurrentError(
            f"The experiments' recipe ({recipe.get('name', 'unnamed')}) has other settings than the calibration's "
            f"({made.recipe_name}).",
            hint,
        )


def _notes(made: Calibration, ladder: Ladder) -> list[str]:
    now, notes = ladder.conditions, []
    if now.prompts.sha256 != made.prompts.sha256:
        notes.append(
            f"Other harmful requests were asked ({now.prompts.name}, {now.prompts.count}) than the calibration is of "
            f"({made.prompts.name}, {made.prompts.count}): part of the error may be theirs."
        )
    for what, then, here in differences(now, made):
        notes.append(f"The {what} is another: {here} here, {then} in the calibration.")
    return notes
