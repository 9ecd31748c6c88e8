"""Parquet: read in batches, written with the same schema."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from ripcurrent.data._files import OneFile, is_gzipped, pick, reading, writing
from ripcurrent.errors import RipcurrentError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

PARQUET_STREAMED: dict[str, Any] = {"pre_buffer": False, "buffer_size": 2**20}
"""How a Parquet file is opened to be read in batches: by default all columns are fetched first, and kept while it is
open."""
_BATCH = 256
_GROUP = 8192


class ParquetFile(OneFile):
    """A ``.parquet`` file."""

    kind = "parquet"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with self._open() as file:
            self.schema: pa.Schema = file.schema_arrow
            self.columns = tuple(self.schema.names)
            self.rows: int = file.metadata.num_rows

    def records(self, start: int = 0) -> Iterator[object]:
        with self._open() as file:
            at, first = 0, 0
            # whole row groups before ``start`` are not read
            while first < file.num_row_groups and at + file.metadata.row_group(first).num_rows <= start:
                at += file.metadata.row_group(first).num_rows
                first += 1
            for batch in file.iter_batches(batch_size=_BATCH, row_groups=range(first, file.num_row_groups)):
                behind = min(max(0, start - at), batch.num_rows)
                yield from self._values(batch.slice(behind), at + behind)
                at += batch.num_rows

    def _values(self, batch: pa.RecordBatch, start: int) -> list[dict[str, Any]]:
        """The batch's rows, of which the first is number ``start`` of the file."""
        try:
            return cast(list[dict[str, Any]], batch.to_pylist())
        except (ValueError, OverflowError) as error:
            # Arrow checks neither that text is UTF-8 nor that a date is one that Python has
            row, column = _not_readable(batch)
            raise RipcurrentError(
                f"{self.path}, row {start + row}, column {column}: {error}.",
                "Write the column again as valid UTF-8 or dates, or leave it out.",
            ) from error

    def write(self, indices: Sequence[int], destination: Path) -> None:
        """Those rows with the file's schema, its metadata and its compression."""
        write_parquet(pick(self.slices(), indices, copied), self.schema, destination, self.compression())

    def compression(self) -> str:
        with self._open() as file:
            if not (file.num_row_groups and file.metadata.num_columns):
                return "snappy"
            own = str(file.metadata.row_group(0).column(0).compression).lower()
            return "none" if own == "uncompressed" else own

    def slices(self) -> Iterator[pa.RecordBatch]:
        """The rows in order, each as a batch of one row."""
        with self._open() as file:
            yield from single_rows(file.iter_batches(batch_size=_BATCH))

    @contextmanager
    def _open(self) -> Iterator[pq.ParquetFile]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        with reading(self.path) as stream, _seekable(self.path, stream) as file:
            try:
                yield pq.ParquetFile(file, **PARQUET_STREAMED)
            except pa.ArrowException as error:
                raise RipcurrentError(
                    f"{self.path} is no readable Parquet file: {str(error).splitlines()[0]}", "Fetch or write it again."
                ) from error


def _not_readable(batch: pa.RecordBatch) -> tuple[int, str]:
    """Place and column of the first value that Python has no equal of."""
    for row in range(batch.num_rows):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            try:
                column[row].as_py()
            except (ValueError, OverflowError):
                return row, str(name)
    return 0, "?"


def single_rows(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    return (batch.slice(offset, 1) for batch in batches for offset in range(batch.num_rows))


def copied(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch with memory of its own: a slice keeps the whole batch that it is cut from."""
    import pyarrow as pa

    return batch.take(pa.array(range(batch.num_rows)))


def write_parquet(batches: Iterable[pa.RecordBatch], schema: pa.Schema, destination: Path, compression: str) -> None:
    """Write batches of one row each in row groups of a few thousand rows; what the schema has beyond them is null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with writing(destination) as file, pq.ParquetWriter(file, schema, compression=compression) as writer:
        rows = iter(batches)
        while held := list(islice(rows, _GROUP)):
            tables = [pa.Table.from_batches(list(alike)) for _, alike in groupby(held, lambda batch: batch.schema)]
            writer.write_table(pa.concat_tables([schema.empty_table(), *tables], promote_options="permissive"))


@contextmanager
def _seekable(path: Path, stream: BinaryIO) -> Iterator[BinaryIO]:
    """Parquet is read from its end: a gzipped one is unpacked to a temporary file first."""
    if not is_gzipped(path):
        yield stream
        return
    with tempfile.TemporaryFile(prefix="ripcurrent-") as unpacked:
        shutil.copyfileobj(stream, unpacked)
        unpacked.seek(0)
        yield cast(BinaryIO, unpacked)
