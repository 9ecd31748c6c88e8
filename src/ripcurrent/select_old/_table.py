"""The scores table as arrays in row order, with errors for what cannot be ranked."""

from __future__ import annotations

import json
from collections.abc import Collection
from difflib import get_close_matches
from functools import cached_property
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.scan._columns import Direction
from ripcurrent.select_old._types import BoolArray, FloatArray, IntArray


class ScoredRows:
    """One scores table, its rows sorted by row number so that nothing depends on the table's own order."""

    def __init__(self, table: pa.Table) -> None:
        """Wrap a table by the contract of ``scores.parquet``.

        Raises:
            RipcurrentError: The table lacks ``row``, ``status`` or the ``ripcurrent`` metadata.
        """
        missing = [name for name in ("row", "status") if name not in table.column_names]
        raw = (table.schema.metadata or {}).get(b"ripcurrent")
        if missing or raw is None:
            what = f"column {missing[0]!r}" if missing else "metadata key 'ripcurrent'"
            raise RipcurrentError(
                f"This is not a table of scores: it has no {what}.",
                "Give the scores.parquet that `ripcurrent scan` wrote.",
            )
        self.metadata: dict[str, Any] = json.loads(raw)
        self._order: IntArray = np.argsort(table["row"].to_numpy(), kind="stable")
        self._table = table

    @cached_property
    def rows(self) -> IntArray:
        """Row numbers, ascending, shape ``(rows,)``."""
        return np.asarray(self._values("row"), dtype=np.int64)

    @cached_property
    def ok(self) -> BoolArray:
        """Rows of status ``ok``, shape ``(rows,)``."""
        return cast("BoolArray", pc.equal(self._table["status"], "ok").to_numpy()[self._order].astype(bool))

    @property
    def default_ranking(self) -> str:
        """The column that ranks unless another is named."""
        return str(self.metadata["default_ranking"])

    @property
    def ranking_columns(self) -> list[str]:
        """Numeric columns that the metadata knows, in the metadata's order."""
        return [name for name in self.metadata["direction_of_risk"] if name in self._table.column_names]

    def direction(self, column: str) -> Direction:
        """Which end of a column is riskier.

        Raises:
            RipcurrentError: Not a numeric column of this table; names the nearest that is.
        """
        if column not in self.ranking_columns:
            nearest = get_close_matches(column, self.ranking_columns, n=1, cutoff=0.4)
            reason = "is not a number to rank by" if column in self._table.column_names else "is not in these scores"
            raise RipcurrentError(
                f"Column {column!r} {reason}.",
                (f"Did you mean {nearest[0]!r}? " if nearest else "") + f"Columns: {', '.join(self.ranking_columns)}.",
            )
        return cast("Direction", self.metadata["direction_of_risk"][column])

    def numbers(self, column: str) -> FloatArray:
        """A numeric column with NaN for what is missing, shape ``(rows,)``.

        Raises:
            RipcurrentError: Not a numeric column of this table.
        """
        self.direction(column)
        return np.asarray(self._values(column), dtype=np.float64)

    def scores(self, column: str) -> FloatArray:
        """A column to rank by: NaN wherever a row must not enter a ranking, shape ``(rows,)``.

        Raises:
            RipcurrentError: Not a numeric column, or none of its rows has a score.
        """
        values = np.where(self.ok, self.numbers(column), np.nan)
        values[~np.isfinite(values)] = np.nan
        if np.isnan(values).all():
            measured = [
                name
                for name in self.ranking_columns
                if self.direction(name) != "none" and np.isfinite(self.numbers(name)).any()
            ]
            raise RipcurrentError(
                f"No row has a value in column {column!r}: there is nothing to rank.",
                f"Measured in this run: {', '.join(measured)}; choose one with --by."
                if measured
                else "No row of this run was scored; its status column says why.",
                code=ExitCode.NOT_MEASURED,
            )
        return values

    def flags(self, trait: str) -> BoolArray:
        """A boolean column, False where it is missing, shape ``(rows,)``."""
        return cast("BoolArray", pc.fill_null(self._table[trait], False).to_numpy()[self._order].astype(bool))

    def positions(self, rows: Collection[int]) -> IntArray:
        """Where row numbers stand in the arrays, in the order given.

        Raises:
            RipcurrentError: A row number that the table does not have.
        """
        wanted = np.asarray(list(rows), dtype=np.int64)
        found = np.searchsorted(self.rows, wanted)
        absent = (found >= len(self.rows)) | (self.rows[np.minimum(found, len(self.rows) - 1)] != wanted)
        if absent.any():
            raise RipcurrentError(
                f"Row {wanted[absent][0]} is not in these scores, which have {len(self.rows)} rows.",
                "The selection belongs to another run; select again from this one.",
            )
        return found.astype(np.int64)

    def ids(self, rows: Collection[int]) -> list[str]:
        """The ids of row numbers, in the order given."""
        return cast("list[str]", self._table["id"].take(self._places(rows)).to_pylist())

    def take(self, rows: Collection[int]) -> pa.Table:
        """The table's rows of these numbers, in the order given."""
        return self._table.take(self._places(rows))

    def pool(self, without: Collection[int]) -> IntArray:
        """Positions of the ``ok`` rows that controls may be drawn from.

        Raises:
            RipcurrentError: No such row is left.
        """
        free = self.ok.copy()
        if len(without):
            free[self.positions(without)] = False
        if not free.any():
            raise RipcurrentError(
                "No usable row is left to draw from: "
                + (f"the selection takes all {len(without)} of them." if len(without) else "none has status ok."),
                "Select fewer rows: every selection needs rows beside it to be compared with."
                if len(without)
                else "The status column of scores.parquet says why each row is unusable.",
                code=ExitCode.USAGE if len(without) else ExitCode.NOT_MEASURED,
            )
        return np.flatnonzero(free).astype(np.int64)

    def _places(self, rows: Collection[int]) -> pa.Array:
        return pa.array(self._order[self.positions(rows)])

    def _values(self, column: str) -> Any:
        return self._table[column].to_numpy()[self._order]


def checked_count(k: int) -> int:
    """A number of rows to take.

    Raises:
        RipcurrentError: Below one.
    """
    if k < 1:
        raise RipcurrentError(f"A selection of {k} rows is empty.", "Ask for at least one row.")
    return k
