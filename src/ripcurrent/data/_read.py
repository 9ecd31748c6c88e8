"""Reading: a dataset as a stream of rows that can be started anywhere and written back."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path

from ripcurrent.data._files import Container, is_packed, plain_suffix, require_rows, sampled_sha256
from ripcurrent.data._formats import (
    LONE_SURROGATE,
    Format,
    Unusable,
    check_mapping,
    require_text,
    tool_definitions,
    view,
)
from ripcurrent.data._open import SUFFIXES, open_container
from ripcurrent.data._sniff import find_format, sniff
from ripcurrent.data._spec import RowSpec
from ripcurrent.data._types import DatasetInfo, Message, Row, RowStatus
from ripcurrent.errors import RipcurrentError
from ripcurrent.files import is_address

DEMO_ROWS = Path(__file__).parent / "demo_rows.jsonl"
"""About 300 benign instructions with answers in mixed formats, written for this package."""
_SAMPLE = 20
"""Records by which the format is told."""


class Dataset:
    """A dataset as rows. Iterating streams: no more than a few records are in memory, and it can be done again."""

    def __init__(
        self,
        path: str,
        container: Container,
        row_format: Format,
        mapping: Mapping[str, str],
        limit: int | None,
        begun: Iterator[object] | None = None,
        spec: RowSpec | None = None,
    ) -> None:
        self.path = path
        """The path or hub address, as given."""
        self.name = container.name
        """File or folder name without suffixes, or the hub name; of a pattern the last folder that it names whole."""
        self.format = row_format.name
        """Name of the row format."""
        self.container = container.kind
        """``json``, ``jsonl``, ``csv``, ``parquet``, ``files``, ``folder`` or ``hub``."""
        self.suffix = container.suffix
        """Suffix for a file that `write` makes: the dataset's own, ``.gz`` or ``.zst`` included; empty for a folder."""
        self._container = container
        self._format = row_format
        self._mapping = dict(mapping)
        self._spec = spec
        self._limit = limit
        self._begun = begun
        self._counted: tuple[int, str] | None = None
        self._stamps = self._stamp_files()

    def __iter__(self) -> Iterator[Row]:
        """Every row, in order."""
        return self.iter_from(0)

    def iter_from(self, start: int) -> Iterator[Row]:
        """The rows from ``start`` on; those before are skipped without being parsed into rows."""
        stop = None if self._limit is None else max(0, self._limit - start)
        for index, record in enumerate(islice(self._container.records(start), stop), start):
            yield self.row(index, record)

    def at(self, numbers: Collection[int]) -> Iterator[Row]:
        """The rows of these numbers, in order, read in a stream up to the last of them."""
        wanted = set(numbers)
        first, last = min(wanted, default=0), max(wanted, default=-1)
        yield from (row for row in islice(self.iter_from(first), last + 1 - first) if row.index in wanted)

    def count_and_hash(self) -> tuple[int, str]:
        """Number of rows, and SHA-256: of the file as it lies on disk, or of the rows where there is no one file.

        Reads everything once, so that a broken record anywhere raises its `RipcurrentError` here and not hours later.
        """
        if self._counted is None:
            own = self._container.content_hash()
            digest = hashlib.sha256()
            count = 0
            # what was read of it to recognise the format is not read again
            records, self._begun = self._begun or self._container.records(), None
            for record in islice(records, self._limit):
                count += 1
                if own is None:
                    digest.update(canonical_json(record) + b"\n")
            self._counted = count, own or digest.hexdigest()
        return self._counted

    def has_changed(self) -> bool:
        """Whether its files are others than when it was opened, by size and time, then by content.

        False where they cannot be found now, as when a network disk is gone.
        """
        named = (self.format, self._mapping, self._spec)
        try:
            return self._stamps != self._stamp_files() and self.count_and_hash() != (
                read_rows(self.path, *named, limit=self._limit, any_fields=True).count_and_hash()
            )
        except (OSError, RipcurrentError) as error:
            # else saved halfway
            return not isinstance(error, OSError)

    def _stamp_files(self) -> list[tuple[int, int]]:
        """Size and time of change of each file; none of a hub dataset."""
        return [(path.stat().st_size, path.stat().st_mtime_ns) for path in self._container.files]

    def describe(self) -> DatasetInfo:
        """What a manifest keeps of it; reads everything once (see `count_and_hash`)."""
        count, sha256 = self.count_and_hash()
        return DatasetInfo(
            # links are not followed: what they lead to may have another name and no suffix
            path=self.path if self.container == "hub" or is_address(self.path) else str(Path(self.path).absolute()),
            name=self.name,
            sha256=sha256,
            format=self.format,
            mapping=self._mapping or None,
            spec=self._spec,
            container=self.container,
            rows=count,
        )

    def sampled_hash(self) -> str | None:
        """Hash by which another machine can see that it reads the same files; None for a hub dataset, which has none.

        Of large files it covers the sizes and parts of the content; `count_and_hash` covers all of it.
        """
        return None if self.container == "hub" else sampled_sha256(self._container.files)

    def write(self, indices: Sequence[int], destination: str | Path) -> None:
        """Write the rows at ``indices``, in that order, in this dataset's own container, fields and field order.

        What this package does not know is kept: JSON text is copied as it stands, CSV keeps its quoting and line ends,
        Parquet and folders their schema. A hub dataset becomes a Parquet file. ``.gz`` or ``.zst`` at the end of
        ``destination`` compresses. The file appears only when it is whole. Rising indices stream; others are held.

        Raises:
            RipcurrentError: an index that is no row, a suffix of another container, or a place that cannot be written.
        """
        destination = Path(destination)
        chosen = [int(index) for index in indices]
        require_rows(chosen, 2**60 if self._limit is None else self._limit)
        expected = plain_suffix(Path(f"rows{self.suffix}"))
        found = plain_suffix(destination)
        plain = destination.stem if is_packed(destination) else destination.name
        if found != expected and (found in SUFFIXES or expected):
            raise RipcurrentError(
                f"{destination.name}: rows of {self.path} are written as {expected or 'a folder'}.",
                f"Name it {plain.removesuffix(found) or 'selection'}{expected}",
            )
        self._container.write(chosen, destination)

    def row(self, index: int, record: object) -> Row:
        """A record, as this dataset's format and mapping read it."""
        messages: tuple[Message, ...] = ()
        text: str | None = None
        problem: RowStatus | None = None
        fields = record if isinstance(record, Mapping) else {"value": record}
        read = view(fields, self._mapping) if self._spec is None else self._spec.record(fields)
        content: object = record
        try:
            if fields is not record:
                raise Unusable("invalid_conversation")
            require_text(fields)
            parsed = self._format.parse(read)
            if isinstance(parsed, str):
                content = text = parsed
            else:
                messages = parsed
                content = [[one.role, one.content, *([one.parts] if one.parts else ())] for one in parsed] or record
        except Unusable as unusable:
            problem = unusable.reason
        own = read.get("id")
        if isinstance(own, float) and own.is_integer():
            own = int(own)  # whole numbers of a column with gaps
        named = (isinstance(own, int) and not isinstance(own, bool)) or (
            isinstance(own, str) and own != "" and not LONE_SURROGATE.search(own)
        )
        row_id = str(own) if named else hashlib.sha256(canonical_json(content)).hexdigest()[:16]
        mapped = read if self._mapping or self._spec else None
        return Row(index, row_id, messages, text, fields, problem, mapped, tool_definitions(read) if messages else None)


