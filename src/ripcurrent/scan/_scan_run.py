"""A finished scan on disk, read one column at a time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ripcurrent.data import PARQUET_STREAMED
from ripcurrent.errors import RipcurrentError
from ripcurrent.forecast._sentences import forecast_lines, read_forecast
from ripcurrent.runs import require_scan_folder
from ripcurrent.scan._columns import COLUMNS, Column

BATCH_ROWS = 32_768

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ScanRun:
    """What a scan left in its run folder."""

    folder: Path
    """The run folder."""
    manifest: Mapping[str, Any]
    """``manifest.json``."""
    metadata: Mapping[str, Any]
    """The ``ripcurrent`` entry of the scores table: directions of risk, default ranking, options."""
    rows: int
    """Rows of the scores table, one per row of the dataset."""
    present: frozenset[str]
    """Names of the columns in the scores table."""

    @property
    def scores_path(self) -> Path:
        """The scores table."""
        return self.folder / "scores.parquet"

    def direction(self, column: str) -> str:
        """Which end of a column is riskier, by the file's own account: ``higher``, ``lower`` or ``none``."""
        return str(self.metadata.get("direction_of_risk", {}).get(column, "none"))

    def measures(self) -> tuple[Column, ...]:
        """The numeric columns of the table that measure something, in the contract's order."""
        return tuple(c for c in COLUMNS if c.name in self.present and c.direction_of_risk is not None)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The named columns in input order, a few thousand rows at a time."""
        with pq.ParquetFile(self.scores_path, **PARQUET_STREAMED) as table:
            yield from table.iter_batches(batch_size=BATCH_ROWS, columns=list(columns))

    def floats(self, column: str) -> Floats:
        """One numeric column, shape ``(rows,)``; null becomes NaN, and so does an infinity."""
        values = np.full(self.rows, np.nan)
        start = 0
        for batch in self.batches([column]):
            part = batch.column(0).cast(pa.float64()).to_numpy(zero_copy_only=False)
            values[start : start + len(part)] = part
            start += len(part)
        values[~np.isfinite(values)] = np.nan
        return values

    def flags(self, column: str) -> Bools:
        """One boolean column, shape ``(rows,)``; null becomes False."""
        values = np.zeros(self.rows, dtype=bool)
        start = 0
        for batch in self.batches([column]):
            values[start : start + len(batch)] = batch.column(0).fill_null(False).to_numpy(zero_copy_only=False)
            start += len(batch)
        return values

    def scored(self) -> Bools:
        """True where the status is ``ok``, shape ``(rows,)``."""
        values = np.zeros(self.rows, dtype=bool)
        start = 0
        for batch in self.batches(["status"]):
            ok = pc.equal(batch.column(0), "ok").fill_null(False)
            values[start : start + len(batch)] = ok.to_numpy(zero_copy_only=False)
            start += len(batch)
        return values

    def forecast(self) -> list[str]:
        """What the run's forecast says, in sentences; empty where there is none."""
        found = read_forecast(self.folder)
        return [] if found is None else forecast_lines(found)

    def status_counts(self) -> dict[str, int]:
        """Rows per status, the commonest first."""
        counts: Counter[str] = Counter()
        for batch in self.batches(["status"]):
            for entry in pc.value_counts(batch.column(0)).to_pylist():
                counts[str(entry["values"])] += entry["counts"]
        return dict(counts.most_common())


def open_scan_run(folder: Path) -> ScanRun:
    """Open the run folder of a finished scan; reads the manifest and the table's footer only.

    Raises:
        RipcurrentError: no such folder, another command's, no manifest or scores in it, or one that cannot be read.
    """
    require_scan_folder(folder)
    manifest_path, scores_path = folder / "manifest.json", folder / "scores.parquet"
    for path in (manifest_path, scores_path):
        if not path.is_file():
            raise RipcurrentError(
                f"{folder} holds no finished scan: {path.name} is missing.",
                "Run `ripcurrent scan` with the same --out; it resumes where it stopped.",
            )
    try:
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
        with pq.ParquetFile(scores_path, **PARQUET_STREAMED) as table:
            schema, rows = table.schema_arrow, table.metadata.num_rows
        metadata = json.loads((schema.metadata or {})[b"ripcurrent"])
    except KeyError as error:
        raise RipcurrentError(
            f"{scores_path} does not say which way its columns run (no `ripcurrent` entry in its metadata).",
            "It was not written by `ripcurrent scan`, or was rewritten without its metadata; scan again.",
        ) from error
    except (ValueError, OSError, pa.ArrowException) as error:
        raise RipcurrentError(
            f"A file of the run folder {folder} is damaged: {error}",
            "Delete manifest.json and scores.parquet there and scan again with the same --out.",
        ) from error
    return ScanRun(folder, manifest, metadata, rows, frozenset(schema.names))
