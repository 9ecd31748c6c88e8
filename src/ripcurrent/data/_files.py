"""Files: opened plain or compressed, written whole or not at all; and what every container of records offers."""

import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from ripcurrent.errors import RipcurrentError
from ripcurrent.files import written_whole

_Item = TypeVar("_Item")

BOM = b"\xef\xbb\xbf"
PACKED = (".gz", ".zst")

BLOCK, BLOCKS = 2**20, 64
"""What is read of large files to tell them from others: bytes of a block, and number of blocks."""


class Container:
    """Where records lie: read in order, and written as they stand."""

    kind: str
    """``json``, ``jsonl``, ``csv``, ``parquet``, ``files``, ``folder`` or ``hub``."""
    name: str
    """File or folder name without suffixes, or the hub name."""
    suffix: str
    """Suffix of what `write` makes; empty for a folder."""
    columns: tuple[str, ...] | None = None
    """Column names where the container declares them."""
    files: Sequence[Path] = ()
    """The files that hold the records, in order."""

    def records(self, start: int = 0) -> Iterator[object]:
        """The records from ``start`` on."""
        raise NotImplementedError

    def content_hash(self) -> str | None:
        """SHA-256 of the file or files; None where the rows themselves are to be hashed."""
        return None

    def write(self, indices: Sequence[int], destination: Path) -> None:
        """Write those records, in that order."""
        raise NotImplementedError


class OneFile(Container):
    """A container that is one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = (path,)
        plain = path.with_suffix("") if is_packed(path) else path
        self.name = plain.stem
        self.suffix = plain.suffix + (path.suffix if is_packed(path) else "")

    def content_hash(self) -> str:
        return sha256_of_file(self.path)


def is_packed(path: Path) -> bool:
    return path.suffix.lower() in PACKED


def plain_suffix(path: Path) -> str:
    """The lower-case suffix that names the container, without ``.gz`` or ``.zst``."""
    return (path.with_suffix("") if is_packed(path) else path).suffix.lower()


@contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """The file's bytes, decompressed; what can go wrong while reading becomes a `RipcurrentError`."""
    try:
        with _opened(path) as file:
            yield file
    except gzip.BadGzipFile as error:
        raise RipcurrentError(
            f"{path} is not a gzip file, or is damaged.", "Drop the .gz from its name, or fetch it again."
        ) from error
    except (EOFError, zlib.error) as error:
        raise RipcurrentError(f"{path} ends early or is damaged: it does not decompress.", "Fetch it again.") from error
    except OSError as error:
        raise _cannot_read(path, error) from error


def _opened(path: Path) -> BinaryIO:
    if path.suffix.lower() == ".zst":
        import pyarrow as pa

        return cast(BinaryIO, BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")))
    return cast(BinaryIO, gzip.open(path, "rb") if is_packed(path) else path.open("rb"))


@contextmanager
def writing(destination: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name only when all of it is written; compressed where the name says so."""
    with written_whole(destination) as part, part.open("wb") as file:
        if destination.suffix.lower() == ".zst":
            import pyarrow as pa

            with pa.CompressedOutputStream(file, "zstd") as packed:
                yield cast(BinaryIO, packed)
        elif is_packed(destination):
            # No name and no time inside: the same rows give the same bytes.
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed:
                yield cast(BinaryIO, packed)
        else:
            yield file


def sha256_of_file(path: Path) -> str:
    """SHA-256 of the file as it lies on disk, as ``sha256sum`` prints it."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _cannot_read(path, error) from error


def sampled_sha256(files: Sequence[Path]) -> str:
    """SHA-256 of the files' sizes and of what they hold: all of it up to ``BLOCKS`` blocks, else blocks spread evenly.

    Tells other files from these by a few reads: of more than ``BLOCKS`` / 2 files only that many are opened.
    """
    each = max(2, BLOCKS // len(files))
    path = files[0]
    try:
        sizes = [(path := file).stat().st_size for file in files]
        digest = hashlib.sha256(repr(sizes).encode())
        for number in sorted({(len(files) - 1) * place // (BLOCKS // 2 - 1) for place in range(BLOCKS // 2)}):
            with (path := files[number]).open("rb") as file:
                for place in range(each):
                    file.seek(max(0, sizes[number] - BLOCK) * place // (each - 1))
                    digest.update(file.read(BLOCK))
    except OSError as error:
        raise _cannot_read(path, error) from error
    return digest.hexdigest()


def decode(data: bytes, path: Path, line: int) -> str:
    """UTF-8 text of one line (1-based ``line``)."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(path, line) from error


def pick(
    items: Iterator[_Item], indices: Sequence[int], keep: Callable[[_Item], _Item] = lambda item: item
) -> Iterator[_Item]:
    """The items at ``indices``, in that order, each as ``keep`` makes it.

    Strictly rising indices stream in flat memory; any other order holds the chosen items, as a repeated or
    re-ordered row has to wait for its turn. Raises `RipcurrentError` for an index past the end.
    """
    wanted = sorted(set(indices))
    rising = wanted == list(indices)
    held: dict[int, _Item] = {}
    position = 0
    for index, item in enumerate(items):
        if position == len(wanted):
            break
        if index == wanted[position]:
            position += 1
            if rising:
                yield keep(item)
            else:
                held[index] = keep(item)
    if position < len(wanted):
        raise no_such_row(wanted[position])
    if not rising:
        for index in indices:
            yield held[index]


def require_rows(indices: Sequence[int], rows: int) -> None:
    """Raise `RipcurrentError` for an index that is no row."""
    if wrong := [index for index in indices if not 0 <= index < rows]:
        raise no_such_row(wrong[0])


def _cannot_read(path: Path, error: OSError) -> RipcurrentError:
    return RipcurrentError(
        f"{path} cannot be read: {error.strerror or error}.", "Check the path and its permissions, or fetch it again."
    )


def not_utf8(path: Path, line: int) -> RipcurrentError:
    return RipcurrentError(f"{path}, line {line}: not UTF-8 text.", "Save the file as UTF-8.")


def no_such_row(index: int) -> RipcurrentError:
    return RipcurrentError(
        f"The dataset has no row {index}.", "Rows are numbered from 0; was the file changed since it was scored?"
    )