def read_rows(
    path: str | Path,
    format: str | None = None,
    mapping: Mapping[str, str] | None = None,
    spec: RowSpec | None = None,
    *,
    limit: int | None = None,
    any_fields: bool = False,
) -> Dataset:
    """Open a dataset as a stream of rows.

    Args:
        path: a ``.json`` (array), ``.jsonl``, ``.csv``, ``.parquet`` or ``.arrow`` file, also with ``.gz`` or ``.zst``;
            a folder saved by ``datasets``; a folder of ``.jsonl`` or of ``.parquet`` files, or a pattern such as
            ``corpus/*.parquet``, read as one dataset in the order of their paths; a file or pattern at an address
            that fsspec knows (``s3://…``), copied into the cache once; or ``hf:owner/name[/configuration][:split]``, by
            default its ``train`` split.
        format: a row format's name; by default the one that the first records' fields fit.
        mapping: from a format's field to this dataset's column, for datasets in no known format.
        spec: instead of both, how records in no known format are read as conversations.
        limit: read only the first rows, at most this many.
        any_fields: read rows in no format that is known as mere records, for a trainer that reads them.

    Raises:
        RipcurrentError: nothing there, not readable, empty, broken, or in no format that is known. What is broken
            further in is found by iterating or by `Dataset.count_and_hash`.
    """
    mapping = mapping or {}
    check_mapping(mapping)
    if spec is not None and (mapping or format not in (None, "spec")):
        raise RipcurrentError("A spec says how records are read, in place of --format and --map.", "Give one of them.")
    if spec is None and format is not None:
        find_format(format)
    if limit is not None and limit < 1:
        raise RipcurrentError(f"A limit of {limit} rows leaves nothing.", "Give a limit of 1 or more.")
    container = open_container(str(path))
    records = container.records()
    sample = list(islice(records, _SAMPLE if limit is None else min(limit, _SAMPLE)))
    row_format = sniff(str(path), sample, container.columns, format, mapping, spec, any_fields=any_fields)
    return Dataset(str(path), container, row_format, mapping, limit, chain(sample, records), spec)


def open_unchanged(info: DatasetInfo, *, limit: int | None = None, data: str | Path | None = None) -> Dataset:
    """The dataset of a scan by what its manifest keeps, if its row numbers still mean the same rows.

    Without the scan's row ``limit`` a dataset that has grown is another one. ``data`` is where it is now, if it was
    moved. Raises `RipcurrentError` where it is not there, or has other rows.
    """
    path = str(data or info.path)
    try:
        named = (info.format, info.mapping, info.spec)
        dataset = read_rows(path, *named, limit=limit and info.rows, any_fields=True)
    except RipcurrentError as error:
        moved = "Where the scanned dataset is now, say with --data (in an experiment's file: data, beside run)."
        raise RipcurrentError(error.message, error.hint if data is not None else moved) from error
    if dataset.count_and_hash() != (info.rows, info.sha256):
        raise RipcurrentError(
            f"{path} has other rows than the dataset that was scanned: its scores belong to those."
            if data is not None
            else f"{path} has changed since it was scanned: its scores belong to other rows.",
            "Put the scanned file back, or scan this one into a new folder.",
        )
    return dataset


def canonical_json(value: object) -> bytes:
    """One JSON text per value: keys sorted, no spaces, ASCII; what JSON lacks (dates) as its string."""
    return json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"), default=str).encode()
