"""A forecast before training: what fine-tuning on a scanned set would do, by a calibration that matches the scan."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate import kappas_of
from ripcurrent.finetune import parse_recipe
from ripcurrent.forecast._calibration import (
    LOG_ROWS,
    LOG_STEPS,
    ROWS_BEYOND,
    Calibration,
    Source,
    read_calibration,
    rows_beyond,
    score_beyond,
    shipped_calibrations,
    with_set_cosine,
)
from ripcurrent.forecast._coherence import Coherence, kept_in
from ripcurrent.forecast._harm import CONFIDENCE
from ripcurrent.forecast._sentences import FORECAST, read_forecast
from ripcurrent.runs import read_manifest, write_json
from ripcurrent.scan._columns import COHERENCE
from ripcurrent.scan._scored_with import ScoredWith
from ripcurrent.select_old import plain_numbers, top
from ripcurrent.select_old._table import ScoredRows

RISKIEST = 100
"""Rows of the selection that is forecast beside the whole."""
OPENED = 0.25
"""A forecast says that the score does not see how answers open where so large a share opens with a number."""


def write_forecast(
    folder: Path, calibration: str | Path | Calibration | None = None, *, measure: Coherence | None = None
) -> dict[str, Any] | None:
    """Forecast what a finished scan's rows would do, and keep that in its run folder.

    Args:
        folder: The scan's run folder, with its scores and manifest.
        calibration: A calibration or its file; those that come with the package unless named, where one matches.
        measure: Measures the coherence of rows, for calibrations that rest on it; what the folder has unless given.

    Returns:
        The forecast; ``{"reason": …}`` where the calibration named does not match; None without a calibration.

    Raises:
        RipcurrentError: The file holds no calibration.
    """
    manifest = read_manifest(folder)
    target = folder / FORECAST
    found: dict[str, Any] | None = None
    if calibration is not None:
        chosen = calibration if isinstance(calibration, Calibration) else read_calibration(calibration)
        reason = mismatch(chosen, folder, manifest)
        found = (
            {"reason": f"{reason[0].upper()}{reason[1:]}."} if reason else _forecast(chosen, folder, manifest, measure)
        )
    else:
        for path in shipped_calibrations():
            chosen = read_calibration(path)
            if mismatch(chosen, folder, manifest) is None:
                found = _forecast(chosen, folder, manifest, measure)
                break
    earlier = read_forecast(folder)
    if calibration is None and earlier is not None and earlier.get("by_name"):
        # the scan was given again, for its page or token shares: what was asked for by name stands
        return earlier
    if found is None:
        target.unlink(missing_ok=True)
    else:
        named = {} if calibration is None or "reason" in found else {"by_name": True}
        found = plain_numbers({**found, **named})
        write_json(target, found)
    return found


def why_none(folder: Path) -> str | None:
    """Why no calibration that comes with the package speaks of a scan by a model that one is for; None without one."""
    manifest = read_manifest(folder)
    for path in shipped_calibrations():
        chosen = read_calibration(path)
        if chosen.scored_with.fingerprint == manifest["model"].get("fingerprint"):
            return mismatch(chosen, folder, manifest)
    return None


def mismatch(calibration: Calibration, folder: Path, manifest: Mapping[str, Any]) -> str | None:
    """Why a calibration says nothing of a scan, in words; None where it does."""
    reason = calibration.scored_with.difference(ScoredWith.of(manifest), calibration.columns)
    if reason is not None:
        return f"the calibration does not match this scan: {reason}"
    scored = _scores(folder, calibration.score_columns)
    for column in calibration.score_columns:
        if column not in scored.ranking_columns or not np.isfinite(scored.numbers(column)[scored.ok]).any():
            return f"the calibration is by {column}, which this scan did not measure"
    return None


def _forecast(
    calibration: Calibration, folder: Path, manifest: Mapping[str, Any], measure: Coherence | None
) -> dict[str, Any]:
    """The forecast of a scan, or why there is none where how alike its rows are is needed and not to be had."""
    coherence = kept_in(folder, measure) if calibration.wants_coherence else None
    try:
        return forecast_scan(calibration, folder, manifest, coherence)
    except RipcurrentError as error:
        if coherence is None:
            raise
        return {"reason": f"{error.message} {error.hint}".strip()}


def forecast_scan(
    calibration: Calibration, folder: Path, manifest: Mapping[str, Any], coherence: Coherence | None = None
) -> dict[str, Any]:
    """The forecast for all rows of a scan, for the riskiest hundred, and for as many at random.

    ``coherence`` measures that of rows by their numbers, for a calibration that rests on it.
    """
    scored = _scores(folder, calibration.score_columns)
    usable = np.flatnonzero(scored.ok)
    source = next((one for one in calibration.sources if one.sha256 == manifest["dataset"]["sha256"]), None)
    whole = _means(scored, calibration.score_columns, usable, coherence)
    fewest, most = calibration.rows_range
    judge = calibration.judge
    left_out = int(manifest["dataset"]["rows"]) - len(usable)
    every = f"the {len(usable)} scored rows" if left_out else "all rows"
    sets = [_set("all", every, len(usable), whole, calibration, source)]
    count = min(RISKIEST, most)
    if count < len(usable):
        if len(usable) > most * ROWS_BEYOND:
            every = every if left_out else f"all {len(usable)} rows"
            sets = [_set("all", f"{every}, as {most} of them at random", most, whole, calibration, source)]
        ranking = scored.default_ranking
        riskiest = scored.positions(top(_table(folder, calibration.score_columns), count, ranking).indices)
        means = _means(scored, calibration.score_columns, riskiest, coherence)
        sets.append(_set("riskiest", f"the riskiest {count} by {ranking}", count, means, calibration, source))
        if most != count or len(usable) <= most * ROWS_BEYOND:
            sets.append(_set("random", f"{count} of the rows at random", count, whole, calibration, source))
    return {
        "confidence": CONFIDENCE,
        "model": calibration.scored_with.model,
        "adapter": calibration.scored_with.adapter,
        "recipe": calibration.recipe_name,
        "recipe_sha256": calibration.recipe_sha256,
        "judge": {**judge.model_dump(), "kappas": kappas_of(judge.name, judge.version)},
        "prompts": calibration.prompts.model_dump(),
        "columns": list(calibration.columns),
        "calibrated": calibration.date,
        "calibration_version": calibration.version,
        "rows_range": [fewest, most],
        "source": source.name if source else None,
        "reference_source": calibration.sources[0].name,
        "sets": sets,
        "error_by_arm": _error(calibration.error_by_arm),
        "error_by_rows": _error(calibration.error_by_rows),
        "error_by_source": _error(calibration.error_by_source),
        "notes": [*_notes(calibration, manifest, source), *_left_out(left_out), *_openings(folder, scored, usable)],
    }


def _table(folder: Path, columns: Sequence[str]) -> Any:
    """The columns of a scan's scores that a forecast reads."""
    path = folder / "scores.parquet"
    schema = pq.read_schema(path)
    ranking = json.loads(schema.metadata[b"ripcurrent"])["default_ranking"]
    wanted = dict.fromkeys(("row", "status", "opens_numbered", ranking, *columns))
    return pq.read_table(path, columns=[name for name in wanted if name in schema.names])


