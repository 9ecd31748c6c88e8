"""Row formats: which one a dataset is in, and what makes of a record a conversation or a document."""

import difflib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ripcurrent.data._types import Message, RowStatus
from ripcurrent.errors import RipcurrentError

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "function_response": "tool",
    "observation": "tool",
    "ipython": "tool",
}
_TRAINED = ("weight", "loss", "train", "training")
"""Names under which trainers' rows say of a turn whether it is trained."""
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a pair: text that cannot be written as UTF-8."""


class Unusable(Exception):  # noqa: N818 - a reason, not a failure
    """The record is not a row that can be scored, for the given reason."""

    def __init__(self, reason: RowStatus) -> None:
        super().__init__(reason)
        self.reason: RowStatus = reason


Conversation = tuple[Message, ...]
Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Format:
    """One row format of the contract."""

    name: str
    needed: tuple[str, ...]
    """Fields that a file of this format has."""
    optional: tuple[str, ...]
    """Further fields that are read where present."""
    parse: Callable[[Fields], Conversation | str]
    """Fields to conversation, or to the text of a document; raises `Unusable`."""


def _text(value: object) -> str:
    """Text as it stands; a number as it is written, as in CSV."""
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        return str(value)
    if not isinstance(value, str) or LONE_SURROGATE.search(value):
        raise Unusable("invalid_conversation")
    return value


def _content(value: object, role: str) -> str:
    """A turn's text; typed parts are joined, an assistant turn that only calls a tool has none."""
    if value is None and role == "assistant":
        return ""
    if isinstance(value, list):
        parts = [
            part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in value
        ]
        return "".join(_text(part) for part in parts)
    return _text(value)


