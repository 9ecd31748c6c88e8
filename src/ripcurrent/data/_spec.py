"""A spec: which columns and keys of records in no known format hold the conversation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ripcurrent.errors import RipcurrentError
from ripcurrent.options import Options

if TYPE_CHECKING:
    from ripcurrent.data._types import Fields


class RowSpec(Options):
    """How to read records: a column of turns as a conversation, or columns of text as a question and its answer.

    A column may be a path into nested objects, ``data.turns``.
    """

    messages: str | None = None
    """Column of the turns."""
    role: str = "role"
    """Key of a turn that says who speaks."""
    content: str = "content"
    """Key of a turn's text."""
    roles: dict[str, Literal["user", "assistant", "system", "tool"]] = Field(default_factory=dict)
    """Who speaks, by the names that the turns have."""
    loss: str | None = None
    """Key of a turn that is false or 0 where the turn bears no loss."""
    tools: str | None = None
    """Column of tool definitions."""
    system: str | None = None
    """Column of a system text."""
    user: Annotated[tuple[str, ...], BeforeValidator(lambda one: [one] if isinstance(one, str) else one)] = ()
    """Without ``messages``: columns of the question."""
    assistant: str | None = None
    """Without ``messages``: column of the answer."""
    join: str = "\n\n"
    """What stands between columns of the question that hold something."""

    @model_validator(mode="after")
    def _says_where(self) -> Self:
        if (self.messages is None) == (not self.user or self.assistant is None):
            raise ValueError("name messages, or user and assistant")
        return self

    @classmethod
    def read(cls, given: object) -> Self | None:
        """What is none or a spec already, or one from a YAML file or keys; `RipcurrentError` for others."""
        if given is None or isinstance(given, cls):
            return given
        where = str(given) if isinstance(given, str | Path) else "The spec"
        found = read_yaml(Path(given)) if isinstance(given, str | Path) else given
        try:
            return cls.resolve(None, found if isinstance(found, Mapping) else {})
        except RipcurrentError as error:
            said = error.message.replace("option --", "key ").replace("--", "")
            hint = error.hint.replace("See --help", f"Keys: {', '.join(cls.model_fields)}").replace("Options:", "Keys:")
            raise RipcurrentError(f"{where}: {said}", hint) from error

    def columns(self) -> list[str]:
        """The columns that it names."""
        return [one for one in (self.messages, *self.user, self.assistant, self.tools, self.system) if one is not None]

    def record(self, fields: Fields) -> Fields:
        """The record as ours: ``messages`` of turns with ``role``, ``content`` and ``loss``; ``tools``; its ``id``."""
        own = {name: value for name, value in fields.items() if name == "id"}
        if self.tools is not None:
            own["tools"] = lookup(fields, self.tools)[1]
        if self.messages is not None:
            turns = [self._turn(turn) for turn in as_list(lookup(fields, self.messages)[1]) or ()]
        else:
            asked = [value for value in (lookup(fields, one)[1] for one in self.user) if value not in (None, "")]
            plain = all(isinstance(value, str | int | float) for value in asked)
            question = {"role": "user", "content": self.join.join(map(str, asked)) if plain else None}
            turns = [question, {"role": "assistant", "content": lookup(fields, str(self.assistant))[1]}]
        system = lookup(fields, self.system)[1] if self.system is not None else None
        return {**own, "messages": [{"role": "system", "content": system}, *turns] if system else turns}

    def _turn(self, turn: Any) -> Any:
        """A turn under the keys of ours; its others, such as tool calls, stay."""
        if not isinstance(turn, Mapping):
            return turn
        own = {key: value for key, value in turn.items() if key not in (self.role, self.content, self.loss)}
        loss = {} if self.loss is None or turn.get(self.loss) is None else {"loss": turn[self.loss]}
        name = turn.get(self.role)
        return {**own, "role": self.roles.get(str(name), name), "content": turn.get(self.content), **loss}


def read_yaml(path: Path) -> Fields:
    """A YAML or JSON file that holds keys with values; raises `RipcurrentError` for another."""
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise RipcurrentError(f"{path} cannot be read: {reason}.", "Name a YAML file that can.") from error
    if not isinstance(found, dict):
        raise RipcurrentError(f"{path} holds no keys with values.", "Name a YAML file that does.")
    return found


@cache
def facts_of(trainer: str) -> Any:
    """What a trainer has, by the names of ``trainers.yaml``."""
    return read_yaml(Path(__file__).with_name("trainers.yaml"))[trainer]


def from_json(text: object) -> Any:
    """What a text holds as JSON; None where it is none."""
    try:
        return json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None


def as_list(value: object) -> list[Any] | None:
    """A list, or one that is JSON in a cell, as CSV has it; None where it is something else."""
    value = from_json(value) if isinstance(value, str) and value.lstrip().startswith("[") else value
    return value if isinstance(value, list) else None


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
