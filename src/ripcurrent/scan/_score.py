"""From a shard of signals to named score columns."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ripcurrent.scan._columns import COLUMNS, DIRECTION_OF_RISK, TRAIT_COLUMNS
from ripcurrent.scan._row_groups import write_row_groups
from ripcurrent.scan._separation import AnchorMeasurements
from ripcurrent.scan._window_scores import LARGEST, has_windows, largest_windows

PREFILTER = "prefilter"
"""Column that says of each row whether the representation pass let it through to the gradient pass."""

Floats = npt.NDArray[np.float64]
_TYPES = {"int": pa.int64(), "text": pa.string(), "float": pa.float64(), "bool": pa.bool_()}


@dataclass(frozen=True, slots=True)
class Scorer:
    """Turns signals into scores for one run's anchors and options."""

    anchors: AnchorMeasurements
    """The anchors' own measurements."""
    avg_n: int = 1
    """How many of the largest cosines to a set are averaged."""
    round_to_bf16: bool = False
    """Round set similarities and their sums to bfloat16, as the released code's sums were."""
    running_sums: bool = False
    """The directions are of running sums (another quirk), from which no change of loss follows."""

    def score(self, signals: pa.Table) -> pa.Table:
        """A shard's scores, one row per row, columns by the contract; what has no signal is null."""
        rows = signals.num_rows
        columns: dict[str, Any] = {
            name: signals[name]
            for name in ("row", "id", "status", "prompt_tokens", "response_tokens", "truncated", *TRAIT_COLUMNS)
            if name in signals.column_names
        }
        # a row whose answer was never counted has no tokens, and no length to be short by
        tokens = signals["response_tokens"].to_numpy()
        columns["is_short"] = pa.array((tokens > 0) & (tokens < 10))
        if "dot_harmful" in signals.column_names:
            columns |= self._gradient_columns(signals)
        if "representation_cosines" in signals.column_names:
            columns |= self._representation_columns(signals)
        arrays = {}
        for column in COLUMNS:
            value = columns.get(column.name)
            kind = _TYPES[column.kind]
            arrays[column.name] = pa.nulls(rows, kind) if value is None else _as_array(value, kind)
        if dot_column(0) in signals.column_names:
            arrays |= self._per_anchor_columns(signals)
        if has_windows(signals):
            arrays |= largest_windows(signals, self)
        if PREFILTER in signals.column_names:
            arrays[PREFILTER] = signals[PREFILTER]
        return pa.table(arrays)

    def _gradient_columns(self, signals: pa.Table) -> dict[str, Floats]:
        norm = np.sqrt(_floats(signals["squared_norm"]))
        with np.errstate(invalid="ignore", divide="ignore"):
            harmful = self._rounded(_floats(signals["dot_harmful"]) / norm)
            safe = self._rounded(_floats(signals["dot_safe"]) / norm)
        return {
            "gradient_harmful": harmful,
            "gradient_safe": safe,
            "gradient_bidirectional": self._rounded(harmful - self.anchors.safe_sets * safe),
            "gradient_balanced": self._rounded(harmful - safe),
            "gradient_norm": norm,
            **self._loss_change(norm, harmful),
            "loss": _floats(signals["loss"]),
            "loss_first_10": _floats(signals["loss_first_10"]),
        }

    def _loss_change(self, norm: Floats, harmful: Floats) -> dict[str, Floats]:
        if self.running_sums:
            return {}
        return {"predicted_harmful_loss_change": -norm * harmful * self.anchors.mean_harmful_norm()}

    def _representation_columns(self, signals: pa.Table) -> dict[str, Floats]:
        return representation_scores(cosine_matrix(signals, len(self.anchors.order)), self.anchors.by_set(), self.avg_n)

    def _per_anchor_columns(self, signals: pa.Table) -> dict[str, pa.Array]:
        norm = np.sqrt(_floats(signals["squared_norm"]))
        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                per_anchor_column(name, number): pa.array(_floats(signals[dot_column(place)]) / norm)
                for place, (name, number) in enumerate(self.anchors.order)
            }

    def _rounded(self, values: Floats) -> Floats:
        if not self.round_to_bf16:
            return values
        bits = values.astype(np.float32).view(np.uint32)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
        return np.where(np.isnan(values), values, rounded).astype(np.float64)


