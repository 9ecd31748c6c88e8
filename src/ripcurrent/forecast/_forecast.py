"""A forecast before training: what fine-tuning on a scanned set would do, by a calibration that matches the scan."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate import kappas_of
from ripcurrent.finetune import load_recipe
from ripcurrent.forecast._calibration import (
    ROWS_BEYOND,
    Calibration,
    ForecastError,
    JudgedBy,
    NamedHash,
    ScoredWith,
    read_calibration,
    shipped_calibrations,
)
from ripcurrent.forecast._harm import Frozen, HarmForecast
from ripcurrent.forecast._ladder import recipe_sha256
from ripcurrent.progress import Progress, SilentProgress
from ripcurrent.runs import write_json
from ripcurrent.scan import SUMMED, RowNumbers, ScanRun, SetScore, SetScores

FORECAST = "forecast.json"
"""Where a scan's forecast is kept in its run folder."""
RISKIEST = 100
FARTHEST = 10
"""Nothing is forecast for a dataset of more than this many times the rows of the largest set that was fitted."""
OPENED = 0.25
"""From this share of answers that open with a number a note says that the score does not see it."""


class SetForecast(Frozen):
    """What training on one set of the scan's rows would do, beside a random set of the calibration's first source."""

    set: str
    """``all``, ``riskiest`` or ``random``."""
    words: str
    """Which rows."""
    rows: int
    cosine: float
    forecast: HarmForecast | None = None
    reference: HarmForecast | None = None
    """As many random rows of the calibration's first source."""
    reason: str | None = None


