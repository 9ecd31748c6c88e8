"""Parts of a record that no format reads, though a chat template would render them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ripcurrent.data._formats import view

_OF_ROWS = ("tools",)
_OF_TURNS = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")


def has_unread(record: Mapping[str, Any], mapping: Mapping[str, str]) -> bool:
    """Whether a record has tool definitions, or turns with tool calls or reasoning."""
    fields = view(record, mapping)
    turns = (turn for value in fields.values() for turn in _listed(value) if isinstance(turn, Mapping))
    return any(fields.get(name) not in (None, "", "[]", []) for name in _OF_ROWS) or any(
        turn.get(name) for turn in turns for name in _OF_TURNS
    )


def _listed(value: object) -> list[Any]:
    """A field's turns; in CSV they are JSON in a cell."""
    if isinstance(value, str) and value.lstrip().startswith("[") and any(name in value for name in _OF_TURNS):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return []
    return value if isinstance(value, list) else []
