"""Reference rows, the demo's, scored on the same model: a set's rows have percentiles among them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, JsonValue

from ripcurrent.data import DEMO_ROWS
from ripcurrent.errors import RipcurrentError
from ripcurrent.files import cache_folder
from ripcurrent.progress import Progress
from ripcurrent.runs import write_json
from ripcurrent.scan._columns import DIRECTION_OF_RISK
from ripcurrent.scan._run import ScanRun
from ripcurrent.scan._score import score_signals
from ripcurrent.statistics import auroc

if TYPE_CHECKING:
    from ripcurrent.scan._passes import SignalStage

REFERENCE = "reference.json"
"""In a run's folder: the reference rows' scores, by column."""
ROWS, LEAST = 60, 300
"""How many reference rows are scored, once for a model and options, beside a set of this many rows: a fifth more work
at most. With 60 the percentile is known to some 4 points."""
RANKED = [name for name, direction in DIRECTION_OF_RISK.items() if direction != "none"]
OF_PLACES = "model adapter anchors device dataset_sha256 limit format mapping spec"
OWN = {*OF_PLACES.split(), "shard_rows", "anchor_check", "token_budget", "seed"}
"""Parts of a scan's identity that do not change a reference row's score."""


class ReferencePlace(BaseModel):
    """Where a set's scores lie among those of the reference rows; a ranking, not a verdict."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    rows: int = 0
    """How many reference rows have a score."""
    percentile: float | None = None
    """What share of them a row of the set is riskier than, on average, 0 to 100; 50 where both are alike. Not where its
    mean lies: the reference rows' own mean is above 83 % of them. None where it is unknown."""
    reason: str | None = None
    """Why it is unknown, and how to get it."""


def reference_of(run: ScanRun) -> ReferencePlace:
    """Where a finished scan's default ranking lies among its reference rows."""
    path, column = run.folder / REFERENCE, run.default_ranking
    known: dict[str, list[float]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    scores = np.array(known.get(column, []))
    if not len(scores):
        how = f"`ripcurrent scan demo --model {run.options.model}` with this scan's options scores them"
        return ReferencePlace(reason=f"no reference row was scored on this model. {how}; then give this scan again.")
    sign, own = -1 if run.risk_direction(column) == "lower" else 1, run.scores(column)[run.ranked()]
    return ReferencePlace(rows=len(scores), percentile=100 * auroc(sign * own, sign * scores))


def keep_reference(
    run: ScanRun, identity: Mapping[str, JsonValue], stage: SignalStage | None, progress: Progress
) -> None:
    """Leave the reference rows' scores in a run's folder: from the cache, or scored now by the run's ``stage``."""
    own = {name: value for name, value in identity.items() if name not in OWN}
    key = hashlib.sha256(json.dumps(own, sort_keys=True, default=str).encode()).hexdigest()[:24]
    cached = cache_folder() / "reference" / f"{key}.json"
    if not cached.exists() and stage is not None and run.rows >= LEAST and (scores := _scored(run, stage, progress)):
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_json(cached, scores)
    if cached.exists():
        write_json(run.folder / REFERENCE, json.loads(cached.read_text(encoding="utf-8")))


def _scored(run: ScanRun, stage: SignalStage, progress: Progress) -> dict[str, list[float]]:
    """Scores of a sample of the reference rows by column; none where the trainer's policy reads none of them."""
    measured = run.manifest.anchors.measurements
    assert measured is not None
    usual = {"format": None, "mapping": None, "spec": None, "limit": None}
    progress.start("scoring reference rows, once for this model", ROWS)
    try:
        rows = run.options.model_copy(update=usual).open(DEMO_ROWS)
        count, _ = rows.count_and_hash()
        read = rows.at(np.linspace(0, count - 1, ROWS).round().astype(int).tolist())
        table = score_signals(stage.compute(list(stage.prepare(read))), measured, run.options.avg_n)
    except RipcurrentError:
        return {}
    finally:
        progress.finish()
    columns = {name: table[name].drop_null().to_numpy() for name in RANKED}
    return {name: values[np.isfinite(values)].tolist() for name, values in columns.items() if len(values)}
