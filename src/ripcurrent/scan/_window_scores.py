"""Scores of the windows that long documents were cut into: their own table, and the largest of each document."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ripcurrent.scan._row_groups import write_row_groups

if TYPE_CHECKING:
    from ripcurrent.scan._score import Scorer

PREFIX = "window_"
"""Before the name of a signal that lists a document's windows."""
LARGEST = "_window_max"
"""After the name of a score, for its largest value over a document's windows."""
LARGEST_OF = ("gradient_bidirectional", "gradient_balanced", "representation_bidirectional")
"""Scores whose largest window is kept beside the document's."""
WINDOW_COLUMNS = (
    "row",
    "window",
    "first_token",
    "tokens",
    "gradient_harmful",
    "gradient_safe",
    "gradient_bidirectional",
    "gradient_balanced",
    "gradient_norm",
    "predicted_harmful_loss_change",
    "loss",
    "loss_first_10",
    "representation_harmful",
    "representation_safe",
    "representation_bidirectional",
)
"""Columns of ``windows.parquet``; scores mean what they mean in ``scores.parquet``."""


def has_windows(signals: pa.Table) -> bool:
    """Whether a shard's documents were cut into windows."""
    return f"{PREFIX}tokens" in signals.column_names


def score_windows(signals: pa.Table, scorer: Scorer) -> pa.Table:
    """Scores of every window of a shard's scored documents, in order, columns by ``WINDOW_COLUMNS``."""
    names = [name for name in signals.column_names if name.startswith(PREFIX)]
    of = pc.list_parent_indices(signals[f"{PREFIX}tokens"].combine_chunks()).to_numpy()
    flat = {name.removeprefix(PREFIX): _flat(signals[name].combine_chunks(), of) for name in names}
    rows = signals["row"].combine_chunks().take(pa.array(of))
    first = np.searchsorted(of, of, side="left")
    tokens = flat.pop("tokens")
    table = pa.table(
        {
            "row": rows,
            "id": pa.array([""] * len(rows), pa.string()),
            "status": pa.array(["ok"] * len(rows), pa.string()),
            "response_tokens": tokens,
            **flat,
        }
    )
    scored = scorer.score(table)
    own = {
        "window": pa.array(np.arange(len(of)) - first, pa.int64()),
        "first_token": flat["first_token"],
        "tokens": tokens,
    }
    return pa.table(
        {name: own.get(name, scored[name] if name in scored.column_names else None) for name in WINDOW_COLUMNS}
    )


def _flat(lists: pa.Array, of: npt.NDArray[np.int64]) -> pa.Array:
    """One value per window; null for the windows of a document that has no list here."""
    present = lists.is_valid().to_numpy(zero_copy_only=False)[of]
    return pc.list_flatten(lists).take(pa.array(np.cumsum(present) - 1, mask=~present))


def largest_windows(signals: pa.Table, scorer: Scorer) -> dict[str, pa.Array]:
    """For each document of a shard: how many windows it has, and its largest score of each kind; null without any."""
    windows = score_windows(signals, scorer)
    counts = pc.list_value_length(signals[f"{PREFIX}tokens"])
    place = {row: number for number, row in enumerate(signals["row"].to_pylist())}
    of = np.asarray([place[row] for row in windows["row"].to_pylist()], dtype=np.int64)
    arrays = {"windows": counts}
    for name in LARGEST_OF:
        signal = "representation_cosines" if name.startswith("representation") else "dot_harmful"
        if f"{PREFIX}{signal}" not in signals.column_names:
            continue
        largest = np.full(signals.num_rows, -np.inf)
        # a window without the score takes no part
        np.fmax.at(largest, of, windows[name].cast(pa.float64()).to_numpy())
        largest[np.isneginf(largest)] = np.nan
        arrays[name + LARGEST] = pa.array(largest, pa.float64())
    return arrays


def write_windows(path: Path, shards: Iterable[pa.Table], scorer: Scorer, metadata: Mapping[str, Any]) -> int:
    """Write every window's scores, shard after shard; returns the number of windows."""
    count = 0

    def scored() -> Iterator[pa.Table]:
        nonlocal count
        schema: pa.Schema | None = None
        for signals in shards:
            table = score_windows(signals, scorer)
            count += table.num_rows
            schema = schema or table.schema.with_metadata({"ripcurrent": json.dumps(metadata)})
            yield table.cast(schema)

    write_row_groups(path, scored())
    return count
