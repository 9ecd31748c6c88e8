"""Tool calls and reasoning, which no format reads, are noticed wherever the turns stand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ripcurrent.data import has_unread

CALL = {"id": "c1", "type": "function", "function": {"name": "times", "arguments": "{}"}}


def row(**answer: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": "What is 6 times 7?"}, {"role": "assistant", "content": "It is 42.", **answer}]
    return {"messages": turns}


@pytest.mark.parametrize(
    ("record", "unread"),
    [
        (row(), False),
        (row(tool_calls=None, reasoning_content=""), False),
        (row(tool_calls=[]), False),
        (row() | {"tools": []}, False),
        (row() | {"tools": "[]"}, False),
        ({"prompt": "What are tool_calls?", "response": "[tool_calls"}, False),
        ({"text": "[]"}, False),
        (row(tool_calls=[CALL]), True),
        (row(function_call={"name": "times"}), True),
        (row(reasoning_content="Six sevens."), True),
        (row() | {"tools": [{"name": "times"}]}, True),
        ({"messages": json.dumps(row(tool_calls=[CALL])["messages"])}, True),
    ],
)
def test_what_is_not_read_is_noticed(record: dict[str, Any], unread: bool) -> None:
    assert has_unread(record, {}) is unread


def test_also_in_a_mapped_column() -> None:
    assert has_unread({"data": row(tool_calls=[CALL])}, {"messages": "data.messages"})
