"""Shards: a scan's rows in numbered Parquet files, each whole and marked, so that a second call resumes."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ripcurrent.errors import RipcurrentError
from ripcurrent.runs import write_json, written_whole


@dataclass(frozen=True, slots=True)
class Shard:
    """A consecutive range of a dataset's rows."""

    number: int
    """0-based."""
    start: int
    """First row."""
    rows: int
    """Number of rows."""


class ShardFolder:
    """A folder of ``shard-00000.parquet`` files with completion markers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: list[int] = []

    def path(self, number: int) -> Path:
        """Where a shard's table is."""
        return self._folder / f"shard-{number:05d}.parquet"

    def _marker(self, number: int) -> Path:
        return self._folder / f"shard-{number:05d}.done"

    def done(self, number: int) -> Shard | None:
        """The shard as it was written to its end; None where it was not, or its marker is damaged."""
        try:
            found = Shard(**json.loads(self._marker(number).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return found if self.path(number).exists() else None

    def write(self, shard: Shard, table: pa.Table) -> None:
        """Write a shard whole, then its marker."""
        with written_whole(self.path(shard.number)) as part:
            pq.write_table(table, part, compression="zstd")
        write_json(self._marker(shard.number), asdict(shard))
        self._written.append(shard.number)

    def tables(self, shards: int) -> Iterator[pa.Table]:
        """The first ``shards`` shards' tables in order, one in memory at a time."""
        for number in range(shards):
            if self.done(number) is None:
                raise RipcurrentError(
                    f"{self.path(number)} is missing or unfinished.", "Run the same scan again to complete it."
                )
            try:
                yield pq.read_table(self.path(number))
            except (OSError, pa.ArrowInvalid) as error:
                raise RipcurrentError(
                    f"{self.path(number)} is damaged: {str(error).splitlines()[0]}.",
                    "Delete this file and run the same scan again: only its rows are computed again.",
                ) from error

    def undo(self) -> None:
        """Remove the shards that were written through this object."""
        for number in self._written:
            self._marker(number).unlink(missing_ok=True)
            self.path(number).unlink(missing_ok=True)
        self._written.clear()
