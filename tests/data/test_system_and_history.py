"""System prompts and earlier turns that stand in fields of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ripcurrent.data import Row, parse_mapping, read_rows

TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
SPOKEN = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]


def only(path: Path, record: dict[str, Any], **options: Any) -> Row:
    path.write_text(json.dumps(record), encoding="utf-8")
    (row,) = read_rows(path, **options)
    return row


def said(row: Row) -> list[str]:
    return [f"{message.role}:{message.content}" for message in row.messages]


@pytest.mark.parametrize(
    ("record", "options"),
    [
        ({"messages": TURNS}, {}),
        ({"messages": TURNS}, {"format": "openai"}),
        ({"conversations": SPOKEN}, {}),
        ({"instruction": "Hi", "input": "", "output": "Ho"}, {}),
        ({"instruction": "Hi", "response": "Ho"}, {}),
        ({"prompt": "Hi", "completion": "Ho"}, {}),
        ({"prompt": TURNS[:1], "completion": TURNS[1:]}, {}),
        ({"prompt": "Hi", "response": "Ho"}, {}),
        ({"question": "Hi", "answer": "Ho"}, {}),
    ],
)
def test_a_system_field_is_the_first_turn(tmp_path: Path, record: dict[str, Any], options: dict[str, Any]) -> None:
    path = tmp_path / "rows.jsonl"
    bare = only(path, record, **options)
    assert said(only(path, {**record, "system": "Be kind"}, **options)) == ["system:Be kind", *said(bare)]
    parts = [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind"}]
    assert said(only(path, {**record, "system": parts}, **options))[0] == "system:Be kind"
    for nothing in (None, "", " \n"):
        assert only(path, {**record, "system": nothing}, **options).id == bare.id
    mapped = only(path, {**record, "about": "Be kind"}, mapping=parse_mapping(["system=about"]), **options)
    assert said(mapped)[0] == "system:Be kind"


def test_a_system_turn_in_the_conversation_comes_before_the_field(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be brief"}, *TURNS]
    row = only(tmp_path / "rows.jsonl", {"messages": turns, "system": "Be kind"})
    assert said(row) == ["system:Be brief", "user:Hi", "assistant:Ho"]


@pytest.mark.parametrize("system", [{"a": 1}, 3, True])
def test_a_system_field_that_is_no_text_is_another_column(tmp_path: Path, system: Any) -> None:
    row = only(tmp_path / "rows.jsonl", {"messages": TURNS, "system": system})
    assert said(row) == ["user:Hi", "assistant:Ho"]


def test_history_stands_before_the_instruction_and_bears_loss(tmp_path: Path) -> None:
    record = {
        "instruction": "And now?",
        "input": "Look.",
        "output": "Ebb",
        "system": "Be kind",
        "history": [["Hi", "Ho"], ["What is it?", "Flood"]],
    }
    row = only(tmp_path / "rows.jsonl", record)
    assert said(row) == [
        "system:Be kind",
        "user:Hi",
        "assistant:Ho",
        "user:What is it?",
        "assistant:Flood",
        "user:And now?\n\nLook.",
        "assistant:Ebb",
    ]
    assert all(message.bears_loss for message in row.messages)
    assert row.record == record


@pytest.mark.parametrize("history", [None, "", [], "[]", "Hi", 3, {"Hi": "Ho"}])
def test_no_history_is_none(tmp_path: Path, history: Any) -> None:
    record = {"instruction": "Hi", "output": "Ho"}
    bare = only(tmp_path / "rows.jsonl", record)
    assert only(tmp_path / "rows.jsonl", {**record, "history": history}).id == bare.id


@pytest.mark.parametrize("history", [[["Hi"]], [["Hi", None]], ["Hi", "Ho"], "[1"])
def test_a_history_that_is_a_list_of_something_else_is_a_reason(tmp_path: Path, history: Any) -> None:
    row = only(tmp_path / "rows.jsonl", {"instruction": "Hi", "output": "Ho", "history": history})
    assert row.problem == "invalid_conversation"


def test_history_in_a_csv_cell_is_json(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('instruction,output,history\nAnd now?,Ebb,"[[""Hi"", ""Ho""]]"\nHi,Ho,\n')
    assert [said(row) for row in read_rows(path)] == [
        ["user:Hi", "assistant:Ho", "user:And now?", "assistant:Ebb"],
        ["user:Hi", "assistant:Ho"],
    ]
