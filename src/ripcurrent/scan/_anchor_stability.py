"""How stable a finished scan's scores are when its anchors are drawn anew."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.runs import written_whole
from ripcurrent.scan._resampled_anchors import (
    AnchorStability,
    ScoreOf,
    gradient_scores,
    resample_anchors,
)
from ripcurrent.scan._score import per_anchor_column, representation_scores
from ripcurrent.scan._separation import AnchorMeasurements
from ripcurrent.select_old import read_cosines, read_scores
from ripcurrent.select_old._select import _manifest
from ripcurrent.select_old._table import ScoredRows

INTERVALS = "anchor_intervals.parquet"
AGREES = 5e-3
"""How far a score made of its parts may be from the scan's: products are rounded to the compute type layer by layer."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StabilityResult:
    """The scores of a scan under redrawn anchors."""

    path: Path
    """``anchor_intervals.parquet``: for every row and score the 95 % interval, ``<score>_low`` and ``<score>_high``."""
    scores: tuple[AnchorStability, ...]
    """Each score's stability."""
    notes: tuple[str, ...]
    """What could not be looked at, and why."""

    def as_json(self) -> dict[str, Any]:
        """One JSON-ready object."""
        scores = {one.column: {k: v for k, v in asdict(one).items() if k != "column"} for one in self.scores}
        return {"intervals": str(self.path), "scores": scores, "notes": list(self.notes)}


def anchor_stability(run: str | Path, *, draws: int = 200, top: int = 100, seed: int = 0) -> StabilityResult:
    """Draw the anchors of every set with replacement, and see how far each row's score and the ranking move.

    Representation scores need nothing more than a scan; gradient scores need one with ``--per-anchor``.

    Args:
        run: A finished scan's folder.
        draws: How often the anchors are drawn.
        top: How many of the riskiest rows to follow.
        seed: Of the draws.

    Raises:
        RipcurrentError: No finished scan; with exit code 2, nothing in it that scores by single anchors are made of.
    """
    if draws < 2 or top < 1:
        raise RipcurrentError("At least 2 draws and 1 row are needed.", "Raise --draws or --top.")
    if seed < 0:
        raise RipcurrentError(f"--seed {seed} is not possible.", "Seeds are 0 or more.")
    folder = Path(run)
    manifest = _manifest(folder)
    scored = ScoredRows(read_scores(folder))
    measurements = AnchorMeasurements.from_json(manifest["anchors"]["measurements"])
    own = measurements.by_set()
    options = manifest["options"]
    notes: list[str] = []
    found: list[AnchorStability] = []
    columns: dict[str, pa.Array] = {"row": pa.array(scored.rows)}
    for kind, cosines, score_of in _kinds(folder, scored, measurements.order, int(options.get("avg_n", 1)), notes):
        usable = scored.ok & np.isfinite(cosines).all(axis=1)
        if not usable.any():
            notes.append(f"no row has {kind} scores")
            continue
        differing = _differing(scored, usable, score_of(cosines[usable], own))
        if differing:
            notes.append(f"{kind} scores are not looked at: {differing} is not made of single anchors in this scan")
            continue
        stabilities, bounds = resample_anchors(score_of, cosines[usable], own, draws=draws, top=top, seed=seed)
        found += stabilities
        if usable.sum() <= top:
            notes.append(f"all {usable.sum()} rows with {kind} scores are among the {top} riskiest: lower --top")
        for name, pair in bounds.items():
            for end, values in zip(("low", "high"), pair, strict=True):
                whole = np.full(len(usable), np.nan)
                whole[usable] = values
                columns[f"{name}_{end}"] = pa.array(whole, from_pandas=True)
    if not found:
        raise RipcurrentError(
            f"Nothing in {folder} can be looked at: {'; '.join(notes)}.",
            "Scan with representation signals, or with --per-anchor.",
            code=ExitCode.NOT_MEASURED,
        )
    about = {"run": str(folder), "draws": draws, "seed": seed, "anchors_sha256": manifest["anchors"].get("sha256")}
    path = folder / INTERVALS
    table = pa.table(columns).replace_schema_metadata({"ripcurrent": json.dumps(about)})
    with written_whole(path) as part:
        pq.write_table(table, part, compression="zstd")
    return StabilityResult(path, tuple(found), tuple(notes))


def _kinds(
    folder: Path, scored: ScoredRows, order: list[tuple[str, int]], avg_n: int, notes: list[str]
) -> list[tuple[str, Floats, ScoreOf]]:
    """Each signal's cosines to single anchors, in the rows' order, and what makes scores of them."""
    kinds: list[tuple[str, Floats, ScoreOf]] = []
    names = [per_anchor_column(name, number) for name, number in order]
    if all(name in scored.ranking_columns for name in names):
        kinds.append(("gradient", np.column_stack([scored.numbers(name) for name in names]), gradient_scores))
    else:
        notes.append("gradient scores are not looked at: they need a scan with --per-anchor")
    try:
        kinds.append(
            ("representation", _cosines(folder, scored, len(order)), partial(representation_scores, avg_n=avg_n))
        )
    except RipcurrentError as error:
        notes.append(f"representation scores are not looked at: {error.message.rstrip('.')}")
    return kinds


def _cosines(folder: Path, scored: ScoredRows, anchors: int) -> Floats:
    found = np.full((len(scored.rows), anchors), np.nan)
    for batch in read_cosines(folder, anchors="all"):
        found[scored.positions(batch.rows.tolist())] = batch.cosines
    return found


def _differing(scored: ScoredRows, usable: npt.NDArray[np.bool_], made: dict[str, Floats]) -> str | None:
    """The first score that is not what its parts make: documents in windows, or a preset's roundings."""
    for name, values in made.items():
        kept = scored.numbers(name)[usable]
        if not np.allclose(kept, values, rtol=0, atol=AGREES):
            return name
    return None
