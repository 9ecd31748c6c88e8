"""Row formats: which one a dataset is in, and what makes of a record a conversation or a document."""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ripcurrent.data._spec import as_list, from_json, lookup
from ripcurrent.data._types import Fields, Message, RowStatus
from ripcurrent.errors import RipcurrentError

_ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "chatgpt", "bot", "function_call", "tool_call"), "assistant"),
    **dict.fromkeys(("tool", "tool_response", "function", "function_response", "observation", "ipython"), "tool"),
}
_TRAINED = ("weight", "loss", "train", "training")
"""Names under which trainers' rows say of a turn whether it is trained."""
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
_PRINTED = {"assistant": THOUGHTS, "tool": ("tool_call_id", "name")}
"""Keys of a turn that chat templates print beside its text."""
_BETTER, WORSE = {"chosen", "preferred_output"}, ("rejected", "non_preferred_output", "rejected_response")
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a pair: text that cannot be written as UTF-8."""


class Unusable(Exception):  # noqa: N818 - a reason, not a failure
    """The record is not a row that can be scored, for the given reason."""

    def __init__(self, reason: RowStatus) -> None:
        super().__init__(reason)
        self.reason: RowStatus = reason


Conversation = tuple[Message, ...]


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
    return plain_text(value)


def plain_text(value: object) -> str:
    """Text that can be written as UTF-8; raises `Unusable` for anything else."""
    if not isinstance(value, str) or LONE_SURROGATE.search(value):
        raise Unusable("invalid_conversation")
    return value


def require_text(fields: Fields) -> None:
    """Raise `Unusable` for a record with pictures, sound or films in a column of their own."""
    if any(fields.get(f"{one}{ending}") for one in ("image", "audio", "video") for ending in ("", "s")):
        raise Unusable("not_text")


def mappings(value: object) -> list[Any]:
    """Objects in a list; raises `Unusable` for anything else."""
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        raise Unusable("invalid_conversation")
    return value


def _content(value: object, role: str) -> str:
    """A turn's text; typed parts are joined, an assistant turn that only calls a tool has none."""
    if value is None and role == "assistant":
        return ""
    if isinstance(value, list):
        kinds = [str(part.get("type")) for part in value if isinstance(part, Mapping)]
        if any(medium in kind for kind in kinds for medium in ("image", "audio", "video")):
            raise Unusable("not_text")
        parts = [
            part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in value
        ]
        return "".join(_text(part) for part in parts)
    return _text(value)


def _turns(value: object) -> list[Message]:
    """Turns with ``role`` and ``content``, or with ``from`` and ``value``; a null is no key, as tables fill in both."""
    given = mappings(as_list(value) or None)
    turns = []
    if all({"human", "assistant"} <= set(turn) for turn in given):
        sides = (("user", "human"), ("assistant", "assistant"))
        return [Message(role, _text(turn[side])) for turn in given for role, side in sides]
    for turn in given:
        name_key, content_key = ("from", "value") if turn.get("role") is None else ("role", "content")
        name = turn.get(name_key)
        role = _ROLES.get(name.strip().lower()) if isinstance(name, str) else None
        if role is None:
            raise Unusable("invalid_conversation")
        # 0 is False here as well; half a loss is trained by no one who reads such turns as ours does
        if role == "assistant" and not all(turn.get(key) in (None, 0, 1) for key in _TRAINED):
            raise Unusable("weight_not_held")
        bears_loss = all(turn.get(key) is None or turn[key] != 0 for key in _TRAINED)
        content = _content(turn.get(content_key), role)
        parts = {key: turn[key] for key in _PRINTED.get(role, ()) if turn.get(key) and isinstance(turn[key], str)}
        calls = as_list(turn.get("tool_calls")) or ([turn["function_call"]] if turn.get("function_call") else [])
        if not calls and str(name).strip().lower() in ("function_call", "tool_call"):
            calls = _as_calls(content)
            content = "" if calls else content
        if calls and role == "assistant":
            parts["tool_calls"] = [_call(one) for one in calls]
        turns.append(Message(role, content, bears_loss, parts))
    return turns


def _as_calls(text: str) -> list[Any]:
    """The calls that a turn's text writes as JSON, as ShareGPT's rows have them; none where it is another text."""
    found = from_json(text)
    calls = found if isinstance(found, list) else [found]
    return calls if all(isinstance(call, Mapping) and {"name", "arguments"} <= set(call) for call in calls) else []


