"""Many files read as one dataset: a folder or a pattern of JSON-lines or Parquet files, one after another."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from ripcurrent.data._files import pick, plain_suffix, reading, sha256_of_file, writing
from ripcurrent.data._json import JsonLines, holds_lines
from ripcurrent.data._parquet import ParquetFile, copied, write_parquet
from ripcurrent.errors import RipcurrentError

if TYPE_CHECKING:
    import pyarrow as pa

_PATTERN = frozenset("*?[")


def is_pattern(path: str) -> bool:
    """Whether a path is a pattern for several files, and no file of that very name is there."""
    return bool(_PATTERN & set(path)) and not Path(path).exists()


def files_of_pattern(pattern: str) -> list[Path]:
    """The files that a pattern fits, in the order of their paths; ``**`` reaches into folders.

    Raises:
        RipcurrentError: it fits none.
    """
    found = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - a pattern may be absolute
    files = [Path(name) for name in found if Path(name).is_file()]
    if not files:
        raise RipcurrentError(f"No file fits {pattern}.", "Check the pattern, and that it stands in quotation marks.")
    return files


def files_of_folder(folder: Path) -> list[Path]:
    """The JSON-lines and Parquet files directly in a folder, by name; hidden ones and ``_…`` are not data."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.is_file() and file.name[0] not in "._" and plain_suffix(file) in (".jsonl", ".parquet")
    )


class FileParts:
    """Files of one kind as one dataset, in the order given; they are opened one at a time."""

    kind = "files"

    def __init__(self, files: Sequence[Path]) -> None:
        opened = [_open_part(file) for file in files]
        odd = next((place for place, part in enumerate(opened) if type(part) is not type(opened[0])), None)
        if odd is not None:
            raise RipcurrentError(
                f"{files[0]} and {files[odd]} are of two kinds.",
                "Name the files of one kind, as in 'FOLDER/*.parquet'.",
            )
        self.files = list(files)
        self._parts = opened
        self._rows: list[int | None] = [part.rows if isinstance(part, ParquetFile) else None for part in opened]
        self.columns: tuple[str, ...] | None = opened[0].columns

    @property
    def suffix(self) -> str:
        """Suffix of a file that `write` makes: the first file's own, without ``.gz``."""
        return ".parquet" if isinstance(self._parts[0], ParquetFile) else ".jsonl"

    def records(self, start: int = 0) -> Iterator[object]:
        """The rows from ``start`` on; a file before it whose number of rows is known is not opened."""
        behind = start
        for place, part in enumerate(self._parts):
            known = self._rows[place]
            if known is not None and behind >= known:
                behind -= known
                continue
            if known is not None or place == len(self._parts) - 1:
                yield from part.records(behind)
                behind = 0
                continue
            number = 0
            for number, record in enumerate(part.records(), start=1):
                if number > behind:
                    yield record
            behind = max(0, behind - number)
            self._rows[place] = number

    def content_hash(self) -> str:
        """SHA-256 over the files' own hashes, in order; their names and where they lie do not count."""
        return hashlib.sha256("".join(sha256_of_file(file) for file in self.files).encode()).hexdigest()

    def write(self, indices: Sequence[int], destination: Path) -> None:
        """Those rows in one file of the same kind; Parquet rows with all files' columns, null where one has none."""
        first = self._parts[0]
        if isinstance(first, ParquetFile):
            schema, compression = self._schema(), first.layout()[1]
            write_parquet(pick(self._slices(schema), indices, copied), schema, destination, compression)
            return
        with reading(self.files[0]) as file:
            newline = b"\r\n" if file.readline().endswith(b"\r\n") else b"\n"
        lines = chain.from_iterable(part.lines() for part in self._parts if isinstance(part, JsonLines))
        with writing(destination) as out:
            for line in pick(lines, indices):
                out.write(line + newline)

    def _schema(self) -> pa.Schema:
        """The columns of all files, each of a type that holds those of all; the first file's order and metadata."""
        import pyarrow as pa

        parts = [part for part in self._parts if isinstance(part, ParquetFile)]
        found = parts[0].schema
        for file, part in zip(self.files, parts, strict=True):
            try:
                if not part.schema.equals(found):
                    found = pa.unify_schemas([found, part.schema], promote_options="permissive")
            except pa.ArrowException as error:
                raise RipcurrentError(
                    f"{file} has other columns than {self.files[0]}: {str(error).splitlines()[0]}",
                    "Write all files with one schema, or score them one by one.",
                ) from error
        return found

    def _slices(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for part in self._parts:
            assert isinstance(part, ParquetFile)
            for batch in part.slices():
                if batch.schema.equals(schema):
                    yield batch
                    continue
                own = [
                    batch[one.name].cast(one.type) if one.name in batch.schema.names else pa.nulls(len(batch), one.type)
                    for one in schema
                ]
                yield pa.RecordBatch.from_arrays(own, schema=schema)


def _open_part(file: Path) -> JsonLines | ParquetFile:
    suffix = plain_suffix(file)
    if suffix == ".parquet":
        return ParquetFile(file)
    if suffix == ".jsonl" or (suffix == ".json" and holds_lines(file)):
        return JsonLines(file)
    raise RipcurrentError(
        f"{file} is neither JSON lines nor Parquet.",
        "Several files are read together when all are .jsonl, or all .parquet, each also with .gz.",
    )
