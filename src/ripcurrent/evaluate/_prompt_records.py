"""From a source that a user names to its records: files, folders, the hub."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from ripcurrent.data import open_container, plain_suffix
from ripcurrent.errors import RipcurrentError
from ripcurrent.options import did_you_mean

HUB_PREFIX = "hf:"

PROMPT_FIELDS = (
    *("prompt", "instruction", "request", "goal", "forbidden_prompt", "behavior", "behaviour", "question"),
    *("query", "text"),
)
"""Fields that prompts are looked for in, in this order, whatever their capitals."""

_SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
_SAMPLE = 20

PromptFields = Mapping[str, object]
"""A record of a prompt list, by field."""


@dataclass(frozen=True, slots=True)
class Records:
    """The records of a source and the field that holds their prompts."""

    place: str
    field: str
    columns: tuple[str, ...]
    rows: Iterator[PromptFields]
    """Read once; a record without named fields is empty."""


def split_field(source: str) -> tuple[str, str | None]:
    """A source and the field named after it, ``FILE:field``; None where none is named."""
    if source.startswith(HUB_PREFIX):
        address = source.split(":")
        return ":".join(address[:3]), ":".join(address[3:]) or None
    place, _, field = source.rpartition(":")
    return (place, field) if field and not Path(source).exists() and Path(place or source).exists() else (source, None)


def read_records(source: str) -> Records:
    """Open a source: a file, a folder, or ``hf:owner/name[:split]``, each with ``:field``.

    A folder is one that `datasets` saved, or one of files that are read one after the other.
    """
    place, field = split_field(source)
    parts = [place] if place.startswith(HUB_PREFIX) else [str(path) for path in _paths(Path(place))]
    opened = [_open(part) for part in parts]
    columns = tuple(dict.fromkeys(name for names, _ in opened for name in names))
    if not columns:
        raise RipcurrentError(f"{place} holds no prompts.", "Check that it is the file you mean.")
    rows = chain.from_iterable(rows for _, rows in opened)
    head = list(islice(rows, _SAMPLE))
    texts = [name for name in columns if any(isinstance(row.get(name), str) for row in head)]
    return Records(place, _choose_field(place, field, columns, texts), columns, chain(head, rows))


def _open(part: str) -> tuple[tuple[str, ...], Iterator[PromptFields]]:
    """Field names and records of one file."""
    container = open_container(part)
    header = container.columns or ()
    records: Iterator[object] = iter(container.records())
    if container.kind == "csv" and len(header) == 1 and " " in header[0].strip():
        # No column is named by a sentence: the file has no header (HEx-PHI's are such), and the line is a prompt.
        first = header[0]
        records = chain([first], (row[first] if isinstance(row, Mapping) else row for row in records))
        header = ("prompt",)
    rows = (_named(record) for record in records)
    head = list(islice(rows, _SAMPLE))
    return tuple(header) or tuple(dict.fromkeys(name for row in head for name in row)), chain(head, rows)


def _named(record: object) -> PromptFields:
    """The record's fields; a bare text is a prompt, and anything else has none."""
    if isinstance(record, str):
        return {"prompt": record}
    return {str(name): value for name, value in record.items()} if isinstance(record, Mapping) else {}


def _choose_field(place: str, named: str | None, columns: tuple[str, ...], texts: Sequence[str]) -> str:
    listing = ", ".join(columns)
    if named is not None:
        if named in columns:
            return named
        raise RipcurrentError(
            f"{place} has no field {named!r}.{did_you_mean(named, columns)}", f"Its fields: {listing}"
        )
    by_lower = {column.lower(): column for column in reversed(columns)}
    for candidate in PROMPT_FIELDS:
        if candidate in by_lower:
            return by_lower[candidate]
    raise RipcurrentError(
        f"{place} has no field that is known to hold prompts; its fields: {listing}.",
        f"Name it after the source, as in {place}:{texts[0]}, or rename it to one of: {', '.join(PROMPT_FIELDS)}."
        if texts
        else "None of them is a text: write one request a row into a field prompt; of a chat its last user turn.",
    )


def _paths(path: Path) -> list[Path]:
    """The files of a place on disk, or the one folder that `datasets` saved."""
    if not path.exists():
        siblings: Iterable[Path] = path.parent.iterdir() if path.parent.is_dir() else ()
        raise RipcurrentError(
            f"{path} does not exist.{did_you_mean(path.name, tuple(sibling.name for sibling in siblings))}",
            "Check the path; a hub data set is written hf:owner/name.",
        )
    if not path.is_dir() or (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return [path]
    files = sorted(child for child in path.iterdir() if child.is_file() and plain_suffix(child) in _SUFFIXES)
    if not files:
        raise RipcurrentError(
            f"{path} is a folder without prompt files.", f"Put {', '.join(_SUFFIXES)} files in it, or name a file."
        )
    return files
