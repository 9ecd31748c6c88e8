"""Parquet files of as few row groups as their readers can take at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ripcurrent.runs import written_whole

ROWS = 32_768
"""Rows of a group. One for each shard would make a file of a hundred million rows a gigabyte of footer, which its
writer, and whatever opens it, holds in memory."""


def write_row_groups(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write tables of one schema, in order, into a file whole; no file where there is none."""
    with written_whole(path) as part:
        writer: pq.ParquetWriter | None = None
        try:
            for table in row_groups(tables):
                writer = writer or pq.ParquetWriter(part, table.schema, compression="zstd")
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()


def row_groups(tables: Iterable[pa.Table], rows: int = ROWS) -> Iterator[pa.Table]:
    """Tables of one schema joined, in order, until they have so many rows."""
    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        waiting.append(table)
        count += table.num_rows
        if count >= rows:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting, count = [], 0
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()