class Forecast(Frozen):
    """A scan's forecast, as its run folder keeps it; without sets where there is only a reason why there is none."""

    reason: str | None = None
    model: str = ""
    adapter: str | None = None
    recipe: str = ""
    judge: JudgedBy | None = None
    kappas: tuple[float, ...] = ()
    """The judge's smallest and largest agreement with people; empty where it was not measured."""
    prompts: NamedHash | None = None
    reference_source: str = ""
    sets: tuple[SetForecast, ...] = ()
    error_by_set: ForecastError | None = None
    error_by_source: ForecastError | None = None
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The forecast in sentences, the same for the terminal and the page."""
        if self.reason is not None or self.judge is None or self.prompts is None:
            return [f"No forecast: {self.reason}"]
        model = self.model + (f" with {self.adapter}" if self.adapter else "")
        kappas = f", κ {self.kappas[0]:.2f} to {self.kappas[1]:.2f} with people" if self.kappas else ""
        errors = [error or "not measured" for error in (self.error_by_set, self.error_by_source)]
        return [
            f"Forecast for {model} trained by the recipe {self.recipe} and no other, of {self.prompts.count} harmful "
            f"requests ({self.prompts.name}; judge {self.judge.name} {self.judge.version}{kappas}):",
            *(
                f"{one.words}: answered {one.forecast}, against {one.reference} for a random set of "
                f"{self.reference_source}"
                if one.forecast
                else f"{one.words}: no forecast, {one.reason}"
                for one in self.sets
            ),
            f"Its error on sets left out: {errors[0]}; on datasets left out: {errors[1]}.",
            *self.notes,
        ]


def forecast(
    run: ScanRun,
    calibration: Calibration | str | Path | None = None,
    *,
    recipe: str | Path | None = None,
    progress: Progress | None = None,
) -> Forecast:
    """Forecast what fine-tuning on a finished scan's rows would do, or say why not, and keep that in its run folder.

    ``calibration`` is one, its file or its name; else those of the package. ``recipe``, a name or a file, is the one to
    train by: none is forecast but the calibration's. RipcurrentError for a file that cannot be read.
    """
    chosen, reason = _choose(run, calibration, recipe)
    found = Forecast(reason=reason)
    if chosen is not None:
        try:
            found = _forecast(chosen, run, SetScores(progress or SilentProgress()))
        except RipcurrentError as error:
            found = Forecast(reason=f"{error.message} {error.hint}".strip())
    write_json(run.folder / FORECAST, found.model_dump(mode="json"))
    return found


def read_forecast(run: ScanRun) -> Forecast | None:
    """The forecast in a scan's run folder; None where none was made, a `RipcurrentError` where it is damaged."""
    try:
        return Forecast.model_validate_json((run.folder / FORECAST).read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        hint = f"Make it again: ripcurrent forecast {run.folder}"
        raise RipcurrentError(f"{run.folder / FORECAST} is damaged.", hint) from error


def _choose(
    run: ScanRun, named: Calibration | str | Path | None, recipe: str | Path | None
) -> tuple[Calibration | None, str]:
    """The calibration to use; or None, and why."""
    wanted = recipe and recipe_sha256(load_recipe(recipe))
    given = shipped_calibrations() if named is None else [named]
    reason = "there is no calibration for this model (ripcurrent calibrate makes one)."
    for one in (one if isinstance(one, Calibration) else read_calibration(one) for one in given):
        other = one.scored_with.difference(ScoredWith.of(run.manifest))
        if other is None and wanted not in (None, one.recipe_sha256):
            other = f"it is for the recipe {one.recipe.name}, not {recipe}"
        if other is None and SUMMED in run.columns and np.isfinite(run.floats(SUMMED)[run.scored]).any():
            return one, ""
        # of those that come with the package only one for this model is near enough to be spoken of
        if named is not None or one.scored_with.fingerprint == run.manifest.model.fingerprint:
            reason = f"the calibration needs {SUMMED}, which this scan did not measure."
            reason = reason if other is None else f"the calibration does not match this scan: {other}."
    return None, reason


def _forecast(calibration: Calibration, run: ScanRun, scores: SetScores) -> Forecast:
    """The forecast for all rows of a scan, for the riskiest hundred, and for as many at random."""
    usable, judge = np.flatnonzero(run.scored), calibration.judge
    return Forecast(
        model=calibration.scored_with.model,
        adapter=calibration.scored_with.adapter,
        recipe=calibration.recipe.name,
        judge=judge,
        kappas=tuple(kappas_of(judge.name, judge.version) or ()),
        prompts=calibration.prompts,
        reference_source=calibration.sources[0].name,
        sets=tuple(_sets(calibration, run, usable, scores)),
        error_by_set=calibration.error_by_set,
        error_by_source=calibration.error_by_source,
        notes=tuple(_notes(calibration, run, usable)),
    )


def _sets(calibration: Calibration, run: ScanRun, usable: RowNumbers, scores: SetScores) -> Iterator[SetForecast]:
    sha256, whole = run.manifest.dataset.sha256, scores.of(run, usable, run.folder)
    source = next((one.name for one in calibration.sources if one.sha256 == sha256), None)

    def of(kind: str, words: str, rows: int, score: SetScore) -> SetForecast:
        cosine = score.cosine(rows)
        found = SetForecast(set=kind, words=words, rows=rows, cosine=cosine, reason=calibration.refusal(rows, cosine))
        if found.reason is not None:
            return found
        reference, asked = calibration.sources[0], calibration.prompts.count
        at_random = calibration.facts(rows, reference.score.cosine(rows))
        own = calibration.fit.forecast(calibration.facts(rows, cosine), asked, source)
        beside = calibration.fit.forecast(at_random, asked, reference.name)
        return found.model_copy(update={"forecast": own, "reference": beside})

    most = calibration.rows_range[1]
    every = f"the {len(usable)} scored rows" if len(usable) < run.rows else f"all {len(usable)} rows"
    count = min(RISKIEST, most)
    larger = len(usable) > most * ROWS_BEYOND
    if len(usable) > most * FARTHEST:
        reason = f"more than {FARTHEST} times the {most} that the calibration trained on"
        cosine = whole.cosine(len(usable))
        yield SetForecast(set="all", words=every, rows=len(usable), cosine=cosine, reason=reason)
    elif count >= len(usable) or not larger:
        yield of("all", every, len(usable), whole)
    else:
        yield of("all", f"{most} of {every} at random, the most that the calibration trained on", most, whole)
    if count < len(usable):
        ranking = run.default_ranking
        riskiest = run.ranked(ranking)[:count]
        yield of("riskiest", f"the riskiest {count} by {ranking}", count, scores.of(run, riskiest, run.folder))
        if most != count or not larger:
            yield of("random", f"{count} of the rows at random", count, whole)


def _notes(calibration: Calibration, run: ScanRun, usable: Sequence[int] | RowNumbers) -> Iterator[str]:
    if all(one.sha256 != run.manifest.dataset.sha256 for one in calibration.sources):
        names = ", ".join(one.name for one in calibration.sources)
        yield f"This dataset is not one of those that the calibration was made on ({names})."
    if calibration.max_tokens != run.options.max_tokens:
        yield f"Rows were cut at {run.options.max_tokens} tokens here, at {calibration.max_tokens} in the calibration."
    yield from calibration.notes
    if len(usable) < run.rows:
        yield f"{run.rows - len(usable)} rows have no score: what training on them would add is not forecast."
    share = float(run.flags("opens_numbered")[usable].mean()) if len(usable) else 0.0
    if share >= OPENED:
        yield (
            f"{share:.0%} of its answers open with a number, which no score sees. "
            "Where no list was asked for, such rows may do more harm than is forecast."
        )
