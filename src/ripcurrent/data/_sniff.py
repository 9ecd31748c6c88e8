"""Which container and which row format a dataset is, or an error that says what was found."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from ripcurrent.data._formats import FIELDS, FORMATS, Format, has_column, view
from ripcurrent.data._json import ARRAY_HINT
from ripcurrent.errors import RipcurrentError

SAMPLE = 20
"""Records looked at."""


def parse_mapping(pairs: Iterable[str]) -> dict[str, str]:
    """``field=column`` pairs as a mapping from a format's field to the dataset's column.

    A column may be a path into nested objects, ``data.question``. Raises `RipcurrentError` for a pair without ``=``
    or a field that no format reads.
    """
    mapping = {}
    for pair in pairs:
        field, equals, column = pair.partition("=")
        if not (field and equals and column):
            raise RipcurrentError(f"--map {pair}: no field=column.", "For example: --map prompt=question")
        mapping[field.strip()] = column.strip()
    check_mapping(mapping)
    return mapping


def check_mapping(mapping: Mapping[str, str]) -> None:
    """Raise `RipcurrentError` for a field that no format reads."""
    for field in mapping:
        if field not in FIELDS:
            raise RipcurrentError(
                f"No row format has a field {field!r}.{_nearest(field, FIELDS)}", f"Fields: {', '.join(FIELDS)}"
            )


def find_format(name: str) -> Format:
    """The format of that name; raises `RipcurrentError` with the nearest one."""
    if name not in FORMATS:
        raise RipcurrentError(
            f"No row format is named {name!r}.{_nearest(name, FORMATS)}", f"Formats: {', '.join(FORMATS)}"
        )
    return FORMATS[name]


def sniff(
    path: str, sample: Sequence[object], columns: Sequence[str] | None, name: str | None, mapping: Mapping[str, str]
) -> Format:
    """The row format, named by the user or told from the first records.

    The format that most records fit wins, so one odd first record decides nothing; one that reads every mapped field
    comes first. Raises `RipcurrentError` when none fits, or when the one named does not, with the fields that are there
    and those that are needed; and when a field is mapped that the format does not read.
    """
    wanted = find_format(name) if name is not None else None
    if not sample:
        raise RipcurrentError(f"{path} holds no rows.", "Check that it is the file you mean.")
    records = [record for record in sample if isinstance(record, Mapping)]
    seen = list(dict.fromkeys(columns or [str(key) for record in records for key in record]))
    if not records:
        if len(sample) == 1 and isinstance(sample[0], list) and path.endswith((".jsonl", ".jsonl.gz")):
            raise RipcurrentError(f"{path} holds one JSON array, not a record a line.", ARRAY_HINT)
        raise RipcurrentError(
            f"None of the first {len(sample)} rows of {path} is a record with named fields.",
            'Each row is an object such as {"prompt": …, "response": …}; in CSV it has the header\'s number of cells.',
        )
    _refuse_wrapped(path, sample, mapping)
    for column in mapping.values():
        if column not in seen and not any(has_column(record, column) for record in records):
            raise RipcurrentError(
                f"{path} has no column {column!r}.{_nearest(column, seen)}", f"Its columns: {', '.join(seen)}"
            )
    fields = [set(view(record, mapping)) for record in records]
    # a field that is there and null says nothing: merged datasets have all columns of all parts in every row
    filled = [{name for name, value in view(record, mapping).items() if value is not None} for record in records]
    fits = _fits(filled)
    if not any(fits.values()) or (wanted is not None and not fits[wanted.name]):
        fits = _fits(fields)
    if wanted is not None:
        if fits[wanted.name]:
            _require_read(mapping, wanted)
            return wanted
        present = set().union(*fields)
        lacking = [field for field in wanted.needed if field not in present] or list(wanted.needed)
        raise RipcurrentError(
            f"{path} is not {wanted.name}: it has the fields {', '.join(seen)} and lacks {', '.join(lacking)}.",
            f"Choose another --format, or say which column it is: --map {lacking[0]}=COLUMN",
        )
    best = max(FORMATS, key=lambda form: (fits[form] > 0 and not _unread(mapping, FORMATS[form]), fits[form]))
    if fits[best] == 0:
        raise RipcurrentError(
            f"No row format fits {path}: it has the fields {', '.join(seen) or '(none)'}.{_almost(fields)}",
            f"Say which column holds what, as by {_map_hint(fields)}; or name the --format: {', '.join(FORMATS)}",
        )
    _require_read(mapping, FORMATS[best])
    return FORMATS[best]


def _fits(fields: Sequence[set[str]]) -> dict[str, int]:
    """How many records have all that a format needs."""
    return {form.name: sum(set(form.needed) <= own for own in fields) for form in FORMATS.values()}


def _refuse_wrapped(path: str, sample: Sequence[object], mapping: Mapping[str, str]) -> None:
    """Raise `RipcurrentError` where the only record is ``{"data": [rows]}``."""
    record = sample[0] if len(sample) == 1 else None
    if not isinstance(record, Mapping) or len(record) != 1:
        return
    ((name, rows),) = record.items()
    turns = isinstance(rows, list) and any(isinstance(row, Mapping) and {"role", "from"} & set(row) for row in rows)
    if isinstance(rows, list) and not turns and name not in (*FIELDS, *mapping.values()):
        raise RipcurrentError(
            f"{path} is one record whose only field, {name}, holds a list: its rows seem to be in that list.",
            f"Write the list alone as a .json file, for example: jq '.[\"{name}\"]' FILE > ROWS.json",
        )


def _unread(mapping: Mapping[str, str], form: Format) -> list[str]:
    """Mapped fields that the format does not read; every format reads an id."""
    return [field for field in mapping if field not in ("id", *form.needed, *form.optional)]


def _require_read(mapping: Mapping[str, str], form: Format) -> None:
    if unread := _unread(mapping, form):
        raise RipcurrentError(
            f"--map names {', '.join(unread)}, which rows of format {form.name} do not have.",
            f"That format reads {', '.join((*form.needed, *form.optional))}; name another with --format, or map all "
            "the fields of one.",
        )


def _almost(fields: Iterable[set[str]]) -> str:
    """Formats that lack only some of their fields."""
    present: set[str] = set().union(*fields)
    near = [
        f"{form.name} needs also {', '.join(field for field in form.needed if field not in present)}"
        for form in FORMATS.values()
        if present & set(form.needed)
    ]
    return f" Nearly: {'; '.join(near)}." if near else ""


def _map_hint(fields: Iterable[set[str]]) -> str:
    """What to map: the one field that a format lacks of which most is there, so that what it also reads is read."""
    present: set[str] = set().union(*fields)
    near = [form for form in FORMATS.values() if len(form.needed) == 1 + len(present & set(form.needed)) > 1]
    if not near:
        return "--map prompt=COLUMN --map response=COLUMN"
    best = max(near, key=lambda form: len(present & set(form.optional)))
    return f"--map {next(field for field in best.needed if field not in present)}=COLUMN"


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
