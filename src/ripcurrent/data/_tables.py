"""Rows with a schema: Parquet files, folders that `datasets` saved, and streams from the Hugging Face hub."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ripcurrent.data._files import Container, OneFile, is_packed, pick, reading, require_rows, writing
from ripcurrent.errors import RipcurrentError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

PARQUET_STREAMED: dict[str, Any] = {"pre_buffer": False, "buffer_size": 2**20}
"""How a Parquet file is opened to be read in batches: by default all columns are fetched first, and kept while it is
open."""
_BATCH = 256
_GROUP = 8192
HUB_PREFIX = "hf:"


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
        """Those rows with the file's schema and its metadata."""
        write_parquet(pick(self.slices(), indices, copied), self.schema, destination)

    def slices(self) -> Iterator[pa.RecordBatch]:
        """The rows in order, each as a batch of one row."""
        with self._open() as file:
            yield from _single_rows(file.iter_batches(batch_size=_BATCH))

    @contextmanager
    def _open(self) -> Iterator[pq.ParquetFile]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        with reading(self.path) as stream, tempfile.TemporaryFile(prefix="ripcurrent-") as unpacked:
            if is_packed(self.path):
                # Parquet is read from its end
                shutil.copyfileobj(stream, unpacked)
            try:
                yield pq.ParquetFile(unpacked if is_packed(self.path) else stream, **PARQUET_STREAMED)
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