def _call(value: object) -> Fields:
    """A tool call as chat templates read it, with its arguments as an object, also where they are JSON text."""
    function = value.get("function", value) if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or not isinstance(function, Mapping):
        raise Unusable("invalid_conversation")
    arguments = function.get("arguments") or {}
    arguments = from_json(arguments) if isinstance(arguments, str) else arguments
    if not isinstance(function.get("name"), str) or not isinstance(arguments, Mapping):
        raise Unusable("invalid_conversation")
    own = {"id": value["id"]} if isinstance(value.get("id"), str) else {}
    return {**own, "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def tool_definitions(fields: Fields) -> list[Any] | None:
    """Tools as chat templates read them, from ``tools`` or OpenAI's older ``functions``; None where there are none."""
    for name in ("tools", "functions"):
        given = as_list(fields.get(name))
        if given and all(isinstance(one, Mapping) for one in given):
            return given if name == "tools" else [{"type": "function", "function": one} for one in given]
    return None


def _history(value: object) -> list[Message]:
    """Earlier turns as pairs of a question and its answer; none where the field is no list, or none as JSON."""
    pairs = as_list(value)
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
    if any(str(fields.get(name)).lower() == "false" for name in ("label", "kto_tag")):
        # a bad answer of unpaired preferences, as KTO has them
        raise Unusable("unwanted_answer")
    answers = [turn for turn in turns if turn.role == "assistant" and turn.shown.strip()]
    if not answers:
        raise Unusable("no_response")
    if not any(turn.bears_loss for turn in answers):
        raise Unusable("no_loss_tokens")
    return (*_system(fields, turns), *turns)


def _conversation(name: str, field: str) -> Format:
    return Format(name, (field,), ("system",), lambda fields: _complete(fields, _turns(fields.get(field))))


def _are_turns(value: object) -> bool:
    """Whether a text is the JSON of turns."""
    turns = as_list(value) if isinstance(value, str) else None
    return bool(turns) and all(
        isinstance(turn, Mapping) and "content" in turn and str(turn.get("role")).strip().lower() in _ROLES
        for turn in turns or ()
    )


def _pair(
    name: str, prompt_field: str, response_field: str, *more: str, input_field: str | None = None, history: bool = False
) -> Format:
    """A format of a question and its answer."""

    def parse(fields: Fields) -> Conversation:
        prompt, response = fields.get(prompt_field), fields.get(response_field)
        # the better answer of a pair may be one turn
        response = [response] if isinstance(response, Mapping) and {"role", "from"} & set(response) else response
        if _are_turns(prompt) and _are_turns(response):
            # as in CSV; where only one of them is, it is a text about turns
            prompt, response = as_list(prompt), as_list(response)
        turns = _history(fields.get("history")) if history else []
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

    read = (*filter(None, (input_field,)), *(more or ("system",)), *(("history",) if history else ()))
    return Format(name, (prompt_field, response_field), read, parse)


def _parse_text(fields: Fields) -> str:
    value = fields.get("text")
    if value is None or not _text(value).strip():
        raise Unusable("no_response")
    return _text(value)


FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        # In order of precedence: where several fit a file, the first is taken.
        Format("tokenized", ("input_ids", "labels"), ("attention_mask", "position_ids", "text"), lambda _: ()),
        _conversation("messages", "messages"),
        _conversation("openai", "messages"),
        _conversation("sharegpt", "conversations"),
        _pair("alpaca", "instruction", "output", input_field="input", history=True),
        _pair("dolly", "instruction", "response", input_field="context"),
        _pair("prompt-completion", "prompt", "completion"),
        _pair("prompt-response", "prompt", "response"),
        _pair("question-answer", "question", "answer"),
        _pair("question-response", "question", "response", "system_prompt"),
        _pair("query-response", "query", "response", history=True),
        _pair("problem-solution", "problem", "solution"),
        _pair("input-output", "input", "output"),
        _conversation("conversation", "conversation"),
        Format("text", ("text",), (), _parse_text),
        # any fields, where a trainer is named that reads them
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

_OPTIONAL = frozenset(name for form in FORMATS.values() for name in form.optional)


def view(record: Fields, mapping: Mapping[str, str]) -> Fields:
    """The record with the mapped columns under the field names that formats read.

    An optional field whose column is mapped to another field is not there: it would be read twice. Nor is the rest of a
    pair whose better answer is mapped.
    """
    if not mapping:
        return record
    taken = {column if column in record else column.partition(".")[0] for column in mapping.values()} & _OPTIONAL
    if not _BETTER.isdisjoint(mapping.values()):
        taken |= _BETTER | set(WORSE) | ({"prompt"} if "messages" in mapping else set())
    own = {name: value for name, value in record.items() if name not in taken}
    return {**own, **{field: lookup(record, column)[1] for field, column in mapping.items()}}


ELSEWHERE = " (in a file or in Python: mapping)"


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
                f"No row format has a field {field!r}.{nearest(field, FIELDS)}", f"Fields: {', '.join(FIELDS)}"
            )


def nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
