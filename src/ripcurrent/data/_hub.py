"""Data sets of the `datasets` library: a saved folder, and a stream from the Hugging Face hub."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ripcurrent.data._files import Container, cannot_write, no_such_row, pick
from ripcurrent.data._parquet import copied, single_rows, write_parquet
from ripcurrent.errors import RipcurrentError

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH = 256
HUB_PREFIX = "hf:"


class SavedFolder(Container):
    """A folder written by ``save_to_disk``."""

    kind = "folder"
    suffix = ""

    def __init__(self, path: Path) -> None:
        self.name = path.resolve().name
        if (path / "dataset_dict.json").is_file():
            path = _only_split(path)
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
        data = self._load().with_format("arrow")
        for first in range(start, len(data), _BATCH):
            yield from data[first : min(first + _BATCH, len(data))].to_pylist()

    def write(self, indices: Sequence[int], destination: Path) -> None:
        """Those rows as a saved folder with the same features."""
        data = self._load()
        for index in indices:
            if not 0 <= index < len(data):
                raise no_such_row(index)
        part = destination.with_name(destination.name + ".part")
        try:
            shutil.rmtree(part, ignore_errors=True)
            with _quiet():
                data.select([int(index) for index in indices]).save_to_disk(str(part))
            part.replace(destination)
        except OSError as error:
            raise cannot_write(destination, error) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _load(self) -> Any:
        import datasets
        import pyarrow as pa

        try:
            return datasets.load_from_disk(str(self._path))
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise RipcurrentError(
                f"{self._path} cannot be loaded as a saved dataset: {error}", "Save it again with Dataset.save_to_disk."
            ) from error


def _only_split(path: Path) -> Path:
    splits = sorted(child.name for child in path.iterdir() if (child / "state.json").is_file())
    if len(splits) != 1:
        raise RipcurrentError(
            f"{path} holds the splits {', '.join(splits) or '(none)'}; one is scored at a time.",
            f"Name one: {path / (splits[0] if splits else 'train')}",
        )
    return path / splits[0]


def is_saved(path: Path) -> bool:
    """Whether ``save_to_disk`` wrote the folder."""
    own = (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    return own or (path / "dataset_dict.json").is_file()


class HubDataset(Container):
    """One split of a hub dataset, streamed; no code of its repository is run."""

    kind = "hub"
    suffix = ".parquet"

    def __init__(self, address: str) -> None:
        self._address = address
        self.name, _, split = address.removeprefix(HUB_PREFIX).partition(":")
        owner, *rest = self.name.split("/")
        if len(rest) not in (1, 2) or not all((owner, *rest)):
            raise RipcurrentError(
                f"{address} names no hub dataset.",
                "Write hf:owner/name, with /configuration or :split where it needs them.",
            )
        self._stream = self._load(f"{owner}/{rest[0]}", rest[1] if len(rest) == 2 else None, split or "train")
        names = self._stream.column_names
        self.columns = tuple(names) if names else None

    def records(self, start: int = 0) -> Iterator[object]:
        with self._fetching():
            yield from self._stream.skip(start) if start else self._stream

    def write(self, indices: Sequence[int], destination: Path) -> None:
        """Those rows as a Parquet file with the dataset's schema."""

        def slices() -> Iterator[pa.RecordBatch]:
            tables = self._stream.with_format("arrow").iter(batch_size=_BATCH)
            return single_rows(batch for table in tables for batch in table.to_batches())

        with self._fetching():
            features = self._stream.features
            schema = features.arrow_schema if features else next(slices()).schema
            write_parquet(pick(slices(), indices, copied), schema, destination, "snappy")

    def _load(self, name: str, configuration: str | None, split: str) -> Any:
        import datasets

        with self._fetching():
            return datasets.load_dataset(name, name=configuration, split=split, streaming=True)

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


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar of `datasets` on the user's terminal."""
    import datasets

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
