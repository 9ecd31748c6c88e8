"""A finished scan on disk: the one reader of ``scores.parquet``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ripcurrent.data import PARQUET_STREAMED, Dataset, open_unchanged
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.runs import require_scan_folder
from ripcurrent.scan._columns import Direction
from ripcurrent.scan._manifest import ScanManifest

if TYPE_CHECKING:
    from pydantic import JsonValue

    from ripcurrent.scan._options import ScanOptions

SCORES = "scores.parquet"
BATCH_ROWS = 32_768
"""Rows that are held at once where a column is read in a stream."""

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
RowNumbers = npt.NDArray[np.int64]


class ScanRun:
    """A scan's run folder. Its table is opened when first needed; each column is read once and kept."""

    def __init__(self, folder: Path, manifest: ScanManifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.scores_path = folder / SCORES
        self._kept: dict[tuple[str, type], npt.NDArray[Any]] = {}

    @classmethod
    def open(cls, folder: str | Path) -> ScanRun:
        """The finished scan in a run folder; a `RipcurrentError` where it holds none, or a damaged one."""
        folder = Path(folder)
        require_scan_folder(folder)
        for name in ("manifest.json", SCORES):
            if not (folder / name).is_file():
                raise RipcurrentError(
                    f"{folder} holds no finished scan: {name} is missing.",
                    "Run `ripcurrent scan` with the same --out; it resumes where it stopped.",
                )
        return cls(folder, ScanManifest.read(folder))

    @property
    def finished(self) -> bool:
        """False where other parts of the scan are still to come: there are no scores yet."""
        return self.manifest.finished is not None

    @property
    def options(self) -> ScanOptions:
        return self.manifest.options

    @property
    def rows(self) -> int:
        """Rows of the table: one for each row of the dataset, in its order."""
        return int(self._table.metadata.num_rows)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        return tuple(self._table.schema_arrow.names)

    @property
    def default_ranking(self) -> str:
        """The column that ranks rows unless another is named."""
        return str(self._metadata["default_ranking"])

    @cached_property
    def ranking_columns(self) -> tuple[str, ...]:
        """Numeric columns that have an entry of which way risk runs, in the table's order."""
        return tuple(name for name in self._metadata["direction_of_risk"] if name in self.columns)

    def risk_direction(self, column: str) -> Direction:
        """Which end of a column is riskier, ``none`` if it measures no risk; RipcurrentError for no numeric column."""
        if column not in self.ranking_columns:
            nearest = get_close_matches(column, self.ranking_columns, n=1, cutoff=0.4)
            reason = "is not a number to rank by" if column in self.columns else "is not in these scores"
            raise RipcurrentError(
                f"Column {column!r} {reason}.",
                (f"Did you mean {nearest[0]!r}? " if nearest else "") + f"Columns: {', '.join(self.ranking_columns)}.",
            )
        return cast(Direction, self._metadata["direction_of_risk"][column])

    @cached_property
    def scored(self) -> BoolArray:
        """True where a row's status is ``ok``, shape ``(rows,)``."""
        return self._joined("status", bool, lambda part: pc.equal(part, "ok").fill_null(False))

    def floats(self, column: str) -> FloatArray:
        """A numeric column, shape ``(rows,)``, read-only; NaN for null and for what is not finite."""

        def finite(part: pa.Array) -> pa.Array:
            values = part.cast(pa.float64())
            return pc.if_else(pc.is_finite(values), values, np.nan)

        return self._joined(column, float, finite)

    def flags(self, column: str) -> BoolArray:
        """A boolean column, shape ``(rows,)``, read-only; False for null."""
        return self._joined(column, bool, lambda part: part.fill_null(False))

    def ids(self, rows: Sequence[int] | RowNumbers) -> list[str]:
        """The ids of rows, in the order given."""
        return cast(list[str], self.take(rows, ["id"])["id"].to_pylist())

    def scores(self, column: str) -> FloatArray:
        """A column to rank by, shape ``(rows,)``: NaN wherever a row must not enter a ranking."""
        self.risk_direction(column)
        values = np.where(self.scored, self.floats(column), np.nan)
        if np.isnan(values).all():
            ranking = [name for name in self.ranking_columns if self.risk_direction(name) != "none"]
            measured = ", ".join(name for name in ranking if np.isfinite(self.floats(name)).any())
            by = f"Measured in this run: {measured}; choose one with --by."
            raise RipcurrentError(
                f"No row has a value in column {column!r}: there is nothing to rank.",
                by if measured else "No row of this run was scored; its status column says why.",
                code=ExitCode.NOT_MEASURED,
            )
        return values

    def ranked(self, column: str | None = None) -> RowNumbers:
        """Numbers of the rows that have a score, riskiest first (without a direction of risk, highest first)."""
        column = column or self.default_ranking
        values = self.scores(column)
        rows = np.flatnonzero(np.isfinite(values))
        keys = values[rows] if self.risk_direction(column) == "lower" else -values[rows]
        return cast(RowNumbers, rows[np.argsort(keys, kind="stable")].astype(np.int64))

    def take(self, rows: Sequence[int] | RowNumbers, columns: Sequence[str]) -> pa.Table:
        """Columns of rows in the order given, read from the row groups that hold them; every row must be there."""
        wanted = np.asarray(rows, dtype=np.int64)
        absent = wanted[(wanted < 0) | (wanted >= self.rows)]
        if len(absent):
            raise RipcurrentError(
                f"Row {absent[0]} is not in these scores, which have {self.rows} rows.",
                "The selection belongs to another run; select again from this one.",
            )
        names, (ascending, back) = list(columns), np.unique(wanted, return_inverse=True)
        parts, start = [self._table.schema_arrow.empty_table().select(names)], 0
        for group in range(self._table.num_row_groups):
            stop = start + self._table.metadata.row_group(group).num_rows
            inside = ascending[(ascending >= start) & (ascending < stop)] - start
            if len(inside):
                parts.append(self._table.read_row_group(group, columns=names).take(pa.array(inside)))
            start = stop
        return pa.concat_tables(parts).select(names).take(pa.array(back)).replace_schema_metadata(None)

    def cosines(self) -> Iterator[tuple[RowNumbers, npt.NDArray[np.float32]]]:
        """Representation cosines to every anchor, a few thousand rows at a time: row numbers, ``(rows, anchors)``."""
        for path in sorted((self.folder / "signals").glob("shard-*.parquet")):
            with pq.ParquetFile(path) as shard:
                if "representation_cosines" not in shard.schema_arrow.names:
                    return
                for batch in shard.iter_batches(batch_size=BATCH_ROWS, columns=["row", "representation_cosines"]):
                    there = batch.filter(batch.column(1).is_valid())
                    if len(there):
                        flat = there.column(1).flatten().to_numpy(zero_copy_only=False)
                        yield there.column(0).to_numpy(), flat.reshape(len(there), -1)

    def dataset(self, data: str | Path | None = None) -> Dataset:
        """The rows that were scanned, ``data`` where they are now, if they were moved; other rows are refused."""
        return open_unchanged(self.manifest.dataset, limit=self.options.limit, data=data)

    def status_counts(self) -> dict[str, int]:
        """Rows per status, the commonest first."""
        counts = self.manifest.status_counts
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def to_json(self) -> dict[str, JsonValue]:
        """What ``scan --json`` prints, but for the forecast."""
        from ripcurrent.scan._overview import scan_json

        return scan_json(self)

    @cached_property
    def _table(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.scores_path, **PARQUET_STREAMED)
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(error) from error

    @cached_property
    def _metadata(self) -> dict[str, Any]:
        try:
            return cast(dict[str, Any], json.loads((self._table.schema_arrow.metadata or {})[b"ripcurrent"]))
        except (KeyError, ValueError) as error:
            raise RipcurrentError(
                f"{self.scores_path} does not say which way its columns run (no `ripcurrent` entry in its metadata).",
                "It was not written by `ripcurrent scan`, or was rewritten without its metadata; scan again.",
            ) from error

    def _joined(self, column: str, dtype: type, convert: Callable[[pa.Array], pa.Array]) -> npt.NDArray[Any]:
        """A column as a read-only array, converted a few thousand rows at a time, and kept."""
        if column not in self.columns:
            raise RipcurrentError(
                f"{self.scores_path} has no column {column!r}.", "It was written by another version; scan again."
            )
        if (column, dtype) not in self._kept:
            try:
                batches = self._table.iter_batches(batch_size=BATCH_ROWS, columns=[column])
                parts = [convert(batch.column(0)).to_numpy(zero_copy_only=False) for batch in batches]
            except (OSError, pa.ArrowException) as error:
                raise self._damaged(error) from error
            values = self._kept[column, dtype] = np.concatenate([np.zeros(0, dtype), *parts])
            values.flags.writeable = False
        return self._kept[column, dtype]

    def _damaged(self, error: Exception) -> RipcurrentError:
        return RipcurrentError(
            f"A file of the run folder {self.folder} is damaged: {str(error).splitlines()[0]}",
            f"Delete {SCORES} there and scan again with the same --out: nothing is scored again.",
        )
