"""Which row format a dataset is in; an error says what is missing, or what its rows are instead."""

from collections.abc import Iterable, Mapping, Sequence

from ripcurrent.data._formats import ELSEWHERE, FIELDS, FORMATS, WORSE, Format, Unusable, nearest, view
from ripcurrent.data._spec import RowSpec, as_list, lookup
from ripcurrent.data._types import Fields
from ripcurrent.errors import RipcurrentError

_ANSWERS = {form.needed[-1] for form in FORMATS.values() if form.needed}
"""Fields that hold what is trained."""


def find_format(name: str) -> Format:
    """The format of that name; raises `RipcurrentError` with the nearest one."""
    if name not in FORMATS:
        raise RipcurrentError(
            f"No row format is named {name!r}.{nearest(name, FORMATS)}", f"Formats: {', '.join(FORMATS)}"
        )
    return FORMATS[name]


def sniff(
    path: str,
    sample: Sequence[object],
    columns: Sequence[str] | None,
    name: str | None,
    mapping: Mapping[str, str],
    spec: RowSpec | None = None,
    *,
    any_fields: bool = False,
) -> Format:
    """The row format: the one that the user names, or the one that most of the first records fit.

    So one odd first record decides nothing. A format that reads every mapped field comes first. Raises
    `RipcurrentError` when none fits, or when the one named does not, with the fields that are there and those that are
    needed; and when a field is mapped that the format does not read.
    """
    if spec is not None:
        return _fit_spec(path, sample, columns, spec)
    records = _records(path, sample, mapping)
    if name == "record":
        return FORMATS[name]
    seen = list(dict.fromkeys(columns or [str(key) for record in records for key in record]))
    _require_columns(path, records, seen, mapping.values())
    # a trainer ignores ms-swift's ``rejected_response``
    _require_no_pairs(path, records, mapping, WORSE[:2] if any_fields else WORSE)
    views = [view(record, mapping) for record in records]
    present = {field for one in views for field in one}
    # a field that is there and null says nothing: merged datasets have all columns of all parts in every row
    fits = _fits({field for field, value in one.items() if value is not None} for one in views)
    if not any(fits.values()) or (name is not None and not fits[name]):
        fits = _fits(set(one) for one in views)
    best = name or max(FORMATS, key=lambda form: (fits[form] > 0 and not _unread(mapping, FORMATS[form]), fits[form]))
    form = find_format(best)
    if fits[best] == 0 and name is not None:
        lacking = [field for field in form.needed if field not in present] or list(form.needed)
        raise RipcurrentError(
            f"{path} is not {name}: it has the fields {', '.join(seen)} and lacks {', '.join(lacking)}.",
            f"Choose another --format, or say which column it is: --map {lacking[0]}=COLUMN{ELSEWHERE}",
        )
    if fits[best] == 0 and any_fields:
        return FORMATS["record"]
    if fits[best] == 0:
        raise _fits_none(path, seen, present)
    if unread := _unread(mapping, form):
        raise RipcurrentError(
            f"The mapping names {', '.join(unread)}, which rows of format {form.name} do not have.",
            f"That format reads {', '.join((*form.needed, *form.optional))}; name another, or map all fields of one.",
        )
    return form


def _fit_spec(path: str, sample: Sequence[object], columns: Sequence[str] | None, spec: RowSpec) -> Format:
    """The format of records as a spec reads them; raises `RipcurrentError` where it reads none, or lacks a column."""
    records = _records(path, sample, dict.fromkeys(spec.columns(), ""))
    seen = list(dict.fromkeys(columns or [str(key) for record in records for key in record]))
    _require_columns(path, records, seen, spec.columns())
    form = Format("spec", (), (), FORMATS["messages"].parse)
    for record in records:
        try:
            form.parse(spec.record(record))
        except Unusable as unusable:
            if unusable.reason == "invalid_conversation":
                continue
        return form
    turns = as_list(spec.record(records[0])["messages"]) or ()
    names = ", ".join(dict.fromkeys(str(turn.get("role")) for turn in turns if isinstance(turn, Mapping)))
    raise RipcurrentError(
        f"{path}: the spec reads none of the first {len(records)} records.",
        f"Check messages, role and content, and say in roles who speaks; in the first record: {names or 'nobody'}.",
    )


def _require_columns(path: str, records: Sequence[Fields], seen: Sequence[str], wanted: Iterable[str]) -> None:
    for column in wanted:
        if column not in seen and not any(lookup(record, column)[0] for record in records):
            said = f"{path} has no column {column!r}.{nearest(column, seen)}"
            raise RipcurrentError(said, f"Its columns: {', '.join(seen)}")


