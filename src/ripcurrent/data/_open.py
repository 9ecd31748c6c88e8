"""What lies at a path or address: one file, a folder, a hub dataset, or many files read as one dataset."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ripcurrent.data._files import Container, OneFile, pick, plain_suffix, sha256_of_file
from ripcurrent.data._tables import (
    HUB_PREFIX,
    ArrowFile,
    HubDataset,
    ParquetFile,
    SavedFolder,
    copied,
    is_saved,
    write_parquet,
)
from ripcurrent.data._text_files import CsvFile, JsonArray, JsonLines, holds_lines, write_lines
from ripcurrent.errors import RipcurrentError
from ripcurrent.files import is_address, local_copy

if TYPE_CHECKING:
    import pyarrow as pa

_PATTERN = frozenset("*?[")
SUFFIXES = (".json", ".jsonl", ".csv", ".parquet", ".arrow")


def open_container(path: str) -> Container:
    """The file, folder, files or hub dataset at a path or address, whatever its records are."""
    if is_address(path):
        return open_container(local_copy(path))
    if path.startswith(HUB_PREFIX):
        return HubDataset(path)
    file = Path(path)
    if _PATTERN & set(path) and not file.exists():
        found = map(Path, sorted(glob.glob(path, recursive=True)))  # noqa: PTH207 - a pattern may be absolute
        if files := [one for one in found if one.is_file()]:
            return FileParts(path, files)
        raise RipcurrentError(f"No file fits {path}.", "Check the pattern, and that it stands in quotation marks.")
    if file.is_dir():
        # hidden ones and _… are not data
        files = sorted(one for one in file.iterdir() if one.is_file() and one.name[0] not in "._")
        parts = [one for one in files if plain_suffix(one) in (".jsonl", ".parquet") and not is_saved(file)]
        return FileParts(path, parts) if parts else SavedFolder(file)
    if not file.exists():
        raise RipcurrentError(f"{path} does not exist.", "Check the path; a hub dataset is written hf:owner/name.")
    if file.stat().st_size == 0:
        raise RipcurrentError(f"{path} is empty.", "Check that it is the file you mean.")
    return _open_file(file)


def _open_file(file: Path) -> OneFile:
    suffix = plain_suffix(file)
    if suffix == ".json":
        return JsonLines(file) if holds_lines(file) else JsonArray(file)
    kinds = {".jsonl": JsonLines, ".csv": CsvFile, ".parquet": ParquetFile, ".arrow": ArrowFile}
    if suffix in kinds:
        return kinds[suffix](file)
    raise RipcurrentError(
        f"{file} is not read: its suffix is none of {', '.join(SUFFIXES)}, each also with .gz or .zst.",
        "Convert it to one of these. A new name alone helps only where it holds one of them already.",
    )


class FileParts(Container):
    """Files of one kind as one dataset, in the order given; they are opened one at a time."""

    kind = "files"

    def __init__(self, path: str, files: Sequence[Path]) -> None:
        opened = [_open_file(file) for file in files]
        for part in opened:
            if not isinstance(part, JsonLines | ParquetFile) or type(part) is not type(opened[0]):
                raise RipcurrentError(
                    f"{files[0]} and {part.path} are not read together.",
                    "Name files of one kind, all .jsonl or all .parquet, packed or not, as in 'FOLDER/*.parquet'.",
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
        for part in self._parquet or self._lines:
            if start and start >= part.rows:
                start -= part.rows
            else:
                yield from part.records(start)
                start = 0

    def content_hash(self) -> str:
        # over the files' own hashes, in order; their names and where they lie do not count
        return hashlib.sha256("".join(sha256_of_file(file) for file in self.files).encode()).hexdigest()

    def write(self, indices: Sequence[int], destination: Path) -> None:
        """Those rows in one file of the same kind; Parquet rows with all files' columns, null where one has none."""
        if self._lines:
            write_lines(self._lines, indices, destination)
            return
        slices = (batch for part in self._parquet for batch in part.slices())
        write_parquet(pick(slices, indices, copied), self._schema(), destination)

    def _schema(self) -> pa.Schema:
        """The columns of all files, each of a type that holds those of all; the first file's order and metadata."""
        import pyarrow as pa

        schema = self._parquet[0].schema
        for part in self._parquet:
            try:
                schema = pa.unify_schemas([schema, part.schema], promote_options="permissive")
            except pa.ArrowException as error:
                raise RipcurrentError(
                    f"{part.path} has other columns than {self.files[0]}: {str(error).splitlines()[0]}",
                    "Write all files with one schema, or score them one by one.",
                ) from error
        return schema
