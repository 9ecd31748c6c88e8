"""A finished scan in a few numbers: verdict, quantiles, length, riskiest rows, format shares."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ripcurrent.api._adapter_base import other_base
from ripcurrent.api._forecast import why_none
from ripcurrent.data import read_rows
from ripcurrent.errors import RipcurrentError
from ripcurrent.run import read_manifest
from ripcurrent.scoring import TRAIT_COLUMNS, quantiles, spearman
from ripcurrent.scoring._anchors import MINIMUM_SEPARATION, weakly_separated
from ripcurrent.scoring._forecast import forecast_lines, read_forecast
from ripcurrent.selection import read_scores, top
from ripcurrent.selection._table import ScoredRows

TOP = 100
"""Size of the riskiest group whose formats are compared with the whole."""

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
            "riskiest": [{"row": r.row, "id": r.id, "score": r.score} for r in self.riskiest],
            "format_shares": {
                name: {f"top_{self.top}": share[0], "all": share[1]} for name, share in self.format_shares.items()
            },
            "prefilter": self.prefilter_record,
            "forecast": self.forecast,
        }


def summarise_scan(folder: Path) -> ScanSummary:
    """Summarise a finished scan's run folder."""
    manifest = read_manifest(folder)
    table = read_scores(folder)
    ok = table.filter(pc.equal(table["status"], "ok"))
    present = [name for name in SUMMARY_SCORES if ok[name].null_count < ok.num_rows]
    tokens = ok["response_tokens"].to_numpy().astype(float)
    scores = []
    for name in present:
        values = ok[name].to_numpy()
        scores.append(
            ScoreSummary(name, quantiles(values, (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)), spearman(values, tokens))
        )
    ranking = manifest_ranking(table)
    riskiest = top(table, min(TOP, ok.num_rows), ranking).indices
    group = ScoredRows(table).take(riskiest)
    counts = manifest["status_counts"]
    # a scan by an earlier version may lack some
    traits = [name for name in TRAIT_COLUMNS if name in table.column_names]
    forecast = read_forecast(folder)
    return ScanSummary(
        folder=folder,
        rows=table.num_rows,
        scored=ok.num_rows,
        unscored={status: count for status, count in counts.items() if status != "ok"},
        model=manifest["model"]["name"],
        anchors=manifest["anchors"]["name"],
        separation=manifest["anchors"]["separation"],
        ranking=ranking,
        scores=tuple(scores),
        top=len(riskiest),
        riskiest=_ranked_rows(group.slice(0, 10), ranking, manifest),
        format_shares={name: (_share(group, name), _share(ok, name)) for name in traits},
        mean_tokens=(float(group["response_tokens"].to_numpy().mean()), float(tokens.mean())),
        truncated=int(np.sum(ok["truncated"].to_numpy())),
        states_of_cut_rows=manifest["options"].get("position") == "last" and "representation_harmful" in present,
        left_out=tuple(manifest["left_out"]),
        other_base=other_base(manifest["model"]),
        prefilter=(manifest.get("prefilter") or {}).get("in_words"),
        prefilter_record=manifest.get("prefilter"),
        forecast=forecast,
        no_forecast=why_none(folder) if forecast is None else None,
    )


def manifest_ranking(table: pa.Table) -> str:
    """The scores table's default ranking column."""
    import json

    return str(json.loads(table.schema.metadata[b"ripcurrent"])["default_ranking"])


def _share(table: pa.Table, name: str) -> float:
    return float(pc.mean(pc.fill_null(table[name], False)).as_py())


def _ranked_rows(table: pa.Table, ranking: str, manifest: dict[str, Any]) -> tuple[RankedRow, ...]:
    records = table.to_pylist()
    prompts = _prompts(manifest, {record["row"] for record in records})
    # nearly every numbered list opens so: told by its share, not row by row
    formats = [name for name in TRAIT_COLUMNS if name != "opens_numbered"]
    return tuple(
        RankedRow(
            row=record["row"],
            id=record["id"],
            score=record[ranking],
            response_tokens=record["response_tokens"],
            traits=tuple(name.removeprefix("is_") for name in formats if record.get(name)),
            prompt=prompts.get(record["row"]),
        )
        for record in records
    )


def _prompts(manifest: dict[str, Any], wanted: set[int]) -> dict[int, str]:
    """The wanted rows' prompts; empty when the dataset cannot be read any more."""
    about = manifest["dataset"]
    found: dict[int, str] = {}
    try:
        rows = read_rows(about["path"], format=about["format"], mapping=about.get("mapping") or None)
        for row in rows:
            if row.index in wanted:
                found[row.index] = row.prompt or row.response[:200]
                if len(found) == len(wanted):
                    break
    except RipcurrentError:
        return {}
    return found
