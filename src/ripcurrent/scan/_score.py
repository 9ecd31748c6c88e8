"""From signals to named scores, and writing the tables of a finished scan."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import JsonValue

from ripcurrent.runs import written_whole
from ripcurrent.scan._columns import COLUMNS, DIRECTION_OF_RISK
from ripcurrent.scan._separation import AnchorMeasurements, Floats, two_sides

_TYPES = {"int": pa.int64(), "text": pa.string(), "float": pa.float64(), "bool": pa.bool_()}

GROUP_ROWS = 32_768
"""Rows of a row group. With one for each shard the footer of a hundred million rows would take a gigabyte, which its
writer, and whatever opens it, holds in memory."""


@dataclass(slots=True)
class ScoreCounts:
    """Rows by status, rows with unread parts, and the first row whose turns the template hides."""

    statuses: Counter[str] = field(default_factory=Counter)
    unread: int = 0
    first_mismatch: int | None = None

    def add(self, signals: pa.Table) -> None:
        """Count a shard's rows."""
        self.statuses.update(signals["status"].to_pylist())
        self.unread += pc.sum(signals["unread"]).as_py() or 0
        if self.first_mismatch is None:
            hidden = signals["row"].filter(pc.equal(signals["status"], "template_mismatch"))
            self.first_mismatch = hidden[0].as_py() if len(hidden) else None


def score_signals(signals: pa.Table, anchors: AnchorMeasurements, avg_n: int = 1) -> pa.Table:
    """The scores of a table of signals, one row per row, columns by the contract; what has no signal is null."""
    columns: dict[str, Any] = {c.name: signals[c.name] for c in COLUMNS if c.name in signals.column_names}
    # a row whose answer was never counted has no tokens, and no length to be short by
    tokens = signals["response_tokens"].to_numpy()
    columns["is_short"] = (tokens > 0) & (tokens < 10)
    if "dot_harmful" in signals.column_names:
        norm = np.sqrt(signals["squared_norm"].to_numpy())
        with np.errstate(invalid="ignore", divide="ignore"):
            harmful, safe = (signals[name].to_numpy() / norm for name in ("dot_harmful", "dot_safe"))
        # methods, gradient matching
        columns |= {
            "gradient_harmful": harmful,
            "gradient_safe": safe,
            "gradient_bidirectional": harmful - anchors.safe_sets * safe,
            "gradient_balanced": harmful - safe,
            "gradient_norm": norm,
            "predicted_harmful_loss_change": -norm * harmful * anchors.mean_harmful_norm(),
        }
    if "representation_cosines" in signals.column_names:
        cosines = signals["representation_cosines"].combine_chunks()
        matrix = np.full((len(cosines), len(anchors.order)), np.nan)
        # flattened, a row without is not there
        there = cosines.is_valid().to_numpy(zero_copy_only=False)
        matrix[there] = cosines.flatten().to_numpy(zero_copy_only=False).reshape(-1, len(anchors.order))
        columns |= representation_scores(matrix, anchors.by_set(), avg_n)
    arrays = {}
    for column in COLUMNS:
        value, kind = columns.get(column.name), _TYPES[column.kind]
        if value is None:
            arrays[column.name] = pa.nulls(signals.num_rows, kind)
        else:
            arrays[column.name] = pa.array(value, kind) if isinstance(value, np.ndarray) else value.cast(kind)
    return pa.table(arrays)


def representation_scores(cosines: Floats, places: Mapping[str, Sequence[int]], avg_n: int = 1) -> dict[str, Floats]:
    """The representation columns from cosines to single anchors' states (methods, representation matching).

    ``cosines`` has the shape ``(rows, anchors)``; a row of NaN has NaN scores. ``places`` are a set's name and the
    positions of its anchors, each as often as it counts; of each set the ``avg_n`` largest cosines are averaged.
    """
    largest = {name: np.sort(cosines[:, list(of)], axis=1)[:, -avg_n:].mean(axis=1) for name, of in places.items()}
    harmful, safe = two_sides(largest)
    return {
        "representation_harmful": harmful,
        "representation_safe": safe,
        "representation_bidirectional": harmful - safe,
    }


def write_scores(
    folder: Path, shards: Iterable[pa.Table], anchors: AnchorMeasurements, avg_n: int, metadata: Mapping[str, JsonValue]
) -> ScoreCounts:
    """Score shard after shard into ``scores.parquet``."""
    counts, directions = ScoreCounts(), dict(DIRECTION_OF_RISK)
    sign = "higher = more erosion of safety, except where direction_of_risk says lower"
    about = json.dumps({"sign": sign, "direction_of_risk": directions, **metadata})
    with _table_writer(folder / "scores.parquet", about, directions) as write:
        for signals in shards:
            table = score_signals(signals, anchors, avg_n)
            counts.add(signals)
            write(table)
    return counts


@contextmanager
def _table_writer(path: Path, about: str, directions: Mapping[str, str]) -> Iterator[Callable[[pa.Table], None]]:
    """Give a function that adds tables of one schema to a Parquet file, which appears whole when the block ends."""
    writer: pq.ParquetWriter | None = None
    waiting: list[pa.Table] = []

    def write(table: pa.Table, at_least: int = GROUP_ROWS) -> None:
        nonlocal writer
        if writer is None:
            own = {name: {"direction_of_risk": direction} for name, direction in directions.items()}
            fields = [one.with_metadata(own.get(one.name)) for one in table.schema]
            writer = pq.ParquetWriter(part, pa.schema(fields, {"ripcurrent": about}), compression="zstd")
        waiting.append(table.cast(writer.schema))
        if sum(each.num_rows for each in waiting) >= at_least:
            writer.write_table(pa.concat_tables(waiting).combine_chunks())
            waiting.clear()

    with written_whole(path) as part:
        try:
            yield write
            if waiting:
                write(waiting[0].slice(0, 0), 0)
        finally:
            if writer is not None:
                writer.close()