def _require_no_pairs(path: str, records: Sequence[Fields], mapping: Mapping[str, str], columns: Sequence[str]) -> None:
    """Refuse preference pairs, unless an answer is mapped: training on the preferred answers is a choice."""
    pairs = ((name, record) for name in columns for record in records if record.get(name) is not None)
    worse, record = next(pairs, (None, {}))
    if worse is None or not _ANSWERS.isdisjoint(mapping):
        return
    raise RipcurrentError(
        f"{path} holds pairs of a better and a worse answer (column {worse}), and no rows for supervised fine-tuning.",
        f"To score training on the better answers alone, ask for it: {_better_answers(record)}{ELSEWHERE}",
    )


def _better_answers(record: Fields) -> str:
    """The words that have the better answer of such a pair trained."""
    chosen = record.get("chosen")
    if "preferred_output" in record:
        return "--map prompt=input.messages --map completion=preferred_output"
    if chosen is None:
        own = next((form.needed[-1] for form in FORMATS.values() if set(form.needed) <= set(record)), "completion")
        return f"--map {own}={own}"
    turns = [chosen] if isinstance(chosen, Mapping) else as_list(chosen)
    first = turns[0] if turns and isinstance(turns[0], Mapping) else None
    asked = next((name for name in ("prompt", "messages", "conversations") if name in record), None)
    if first is not None and (asked is None or first.get("role", first.get("from")) not in ("assistant", "gpt")):
        # it holds the question too, or there is none
        return "--map messages=chosen"
    if asked is not None:
        return f"{f'--map prompt={asked} ' if asked != 'prompt' else ''}--map completion=chosen"
    pairs = (form.needed for form in FORMATS.values() if len(form.needed) == 2)
    return f"--map {next((answer for question, answer in pairs if question in record), 'text')}=chosen"


def _records(path: str, sample: Sequence[object], mapping: Mapping[str, str]) -> list[Mapping[str, object]]:
    """The sample's records with named fields; raises `RipcurrentError` where there are none, or they lie deeper."""
    if not sample:
        raise RipcurrentError(f"{path} holds no rows.", "Check that it is the file you mean.")
    records = [record for record in sample if isinstance(record, Mapping)]
    if not records:
        raise RipcurrentError(
            f"None of the first {len(sample)} rows of {path} is a record with named fields.",
            'Each row is an object such as {"prompt": …, "response": …}; in CSV it has the header\'s number of cells.',
        )
    if len(sample) == 1 and len(records[0]) == 1:
        ((name, rows),) = records[0].items()
        turns = isinstance(rows, list) and any(isinstance(row, Mapping) and {"role", "from"} & set(row) for row in rows)
        if isinstance(rows, list) and not turns and name not in (*FIELDS, *mapping.values()):
            raise RipcurrentError(
                f"{path} is one record whose only field, {name}, holds a list: its rows seem to be in that list.",
                f"Write the list alone as a .json file, for example: jq '.[\"{name}\"]' FILE > ROWS.json",
            )
    return records


def _fits(fields: Iterable[set[str]]) -> dict[str, int]:
    """How many records have all that a format needs."""
    own = list(fields)
    return {form.name: sum(bool(form.needed) and set(form.needed) <= one for one in own) for form in FORMATS.values()}


def _unread(mapping: Mapping[str, str], form: Format) -> list[str]:
    """Mapped fields that the format does not read; every format reads an id."""
    return [field for field in mapping if field not in ("id", *form.needed, *form.optional)]


def _fits_none(path: str, seen: Sequence[str], present: set[str]) -> RipcurrentError:
    """Names the formats that lack one of two fields, and says how to map it where most of what one reads is there."""
    near = {
        form: lacking.pop()
        for form in FORMATS.values()
        if 0 < len(lacking := set(form.needed) - present) < len(form.needed)
    }
    almost = "; ".join(f"{form.name} needs also {field}" for form, field in near.items())
    best = max(near, key=lambda form: len(present & set(form.optional)), default=None)
    mapped = ("prompt", "response") if best is None else (near[best],)
    return RipcurrentError(
        f"No row format fits {path}: it has the fields {', '.join(seen) or '(none)'}."
        + (f" Nearly: {almost}." if near else ""),
        f"Say which column holds what, as by {' '.join(f'--map {field}=COLUMN' for field in mapped)}{ELSEWHERE}; or "
        f"name the --format: {', '.join(FORMATS)}",
    )
