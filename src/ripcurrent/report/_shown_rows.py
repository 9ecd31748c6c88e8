"""The rows that the page holds in full: which ones, their numbers, their nearest anchors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ripcurrent.scan._scan_run import BATCH_ROWS, Bools, Indices, ScanRun

WHOLE_TABLE_ROWS = 1_500
END_GROUP_ROWS = 500
SAMPLE_ROWS = 300
UNSCORED_ROWS = 200
NEAREST_PER_SET = 2
SAMPLE_SEED = 0


@dataclass(frozen=True, slots=True)
class ShownRows:
    """The rows that the page holds, in input order."""

    indices: Indices
    """Their positions in the input, ascending, shape ``(shown,)``."""
    groups: tuple[str, ...]
    """Why each is there: ``riskiest``, ``safest``, ``sample``, ``unscored``; ``all`` where every row is."""
    ranks: tuple[int | None, ...]
    """1-based rank of each among the rows that the ranking has, riskiest first; None for others."""
    whole: bool
    """Every row of the table is shown."""


def choose_shown_rows(order: Indices, scored: Bools) -> ShownRows:
    """Choose the rows for the page: all of a small table; of a large one both ends, a sample and unscored rows.

    ``order`` has the positions of the ranked rows, riskiest first; ``scored`` is the status, shape ``(rows,)``.
    """
    rank = np.zeros(len(scored), dtype=np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    if len(scored) <= WHOLE_TABLE_ROWS:
        chosen = dict.fromkeys(range(len(scored)), "all")
    else:
        random = np.random.default_rng(SAMPLE_SEED)
        end = min(END_GROUP_ROWS, len(order) // 2)
        # rows that the ranking lacks, as most do with --prefilter, are of the rest too
        middle = np.concatenate([order[end : len(order) - end], np.flatnonzero(scored & (rank == 0))])
        sample = random.choice(middle, min(SAMPLE_ROWS, len(middle)), replace=False)
        chosen = dict.fromkeys(np.flatnonzero(~scored)[:UNSCORED_ROWS].tolist(), "unscored")
        chosen |= dict.fromkeys(sample.tolist(), "sample")
        chosen |= dict.fromkeys(order[len(order) - end :].tolist(), "safest")
        chosen |= dict.fromkeys(order[:end].tolist(), "riskiest")
    indices = np.array(sorted(chosen), dtype=np.int64)
    return ShownRows(
        indices,
        tuple(chosen[index] for index in indices.tolist()),
        tuple(int(rank[index]) or None for index in indices.tolist()),
        len(indices) == len(scored),
    )


def take_columns(run: ScanRun, indices: Indices, columns: Sequence[str]) -> dict[str, list[Any]]:
    """Values of the named columns at ascending positions, read in a stream."""
    taken: dict[str, list[Any]] = {column: [] for column in columns}
    start = 0
    for batch in run.batches(columns):
        first, last = np.searchsorted(indices, [start, start + len(batch)])
        inside = pa.array(indices[first:last] - start)
        for column in columns:
            taken[column].extend(batch.column(column).take(inside).to_pylist())
        start += len(batch)
    return taken


def nearest_anchors(run: ScanRun, indices: Indices) -> list[list[tuple[int, float]]] | None:
    """For each row its two nearest anchors of every set, as ``(position in the anchor order, cosine)``, nearest first.

    Cosines are those of the representations, which the signal shards keep for every anchor. A row without them has an
    empty list; None where the run kept none at all.
    """
    order = run.manifest.get("anchors", {}).get("order") or []
    sets: dict[str, list[int]] = {}
    for position, (name, _) in enumerate(order):
        sets.setdefault(str(name), []).append(position)
    nearest: dict[int, list[tuple[int, float]]] = {}
    for shard in sorted((run.folder / "signals").glob("shard-*.parquet")):
        with pq.ParquetFile(shard) as table:
            if "representation_cosines" not in table.schema_arrow.names:
                continue
            for batch in table.iter_batches(batch_size=BATCH_ROWS, columns=["row", "representation_cosines"]):
                wanted = np.flatnonzero(np.isin(batch.column("row").to_numpy(), indices))
                part = batch.take(pa.array(wanted))
                for row, cosines in zip(part.column(0).to_pylist(), part.column(1).to_pylist(), strict=True):
                    if cosines is not None and len(cosines) == len(order):
                        nearest[row] = _nearest(np.array(cosines, dtype=np.float64), list(sets.values()))
    return [nearest.get(index, []) for index in indices.tolist()] if nearest else None


def _nearest(cosines: np.ndarray[Any, np.dtype[np.float64]], sets: list[list[int]]) -> list[tuple[int, float]]:
    if not np.isfinite(cosines).all():
        return []
    chosen = [p for members in sets for p in sorted(members, key=lambda p: -cosines[p])[:NEAREST_PER_SET]]
    return [(p, round(float(cosines[p]), 3)) for p in sorted(chosen, key=lambda p: -cosines[p])]
