"""The paper's own selection: the union over the harmful anchors of each anchor's nearest rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.select_old._table import ScoredRows, checked_count
from ripcurrent.select_old._types import IntArray, Selection

UNION_COLUMN = "representation_harmful"
"""What a union is ordered and shown by; the nearness that chose it is the cosine to single anchors."""

BATCH_ROWS = 16_384


@dataclass(frozen=True, slots=True)
class CosineBatch:
    """Representation cosines of some rows to anchors, the harmful ones or all."""

    rows: IntArray
    """Row numbers, shape ``(rows,)``."""
    cosines: npt.NDArray[np.float32]
    """Shape ``(rows, anchors)``; NaN for a row without a representation."""


def union_per_anchor(table: pa.Table, cosines: Iterable[CosineBatch], k: int) -> Selection:
    """The union over the harmful anchors of each anchor's ``k`` rows of largest representation cosine.

    He, Xia and Henderson (COLM 2024), selection by representation matching in the paper's notation; the released code
    takes the largest maximum instead, which is :func:`top` by ``representation_harmful``. Memory does not grow with
    the rows.

    Args:
        table: The scores table.
        cosines: Every row's cosines, in any order and any batches.
        k: Rows per anchor, so between ``k`` and ``k`` times the anchors come back.

    Returns:
        The rows by ``representation_harmful``, riskiest first; ties, there and for a place among an anchor's rows, go
        to the lower row number.

    Raises:
        RipcurrentError: No row has a representation.
    """
    checked_count(k)
    scored = ScoredRows(table)
    usable = scored.rows[scored.ok]
    best_rows: list[IntArray] = []
    best_cosines: list[npt.NDArray[np.float32]] = []
    for batch in cosines:
        keep = np.isin(batch.rows, usable) & np.isfinite(batch.cosines).all(axis=1)
        rows, values = batch.rows[keep], batch.cosines[keep]
        if not best_rows:
            best_rows = [np.empty(0, dtype=np.int64)] * values.shape[1]
            best_cosines = [np.empty(0, dtype=np.float32)] * values.shape[1]
        for anchor in range(values.shape[1]):
            candidates = np.concatenate([best_rows[anchor], rows])
            nearness = np.concatenate([best_cosines[anchor], values[:, anchor]])
            order = np.lexsort((candidates, -nearness))[:k]
            best_rows[anchor], best_cosines[anchor] = candidates[order], nearness[order]
    if not best_rows or len(best_rows[0]) == 0:
        raise RipcurrentError(
            "No row has a cosine to the harmful anchors' representations.",
            "Scan with --signals all or --signals representation first.",
            code=ExitCode.NOT_MEASURED,
        )
    chosen = scored.positions(np.unique(np.concatenate(best_rows)).tolist())
    scores = scored.scores(UNION_COLUMN)[chosen]
    order = np.argsort(-scores, kind="stable")
    got = len(best_rows[0])
    return Selection(
        name=f"union-{k}",
        kind="union",
        rule=f"the union over {len(best_rows)} harmful anchors of the {k} rows nearest each by representation cosine",
        column=UNION_COLUMN,
        indices=tuple(scored.rows[chosen[order]].tolist()),
        scores=tuple(scores[order].tolist()),
        shortfall=k - got,
        notes=(
            f"{len(best_rows) * got} places, {len(chosen)} distinct rows",
            *((f"only {got} rows have a representation",) if got < k else ()),
        ),
    )


def read_cosines(run_folder: Path, anchors: Literal["harmful", "all"] = "harmful") -> Iterator[CosineBatch]:
    """Stream the cosines to the harmful anchors, or to all in their order, from a run's signal shards.

    Raises:
        RipcurrentError: The run has no shards, no representation signals, or no order of anchors in its manifest.
    """
    manifest_path = run_folder / "manifest.json"
    manifest = json.loads(manifest_path.read_text(encoding="utf-8")) if manifest_path.is_file() else {}
    order = manifest.get("anchors", {}).get("order")
    shards = sorted((run_folder / "signals").glob("shard-*.parquet"))
    if not order or not shards:
        raise RipcurrentError(
            f"{run_folder} has no {'anchor order in its manifest' if shards else 'signal shards'}: "
            "every row's cosine to every anchor is needed.",
            "Scan again into this folder, or select with --top.",
        )
    wanted = [place for place, (anchor_set, _) in enumerate(order) if anchors == "all" or anchor_set == "harmful"]
    for shard in shards:
        with pq.ParquetFile(shard) as file:
            if "representation_cosines" not in file.schema_arrow.names:
                raise RipcurrentError(
                    f"{shard} has no representation cosines.",
                    "Scan with --signals all or --signals representation first.",
                    code=ExitCode.NOT_MEASURED,
                )
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=["row", "representation_cosines"]):
                yield _wanted_part(batch, wanted, len(order), shard)


def _wanted_part(batch: pa.RecordBatch, wanted: list[int], anchors: int, shard: Path) -> CosineBatch:
    lists = batch.column("representation_cosines")
    lengths = np.asarray(lists.value_lengths().fill_null(0))
    present = lengths > 0
    if (lengths[present] != anchors).any():
        raise RipcurrentError(
            f"{shard} has rows with {lengths[present].max()} cosines where the manifest names {anchors} anchors.",
            "The shard and the manifest belong to different scans; scan again into a new folder.",
        )
    cosines = np.full((len(lists), len(wanted)), np.nan, dtype=np.float32)
    cosines[present] = np.asarray(lists.flatten(), dtype=np.float32).reshape(-1, anchors)[:, wanted]
    return CosineBatch(np.asarray(batch.column("row"), dtype=np.int64), cosines)