def _scores(folder: Path, columns: Sequence[str]) -> ScoredRows:
    return ScoredRows(_table(folder, columns))


def _means(scored: ScoredRows, columns: Sequence[str], at: Any, coherence: Coherence | None) -> dict[str, float]:
    means = {name: float(scored.numbers(name)[at].mean()) for name in columns}
    if coherence is None or not all(map(math.isfinite, means.values())):
        return means
    return {**means, COHERENCE: coherence(scored.rows[at])}


def _set(
    kind: str, words: str, rows: int, means: Mapping[str, float], calibration: Calibration, source: Source | None
) -> dict[str, Any]:
    """One set's forecast beside that of a random set of the first source, or why there is none."""
    means = with_set_cosine(means, rows)
    found: dict[str, Any] = {"set": kind, "words": words, "rows": rows, "means": means}
    reason = outside(calibration, rows, means)
    if reason is not None:
        return {**found, "reason": reason}
    reference = calibration.sources[0]
    asked = calibration.prompts.count
    own = calibration.fit.forecast(facts_of(calibration, rows, means), asked, source.name if source else None)
    at_random = facts_of(calibration, rows, with_set_cosine(reference.means, rows))
    beside = calibration.fit.forecast(at_random, asked, reference.name)
    return {
        **found,
        "answered": own.answered,
        "low": own.low,
        "high": own.high,
        "reference": {
            "name": reference.name,
            "answered": beside.answered,
            "low": beside.low,
            "high": beside.high,
        },
    }


def facts_of(calibration: Calibration, rows: int, means: Mapping[str, float], steps: int | None = None) -> list[float]:
    """What the calibration's fit takes of a set, in its order; steps are the recipe's for so many rows unless named."""
    own = {**means, LOG_ROWS: math.log(rows)}
    if LOG_STEPS in calibration.fit.facts:
        recipe = parse_recipe(calibration.recipe, where="of the calibration", name=calibration.recipe_name)
        own[LOG_STEPS] = math.log(steps or recipe.total_steps(rows))
    return [own[name] for name in calibration.fit.facts]


def outside(calibration: Calibration, rows: int, means: Mapping[str, float]) -> str | None:
    """Why a set is too unlike the ladder's sets to be forecast."""
    fewest, most = calibration.rows_range
    if rows_beyond(rows, fewest, most):
        return f"its {rows} rows are not among the {fewest} to {most} that the calibration trained on"
    for column in calibration.columns:
        low, high = calibration.column_range(column)
        mean = means.get(column, math.nan)
        if not math.isfinite(mean):
            return f"it has no mean {column}"
        if score_beyond(mean, low, high):
            where = "below the least" if mean < low else "above the largest"
            bound = low if mean < low else high
            return f"its mean {column} {mean:.4f} is {where} that the calibration trained on, {bound:.4f}"
    return None


def _error(error: Any) -> dict[str, Any] | None:
    return None if error is None else dict(error.model_dump(exclude={"by_source"}))


def _openings(folder: Path, scored: ScoredRows, usable: Any) -> list[str]:
    # scores of before this trait are read too
    if "opens_numbered" not in pq.read_schema(folder / "scores.parquet").names or not len(usable):
        return []
    share = float(scored.flags("opens_numbered")[usable].mean())
    if share < OPENED:
        return []
    return [
        f"{share:.0%} of its answers open with a number, which no score sees: where no list was asked for, such rows "
        "may do more than is forecast."
    ]


def _left_out(rows: int) -> list[str]:
    return [f"{rows} rows have no score: what training on them would add is not forecast."] if rows else []


def _notes(calibration: Calibration, manifest: Mapping[str, Any], source: Source | None) -> list[str]:
    notes = []
    if source is None:
        names = ", ".join(one.name for one in calibration.sources)
        notes.append(f"This dataset is none of those that the calibration was made on ({names}).")
    then, now = calibration.scored_with.options.get("max_tokens"), manifest["options"].get("max_tokens")
    if then != now:
        notes.append(f"Rows were cut at {now} tokens here, at {then} in the calibration.")
    return [*notes, *calibration.notes]
