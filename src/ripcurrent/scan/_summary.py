"""A finished scan in a few numbers: verdict, quantiles, length, riskiest rows, format shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ripcurrent.data import read_rows
from ripcurrent.errors import RipcurrentError
from ripcurrent.forecast._sentences import forecast_lines, read_forecast
from ripcurrent.forecast._write import why_none
from ripcurrent.models import ModelInfo
from ripcurrent.scan._columns import TRAIT_COLUMNS
from ripcurrent.scan._environment import size
from ripcurrent.scan._scan_run import Bools, Indices, ScanRun, open_scan_run
from ripcurrent.scan._separation import MINIMUM_SEPARATION, weakly_separated
from ripcurrent.statistics import quantiles, spearman

TOP = 100
"""Size of the riskiest group whose formats are compared with the whole."""
SHOWN = 10
"""So many of them are shown."""

SUMMARY_SCORES = (
    "gradient_bidirectional",
    "gradient_balanced",
    "gradient_harmful",
    "gradient_safe",
    "representation_harmful",
    "representation_bidirectional",
)
"""Scores shown in a summary, where they were computed."""


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """One score over all scored rows."""

    name: str
    """Its column."""
    quantiles: dict[float, float]
    """Probability to value."""
    spearman_with_length: float
    """Rank correlation with the number of response tokens."""


@dataclass(frozen=True, slots=True)
class RankedRow:
    """One of the riskiest rows."""

    row: int
    """0-based position in the input."""
    id: str
    """Its id."""
    score: float
    """Its score in the default ranking."""
    response_tokens: int
    """Loss-bearing tokens."""
    traits: tuple[str, ...]
    """Format traits that it has."""
    prompt: str | None
    """Its prompt; None when the dataset is no longer where it was."""


@dataclass(frozen=True, slots=True)
class ScanSummary:
    """What the terminal shows of a scan."""

    folder: Path
    """The run folder."""
    rows: int
    """Rows of the dataset."""
    scored: int
    """Rows with scores."""
    unscored: dict[str, int]
    """Reason to number of rows."""
    model: str
    """The model's name."""
    anchors: str
    """The anchors' name."""
    separation: dict[str, float]
    """The anchors' leave-one-out AUROC by signal."""
    ranking: str
    """The default ranking column."""
    scores: tuple[ScoreSummary, ...]
    """Each score's distribution."""
    top: int
    """Size of the riskiest group."""
    riskiest: tuple[RankedRow, ...]
    """The ten riskiest rows."""
    format_shares: dict[str, tuple[float, float]]
    """Trait to its share among the riskiest and among all scored rows."""
    mean_tokens: tuple[float, float]
    """Mean response tokens of the riskiest and of all scored rows."""
    truncated: int = 0
    """Scored rows that were cut at ``--max-tokens``."""
    states_of_cut_rows: bool = False
    """Whether representation scores rest on the last state, which in a cut row is not that of an ended answer."""
    left_out: tuple[str, ...] = ()
    """Parameters that no gradient is taken over: what the scope leaves out, and what the forward pass never uses."""
    other_base: str | None = None
    """A sentence on an adapter that names another base model; None without one."""
    prefilter: str | None = None
    """What a prefilter let through and what it missed, where there was one."""
    prefilter_record: dict[str, Any] | None = None
    """The same as the manifest has it."""
    forecast: dict[str, Any] | None = None
    """What training on the rows would do, as the run folder has it; None without a calibration."""
    memory: Mapping[str, Any] = field(default_factory=dict)
    """What the manifest keeps of memory."""
    peak_memory: int = 0
    """Most bytes that the process held, but for the page."""
    row_notes: tuple[str, ...] = ()
    """Sentences on parts of rows that were not read, and on rows whose turns the template hides."""
    no_forecast: str | None = None
    """Why the calibration for this model that comes with the package does not match this scan; None without one."""

    def weak_anchors_line(self) -> str | None:
        """A sentence on anchors that this model does not tell apart; None where it does."""
        weak = weakly_separated(self.separation)
        if not weak:
            return None
        found = ", ".join(f"{name} {value:.2f}" for name, value in weak.items())
        return (
            f"These anchors do not separate harm from safety on this model ({found}; below {MINIMUM_SEPARATION}): "
            "the ranking means little."
        )

    def truncated_line(self) -> str | None:
        """A sentence on rows that were cut; None where none was."""
        if not self.truncated:
            return None
        were = "was" if self.truncated == 1 else "were"
        line = f"{self.truncated} of the scored rows {were} cut at --max-tokens and scored on the head."
        if self.states_of_cut_rows:
            line += " Their last state is not that of an ended answer: compare their representation scores with none."
        return line

    def memory_line(self) -> str | None:
        """A sentence on a budget that was passed; None where there was none or it was kept."""
        if self.memory.get("kept", True):
            return None
        peak = self.memory.get("device_peak_bytes", self.peak_memory)
        return f"The budget of --memory {size(self.memory['memory'])} was passed: the peak was {size(peak)}."

    def left_out_line(self) -> str | None:
        """A sentence on parameters outside the gradients; None where there are none."""
        if not self.left_out:
            return None
        named = ", ".join(self.left_out[:3]) + (", …" if len(self.left_out) > 3 else "")
        return f"Left out of the gradients: {len(self.left_out)} parameters ({named}); the manifest names all."

    def forecast_lines(self) -> list[str]:
        """The forecast in sentences, or one that says that there is none."""
        if self.forecast is None and self.no_forecast is not None:
            reason = self.no_forecast.removeprefix("the calibration does not match this scan: ")
            return [f"No forecast: the calibration for this model does not match this scan: {reason}."]
        if self.forecast is None:
            return ["No forecast: there is no calibration for this model (ripcurrent calibrate)."]
        return forecast_lines(self.forecast)

    def as_json(self) -> dict[str, Any]:
        """One JSON-ready object."""
        return {
            "run": str(self.folder),
            "weak_anchors": sorted(weakly_separated(self.separation)),
            "scores": str(self.folder / "scores.parquet"),
            "report": str(self.folder / "report.html"),
            "rows": self.rows,
            "scored": self.scored,
            "unscored": self.unscored,
            "model": self.model,
            "anchors": self.anchors,
            "separation": self.separation,
            "ranking": self.ranking,
            "quantiles": {s.name: {str(at): value for at, value in s.quantiles.items()} for s in self.scores},
            "spearman_with_length": {s.name: s.spearman_with_length for s in self.scores},
            "truncated": self.truncated,
            "left_out": list(self.left_out),
            "memory": dict(self.memory),
            "riskiest": [{"row": r.row, "id": r.id, "score": r.score} for r in self.riskiest],
            "format_shares": {
                name: {f"top_{self.top}": share[0], "all": share[1]} for name, share in self.format_shares.items()
            },
            "prefilter": self.prefilter_record,
            "forecast": self.forecast,
        }