def _list(value: object) -> list[Any] | None:
    """A list, or one that is JSON in a cell, as CSV has it; None where it is something else."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, list) else None


def _turns(value: object) -> list[Message]:
    """Turns with ``role`` and ``content``, or with ``from`` and ``value``; a null is no key, as tables fill in both."""
    given = _list(value)
    if not given:
        raise Unusable("invalid_conversation")
    turns = []
    if all(isinstance(turn, Mapping) and {"human", "assistant"} <= set(turn) for turn in given):
        sides = (("user", "human"), ("assistant", "assistant"))
        return [Message(role, _text(turn[side])) for turn in given for role, side in sides]
    for turn in given:
        if not isinstance(turn, Mapping):
            raise Unusable("invalid_conversation")
        name_key, content_key = ("from", "value") if turn.get("role") is None else ("role", "content")
        name = turn.get(name_key)
        role = _ROLES.get(name.strip().lower()) if isinstance(name, str) else None
        if role is None:
            raise Unusable("invalid_conversation")
        # 0 is False here as well
        bears_loss = all(turn.get(name) is None or turn[name] != 0 for name in _TRAINED)
        turns.append(Message(role, _content(turn.get(content_key), role), bears_loss))
    return turns


def _history(value: object) -> list[Message]:
    """Earlier turns as pairs of a question and its answer; none where the field is no list, or none as JSON."""
    pairs = _list(value)
    if pairs is None and isinstance(value, str) and value.lstrip().startswith("["):
        raise Unusable("invalid_conversation")
    turns = []
    for pair in pairs or ():
        if not isinstance(pair, list) or len(pair) != 2:
            raise Unusable("invalid_conversation")
        turns += [Message("user", _text(pair[0])), Message("assistant", _text(pair[1]))]
    return turns


def _system(fields: Fields, turns: list[Message]) -> list[Message]:
    """The field ``system`` or ``system_prompt`` as a first turn, where it is text and the turns begin with none."""
    value = fields.get("system") or fields.get("system_prompt")
    if not isinstance(value, str | list) or (turns and turns[0].role == "system"):
        return []
    text = _content(value, "system")
    return [Message("system", text)] if text.strip() else []


def _complete(fields: Fields, turns: list[Message]) -> Conversation:
    if fields.get("label") is False:
        # a bad answer of unpaired preferences, as KTO has them
        raise Unusable("unwanted_answer")
    answers = [turn for turn in turns if turn.role == "assistant" and turn.content.strip()]
    if not answers:
        raise Unusable("no_response")
    if not any(turn.bears_loss for turn in answers):
        raise Unusable("no_loss_tokens")
    return (*_system(fields, turns), *turns)


def _conversation(field: str) -> Callable[[Fields], Conversation]:
    return lambda fields: _complete(fields, _turns(fields.get(field)))


def _are_turns(value: object) -> bool:
    """Whether a text is the JSON of turns."""
    turns = _list(value) if isinstance(value, str) else None
    return bool(turns) and all(
        isinstance(turn, Mapping) and "content" in turn and str(turn.get("role")).strip().lower() in _ROLES
        for turn in turns or ()
    )


def _pair(
    prompt_field: str, response_field: str, input_field: str | None = None, history_field: str | None = None
) -> Callable[[Fields], Conversation]:
    def parse(fields: Fields) -> Conversation:
        prompt, response = fields.get(prompt_field), fields.get(response_field)
        if _are_turns(prompt) and _are_turns(response):
            # as in CSV; where only one of them is, it is a text about turns
            prompt, response = _list(prompt), _list(response)
        turns = _history(fields.get(history_field)) if history_field else []
        if isinstance(prompt, list):
            turns += _turns(prompt)
        else:
            asked = _text(prompt)
            given = _text(fields.get(input_field)) if input_field and fields.get(input_field) is not None else ""
            if given.strip():
                asked = f"{asked}\n\n{given}" if asked else given
            turns.append(Message("user", asked))
        if response is None or response == []:
            raise Unusable("no_response")
        if isinstance(prompt, list) or isinstance(response, list):
            # the conversational prompt-completion form, of which only the completion is trained
            turns = [replace(turn, bears_loss=False) for turn in turns]
        answer = _turns(response) if isinstance(response, list) else [Message("assistant", _text(response))]
        return _complete(fields, [*turns, *answer])

    return parse


def _parse_text(fields: Fields) -> str:
    value = fields.get("text")
    if value is None or not _text(value).strip():
        raise Unusable("no_response")
    return _text(value)


FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        # In order of precedence: where several fit a file, the first is taken.
        Format("messages", ("messages",), ("system",), _conversation("messages")),
        Format("openai", ("messages",), ("system",), _conversation("messages")),
        Format("sharegpt", ("conversations",), ("system",), _conversation("conversations")),
        Format(
            "alpaca",
            ("instruction", "output"),
            ("input", "system", "history"),
            _pair("instruction", "output", "input", "history"),
        ),
        Format(
            "dolly", ("instruction", "response"), ("context", "system"), _pair("instruction", "response", "context")
        ),
        Format("prompt-completion", ("prompt", "completion"), ("system",), _pair("prompt", "completion")),
        Format("prompt-response", ("prompt", "response"), ("system",), _pair("prompt", "response")),
        Format("question-answer", ("question", "answer"), ("system",), _pair("question", "answer")),
        Format("question-response", ("question", "response"), ("system_prompt",), _pair("question", "response")),
        Format(
            "query-response", ("query", "response"), ("system", "history"), _pair("query", "response", None, "history")
        ),
        Format("problem-solution", ("problem", "solution"), ("system",), _pair("problem", "solution")),
        Format("input-output", ("input", "output"), ("system",), _pair("input", "output")),
        Format("conversation", ("conversation",), ("system",), _conversation("conversation")),
        Format("text", ("text",), (), _parse_text),
        # what only a trainer reads (``_trained_tokens``): tokens, and any fields where a trainer is named
        Format("tokenized", ("input_ids", "labels"), ("attention_mask", "position_ids"), lambda _: ()),
        Format("record", (), (), lambda _: ()),
    )
}
"""Row formats by name."""
FORMAT_NAMES: tuple[str, ...] = tuple(FORMATS)
"""Names for ``--format``."""

FIELDS: tuple[str, ...] = (
    *dict.fromkeys(name for form in FORMATS.values() for name in (*form.needed, *form.optional)),
    "id",
)
"""Every field that a format reads, which are the names ``--map`` may give to columns."""

_WORSE = ("rejected", "rejected_response")
"""Columns of the worse answer of a pair."""
_OPTIONAL = frozenset(name for form in FORMATS.values() for name in form.optional)
_UNREAD_OF_ROWS = ("tools",)
_UNREAD_OF_TURNS = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")
"""Parts of a record that no format reads, though a chat template would render them."""


def view(record: Fields, mapping: Mapping[str, str]) -> Fields:
    """The record with the mapped columns under the field names that formats read.

    An optional field whose column is mapped to another field is not there: it would be read twice.
    """
    if not mapping:
        return record
    taken = {column if column in record else column.partition(".")[0] for column in mapping.values()} & _OPTIONAL
    own = {name: value for name, value in record.items() if name not in taken}
    return {**own, **{field: lookup(record, column)[1] for field, column in mapping.items()}}


def lookup(record: Fields, column: str) -> tuple[bool, Any]:
    """Whether a column is there, and its value; ``a.b`` reaches into objects where no column has that very name."""
    if column in record:
        return True, record[column]
    value: Any = record
    for key in column.split("."):
        if not (isinstance(value, Mapping) and key in value):
            return False, None
        value = value[key]
    return True, value


def has_unread(record: Mapping[str, Any], mapping: Mapping[str, str]) -> bool:
    """Whether a record has tool definitions, or turns with tool calls or reasoning."""
    fields = view(record, mapping)
    turns = (turn for value in fields.values() for turn in _list(value) or () if isinstance(turn, Mapping))
    return any(fields.get(name) not in (None, "", "[]", []) for name in _UNREAD_OF_ROWS) or any(
        turn.get(name) for turn in turns for name in _UNREAD_OF_TURNS
    )


_ELSEWHERE = " (in a file or in Python: mapping)"


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
    path: str,
    sample: Sequence[object],
    columns: Sequence[str] | None,
    name: str | None,
    mapping: Mapping[str, str],
    *,
    any_fields: bool = False,
) -> Format:
    """The row format: the one that the user names, or the one that most of the first records fit.

    So one odd first record decides nothing. A format that reads every mapped field comes first. Raises
    `RipcurrentError` when none fits, or when the one named does not, with the fields that are there and those that are
    needed; and when a field is mapped that the format does not read.
    """
    records = _records(path, sample, mapping)
    if name == "record":
        return FORMATS[name]
    seen = list(dict.fromkeys(columns or [str(key) for record in records for key in record]))
    for column in mapping.values():
        if column not in seen and not any(lookup(record, column)[0] for record in records):
            raise RipcurrentError(
                f"{path} has no column {column!r}.{_nearest(column, seen)}", f"Its columns: {', '.join(seen)}"
            )
    _require_no_pairs(path, records, mapping)
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
            f"Choose another --format, or say which column it is: --map {lacking[0]}=COLUMN{_ELSEWHERE}",
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


def _require_no_pairs(path: str, records: Sequence[Fields], mapping: Mapping[str, str]) -> None:
    """Refuse preference pairs, unless a column of theirs is mapped: training on the preferred answers is a choice."""
    worse = next((name for name in _WORSE if any(record.get(name) is not None for record in records)), None)
    if worse is None or not {"messages", "completion", "response", "text"}.isdisjoint(mapping):
        return
    better = next((name for name in ("chosen", "response", "completion") if name in records[0]), "chosen")
    turns = isinstance(records[0].get(better), list) and records[0].get("prompt") is None
    field = "messages" if turns else "completion" if better == "chosen" else better
    raise RipcurrentError(
        f"{path} holds pairs of a better and a worse answer (column {worse}), and no rows for supervised fine-tuning.",
        f"To score training on the better answers alone, ask for it: --map {field}={better}{_ELSEWHERE}",
    )


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
        f"Say which column holds what, as by {' '.join(f'--map {field}=COLUMN' for field in mapped)}{_ELSEWHERE}; or "
        f"name the --format: {', '.join(FORMATS)}",
    )


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