def _single_rows(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    return (batch.slice(offset, 1) for batch in batches for offset in range(batch.num_rows))


def copied(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch with memory of its own: a slice keeps the whole batch that it is cut from."""
    import pyarrow as pa

    return batch.take(pa.array(range(batch.num_rows)))


def write_parquet(batches: Iterable[pa.RecordBatch], schema: pa.Schema, destination: Path) -> None:
    """Write batches of one row each in row groups of a few thousand rows; what the schema has beyond them is null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with writing(destination) as file, pq.ParquetWriter(file, schema) as writer:
        rows = iter(batches)
        while held := list(islice(rows, _GROUP)):
            tables = [pa.Table.from_batches(list(alike)) for _, alike in groupby(held, lambda batch: batch.schema)]
            writer.write_table(pa.concat_tables([schema.empty_table(), *tables], promote_options="permissive"))


class ArrowFile(OneFile):
    """An ``.arrow`` file: a stream, as `datasets` writes it."""

    kind = "arrow"

    def __init__(self, path: Path) -> None:
        import datasets
        import pyarrow as pa

        super().__init__(path)
        try:
            self._data: Any = datasets.Dataset.from_file(str(path)).with_format("arrow")
        except (OSError, ValueError, pa.ArrowException) as error:
            raise RipcurrentError(
                f"{path} is no readable Arrow stream, as `datasets` writes it: {str(error).splitlines()[0]}",
                "Unpack it, or write it again with Dataset.save_to_disk or as Parquet.",
            ) from error
        self.columns = tuple(self._data.column_names)

    def records(self, start: int = 0) -> Iterator[object]:
        return _in_batches(self._data, start)

    def write(self, indices: Sequence[int], destination: Path) -> None:
        """Those rows as a stream with the file's schema and its metadata."""
        import pyarrow as pa

        require_rows(indices, len(self._data))
        with writing(destination) as file, pa.ipc.new_stream(file, self._data.data.schema) as writer:
            for first in range(0, len(indices), _GROUP):
                writer.write_table(self._data[list(indices[first : first + _GROUP])])


def _in_batches(data: Any, start: int) -> Iterator[object]:
    for first in range(start, len(data), _BATCH):
        yield from data[first : min(first + _BATCH, len(data))].to_pylist()


class SavedFolder(Container):
    """A folder written by ``save_to_disk``."""

    kind = "folder"
    suffix = ""

    def __init__(self, path: Path) -> None:
        self.name = path.resolve().name
        if (path / "dataset_dict.json").is_file():
            splits = sorted(child.name for child in path.iterdir() if (child / "state.json").is_file())
            if len(splits) != 1:
                raise RipcurrentError(
                    f"{path} holds the splits {', '.join(splits) or '(none)'}; one is scored at a time.",
                    f"Name one: {path / (splits[0] if splits else 'train')}",
                )
            path = path / splits[0]
        elif not is_saved(path):
            raise RipcurrentError(
                f"{path} is a folder that `datasets` did not save, and holds no .jsonl or .parquet file.",
                "Give a file in it, a folder of such files, or one written by Dataset.save_to_disk.",
            )
        self._path = path
        self.columns = tuple(self._load().column_names)
        # a run, or what a file browser leaves, may lie beside them
        own = [*path.glob("*.arrow"), path / "state.json", path / "dataset_info.json"]
        self.files = sorted(file for file in own if file.is_file())

    def records(self, start: int = 0) -> Iterator[object]:
        return _in_batches(self._load().with_format("arrow"), start)

    def write(self, indices: Sequence[int], destination: Path) -> None:
        """Those rows as a saved folder with the same features."""
        import datasets

        data = self._load()
        require_rows(indices, len(data))
        part = destination.with_name(destination.name + ".part")
        shown = datasets.is_progress_bar_enabled()
        datasets.disable_progress_bars()
        try:
            data.select([int(index) for index in indices]).save_to_disk(str(part))
            part.replace(destination)
        except OSError as error:
            raise RipcurrentError(
                f"{destination} cannot be written: {error.strerror or error}.", "Choose another place, or free space."
            ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
            if shown:
                datasets.enable_progress_bars()

    def _load(self) -> Any:
        import datasets
        import pyarrow as pa

        try:
            return datasets.load_from_disk(str(self._path))
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise RipcurrentError(
                f"{self._path} cannot be loaded as a saved dataset: {error}", "Save it again with Dataset.save_to_disk."
            ) from error


def is_saved(path: Path) -> bool:
    """Whether ``save_to_disk`` wrote the folder."""
    own = (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    return own or (path / "dataset_dict.json").is_file()


class HubDataset(Container):
    """One split of a hub dataset, streamed; no code of its repository is run."""

    kind = "hub"
    suffix = ".parquet"

    def __init__(self, address: str) -> None:
        import datasets

        self._address = address
        self.name, _, split = address.removeprefix(HUB_PREFIX).partition(":")
        owner, *rest = self.name.split("/")
        if len(rest) not in (1, 2) or not all((owner, *rest)):
            raise RipcurrentError(
                f"{address} names no hub dataset.",
                "Write hf:owner/name, with /configuration or :split where it needs them.",
            )
        own, configuration = f"{owner}/{rest[0]}", rest[1] if len(rest) == 2 else None
        with self._fetching():
            self._stream: Any = datasets.load_dataset(own, name=configuration, split=split or "train", streaming=True)
        names = self._stream.column_names
        self.columns = tuple(names) if names else None

    def records(self, start: int = 0) -> Iterator[object]:
        with self._fetching():
            yield from self._stream.skip(start) if start else self._stream

    def write(self, indices: Sequence[int], destination: Path) -> None:
        """Those rows as a Parquet file with the dataset's schema."""

        def slices() -> Iterator[pa.RecordBatch]:
            tables = self._stream.with_format("arrow").iter(batch_size=_BATCH)
            return _single_rows(batch for table in tables for batch in table.to_batches())

        with self._fetching():
            features = self._stream.features
            schema = features.arrow_schema if features else next(slices()).schema
            write_parquet(pick(slices(), indices, copied), schema, destination)

    @contextmanager
    def _fetching(self) -> Iterator[None]:
        from datasets.exceptions import DatasetsError

        try:
            yield
        except (OSError, ValueError, RuntimeError, DatasetsError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise RipcurrentError(
                f"{self._address} cannot be read from the hub: {reason}",
                "Check the name, configuration, split and the network, or download a file of it and give its path.",
            ) from error