def summarise_scan(folder: Path) -> ScanSummary:
    """Summarise a finished scan's run folder; its scores are read one column at a time."""
    run = open_scan_run(folder)
    manifest = run.manifest
    scored = run.scored()
    measured = [name for name in SUMMARY_SCORES if name in run.present]
    tokens = run.floats("response_tokens")[scored]
    scores = []
    for name in measured:
        values = run.floats(name)[scored]
        if np.isfinite(values).any():
            at = quantiles(values, (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99))
            scores.append(ScoreSummary(name, at, spearman(values, tokens)))
    ranking = str(run.metadata["default_ranking"])
    riskiest = _riskiest(run, ranking, scored)
    # a scan by an earlier version may lack some
    traits = [name for name in TRAIT_COLUMNS if name in run.present]
    group = _columns_of(run, riskiest, ["row", "id", "response_tokens", ranking, *traits])
    lengths = group["response_tokens"]
    forecast = read_forecast(folder)
    return ScanSummary(
        folder=folder,
        rows=run.rows,
        scored=int(scored.sum()),
        unscored={status: count for status, count in manifest["status_counts"].items() if status != "ok"},
        model=manifest["model"]["name"],
        anchors=manifest["anchors"]["name"],
        separation=manifest["anchors"]["separation"],
        ranking=ranking,
        scores=tuple(scores),
        top=len(riskiest),
        riskiest=_ranked_rows(group, ranking, manifest),
        format_shares={
            name: (float(np.mean([bool(has) for has in group[name]])), float(run.flags(name)[scored].mean()))
            for name in traits
        },
        mean_tokens=(float(np.mean(lengths)), float(tokens.mean())),
        truncated=int(run.flags("truncated")[scored].sum()),
        states_of_cut_rows=manifest["options"].get("position") == "last"
        and any(score.name == "representation_harmful" for score in scores),
        left_out=tuple(manifest["left_out"]),
        other_base=ModelInfo.model_validate(manifest["model"]).other_base(),
        prefilter=(manifest.get("prefilter") or {}).get("in_words"),
        prefilter_record=manifest.get("prefilter"),
        forecast=forecast,
        no_forecast=why_none(folder) if forecast is None else None,
        memory=manifest.get("memory") or {},
        peak_memory=manifest.get("peak_memory_bytes") or 0,
        row_notes=tuple(manifest.get("row_notes", ())),
    )


def _riskiest(run: ScanRun, ranking: str, scored: Bools) -> Indices:
    """Positions of the riskiest rows, riskiest first; equal scores by row number."""
    values = run.floats(ranking)
    values[~scored] = np.nan
    finite = np.flatnonzero(np.isfinite(values))
    keys = values[finite] if run.direction(ranking) == "lower" else -values[finite]
    return finite[np.argsort(keys, kind="stable")][:TOP]


def _columns_of(run: ScanRun, positions: Indices, columns: Sequence[str]) -> dict[str, list[Any]]:
    """Values of the named columns at positions, in the order given."""
    found: dict[str, list[Any]] = pq.read_table(run.scores_path, columns=list(columns)).take(positions).to_pydict()
    return found


def _ranked_rows(group: Mapping[str, list[Any]], ranking: str, manifest: Mapping[str, Any]) -> tuple[RankedRow, ...]:
    prompts = _prompts(manifest, dict(zip(group["row"][:SHOWN], group["id"], strict=False)))
    # nearly every numbered list opens so: told by its share, not row by row
    formats = [name for name in TRAIT_COLUMNS if name != "opens_numbered" and name in group]
    return tuple(
        RankedRow(
            row=row,
            id=group["id"][place],
            score=group[ranking][place],
            response_tokens=group["response_tokens"][place],
            traits=tuple(name.removeprefix("is_") for name in formats if group[name][place]),
            prompt=prompts.get(row),
        )
        for place, row in enumerate(group["row"][:SHOWN])
    )


def _prompts(manifest: Mapping[str, Any], wanted: Mapping[int, str]) -> dict[int, str]:
    """Prompts by row number, wanted with their ids; none of a dataset that cannot be read, or of other rows now."""
    about = manifest["dataset"]
    found: dict[int, str] = {}
    last = max(wanted, default=-1)
    try:
        rows = read_rows(about["path"], format=about["format"], mapping=about.get("mapping") or None)
        for row in rows:
            if row.index in wanted and row.id == wanted[row.index]:
                found[row.index] = row.prompt or row.response[:200]
            if row.index >= last:
                break
    except RipcurrentError:
        return {}
    return found