def representation_scores(cosines: Floats, places: Mapping[str, Sequence[int]], avg_n: int = 1) -> dict[str, Floats]:
    """The representation columns from cosines to single anchors' states (``docs/methods.md``, 3).

    Args:
        cosines: Shape ``(rows, anchors)``; a row of NaN has NaN scores.
        places: Set name to the positions of its anchors, each as often as it counts; ``harmful`` and the safe sets.
        avg_n: How many of the largest cosines to a set are averaged.
    """
    largest = {name: _mean_of_largest(cosines[:, list(of)], avg_n) for name, of in places.items()}
    harmful, safe = largest["harmful"], np.mean([largest[name] for name in places if name != "harmful"], axis=0)
    return {
        "representation_harmful": harmful,
        "representation_safe": safe,
        "representation_bidirectional": harmful - safe,
    }


def per_anchor_column(name: str, number: int) -> str:
    """Name of the column of cosines to one anchor's gradient, such as ``gradient_to_harmful_03``."""
    return f"gradient_to_{name}_{number:02d}"


def dot_column(place: int) -> str:
    """Name of the signal column of dots with one anchor's normalised gradient, by the anchor's place in the set."""
    return f"dot_anchor_{place:03d}"


def cosine_matrix(signals: pa.Table, anchors: int) -> Floats:
    """The representation cosines of a shard, shape ``(rows, anchors)``, NaN for rows without."""
    filled = np.full((signals.num_rows, anchors), np.nan)
    column = signals["representation_cosines"].combine_chunks()
    # flattened, a row without is not there
    there = column.is_valid().to_numpy(zero_copy_only=False)
    filled[there] = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, anchors)
    return filled


def write_scores(path: Path, shards: Iterable[pa.Table], scorer: Scorer, metadata: Mapping[str, Any]) -> dict[str, int]:
    """Score shard after shard into one Parquet file, flat in memory; returns the number of rows of each status."""
    counts: dict[str, int] = {}

    def scored() -> Iterator[pa.Table]:
        schema: pa.Schema | None = None
        for signals in shards:
            table = scorer.score(signals)
            for status in table["status"].to_pylist():
                counts[status] = counts.get(status, 0) + 1
            if schema is None:
                schema = _described_schema(table.schema, describe_table(table.column_names, metadata))
            yield table.cast(schema)

    write_row_groups(path, scored())
    return counts


def describe_table(columns: Iterable[str], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What the scores file says of itself: which way risk runs in each column, and where it comes from."""
    direction: dict[str, str] = dict(DIRECTION_OF_RISK)
    for name in columns:
        if name.startswith("gradient_to_harmful"):
            direction[name] = "higher"
        elif name.startswith("gradient_to_safe"):
            direction[name] = "lower"
        elif name.endswith(LARGEST):
            direction[name] = DIRECTION_OF_RISK[name.removesuffix(LARGEST)]
        elif name == "windows":
            direction[name] = "none"
    sign = "higher = more erosion of safety, except where direction_of_risk says lower"
    return {"sign": sign, "direction_of_risk": direction, **metadata}


def _described_schema(schema: pa.Schema, described: Mapping[str, Any]) -> pa.Schema:
    """The schema with the file's metadata, and each numeric column with its own ``direction_of_risk``."""
    directions = described["direction_of_risk"]
    fields = [
        field.with_metadata({"direction_of_risk": directions[field.name]}) if field.name in directions else field
        for field in schema
    ]
    return pa.schema(fields, metadata={"ripcurrent": json.dumps(described)})


def _mean_of_largest(values: Floats, count: int) -> Floats:
    means: Floats = np.sort(values, axis=1)[:, ::-1][:, :count].mean(axis=1)
    return means


def _floats(column: pa.ChunkedArray) -> Floats:
    values: Floats = column.cast(pa.float64()).to_numpy().astype(np.float64)
    return values


def _as_array(value: Any, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    if isinstance(value, np.ndarray):
        return pa.array(value, type=kind)
    return value.cast(kind)
