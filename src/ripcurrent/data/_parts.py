"""Many files read as one dataset: a folder or a pattern of JSON-lines or Parquet files, one after another."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ripcurrent.data._csv import CsvFile
from ripcurrent.data._files import Container, OneFile, pick, plain_suffix, sha256_of_file
from ripcurrent.data._json import JsonArray, JsonLines, holds_lines, write_lines
from ripcurrent.data._parquet import ParquetFile, copied, write_parquet
from ripcurrent.errors import RipcurrentError

if TYPE_CHECKING:
    import pyarrow as pa

_PATTERN = frozenset("*?[")

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
_CONVERTED = {
    ".tsv": "Save it with commas between the cells, as .csv; under another name its tabs are still not read.",
    ".txt": 'Write its texts one a line as {"text": "…"}, as .jsonl; rename it only if it holds such lines already.',
}
"""Suffixes of files that a new name does not mend, with what does."""


def is_pattern(path: str) -> bool:
    """Whether a path is a pattern for several files, and no file of that very name is there."""
    return bool(_PATTERN & set(path)) and not Path(path).exists()


def files_of_pattern(pattern: str) -> list[Path]:
    """The files that a pattern fits, in the order of their paths; ``**`` reaches into folders."""
    names = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - a pattern may be absolute
    files = [Path(name) for name in names if Path(name).is_file()]
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


class FileParts(Container):
    """Files of one kind as one dataset, in the order given; they are opened one at a time."""

    kind = "files"

    def __init__(self, path: str, files: Sequence[Path]) -> None:
        opened = [open_file(file) for file in files]
        for part in opened:
            if not isinstance(part, JsonLines | ParquetFile):
                raise RipcurrentError(
                    f"{part.path} is neither JSON lines nor Parquet.",
                    "Several files are read together when all are .jsonl, or all .parquet, each also with .gz.",
                )
            if type(part) is not type(opened[0]):
                raise RipcurrentError(
                    f"{files[0]} and {part.path} are of two kinds.",
                    "Name the files of one kind, as in 'FOLDER/*.parquet'.",
                )
        self.files = tuple(files)
        self._parquet = [part for part in opened if isinstance(part, ParquetFile)]
        self._lines = [part for part in opened if isinstance(part, JsonLines)]
        self.columns = opened[0].columns
        self.suffix = ".parquet" if self._parquet else ".jsonl"
        # of a pattern the last folder that it names whole
        whole = [part for part in Path(path).parts if not set(part) & _PATTERN]
        self.name = Path(*whole).resolve().name

    def records(self, start: int = 0) -> Iterator[object]:
        behind = start
        for part in self._parquet or self._lines:
            if behind and behind >= part.rows:
                behind -= part.rows
                continue
            yield from part.records(behind)
            behind = 0

    def content_hash(self) -> str:
        # over the files' own hashes, in order; their names and where they lie do not count
        return hashlib.sha256("".join(sha256_of_file(file) for file in self.files).encode()).hexdigest()

    def write(self, indices: Sequence[int], destination: Path) -> None:
        """Those rows in one file of the same kind; Parquet rows with all files' columns, null where one has none."""
        if self._lines:
            write_lines(self._lines, indices, destination)
            return
        slices = (batch for part in self._parquet for batch in part.slices())
        write_parquet(pick(slices, indices, copied), self._schema(), destination, self._parquet[0].compression())

    def _schema(self) -> pa.Schema:
        """The columns of all files, each of a type that holds those of all; the first file's order and metadata."""
        import pyarrow as pa

        schema = self._parquet[0].schema
        for part in self._parquet:
            try:
                if not part.schema.equals(schema):
                    schema = pa.unify_schemas([schema, part.schema], promote_options="permissive")
            except pa.ArrowException as error:
                raise RipcurrentError(
                    f"{part.path} has other columns than {self.files[0]}: {str(error).splitlines()[0]}",
                    "Write all files with one schema, or score them one by one.",
                ) from error
        return schema


def open_file(file: Path) -> OneFile:
    """The container that a file's suffix names."""
    suffix = plain_suffix(file)
    if suffix == ".json":
        return JsonLines(file) if holds_lines(file) else JsonArray(file)
    kinds: dict[str, type[OneFile]] = {".jsonl": JsonLines, ".csv": CsvFile, ".parquet": ParquetFile}
    if suffix in kinds:
        return kinds[suffix](file)
    if suffix in _CONVERTED:
        raise RipcurrentError(f"{file} is not read: it is no {', '.join(SUFFIXES)} file.", _CONVERTED[suffix])
    raise RipcurrentError(
        f"{file} has no suffix that names a container.",
        f"Rename it if it is one of these: {', '.join(SUFFIXES)}, each also with .gz; else convert it to one.",
    )
