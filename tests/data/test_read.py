"""Formats, fields and ids: what a user's record becomes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from ripcurrent.data import Message, Row, parse_mapping, read_rows
from ripcurrent.errors import RipcurrentError


def lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def only(path: Path, **options: Any) -> Row:
    (row,) = read_rows(path, **options)
    return row


@pytest.mark.parametrize(
    ("record", "name", "messages"),
    [
        ({"instruction": "Name it", "input": "", "output": "A gull"}, "alpaca", ["user:Name it", "assistant:A gull"]),
        (
            {"instruction": "Name it", "input": "white bird", "output": "A gull"},
            "alpaca",
            ["user:Name it\n\nwhite bird", "assistant:A gull"],
        ),
        ({"instruction": "Name it", "input": None, "output": "A"}, "alpaca", ["user:Name it", "assistant:A"]),
        (
            {"instruction": "Who?", "context": "A tale.", "response": "Ann", "category": "qa"},
            "dolly",
            ["user:Who?\n\nA tale.", "assistant:Ann"],
        ),
        ({"prompt": "Hi", "completion": "Ho"}, "prompt-completion", ["user:Hi", "assistant:Ho"]),
        ({"prompt": "Hi", "response": "Ho"}, "prompt-response", ["user:Hi", "assistant:Ho"]),
        ({"question": "2+2?", "answer": "4"}, "question-answer", ["user:2+2?", "assistant:4"]),
        (
            {
                "conversations": [
                    {"from": "system", "value": "Be kind"},
                    {"from": "human", "value": "Hi"},
                    {"from": "gpt", "value": "Ho"},
                    {"from": "function", "value": "{}"},
                    {"from": "gpt", "value": "Done"},
                ]
            },
            "sharegpt",
            ["system:Be kind", "user:Hi", "assistant:Ho", "tool:{}", "assistant:Done"],
        ),
        (
            # as tables fill in keys that other rows have
            {
                "conversations": [
                    {"from": "human", "value": "Hi", "role": None, "content": None},
                    {"from": None, "value": None, "role": "assistant", "content": "Ho"},
                ]
            },
            "sharegpt",
            ["user:Hi", "assistant:Ho"],
        ),
        (
            {"messages": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]},
            "messages",
            ["user:Hi", "assistant:Ho"],
        ),
        (
            {
                "messages": [
                    {"role": "developer", "content": "Be kind"},
                    {"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]},
                    {"role": "assistant", "content": None, "tool_calls": [{"id": "c1"}]},
                    {"role": "tool", "content": "42", "tool_call_id": "c1"},
                    {"role": "assistant", "content": "It is 42"},
                ],
                "tools": [],
            },
            "messages",
            ["system:Be kind", "user:Hi", "assistant:", "tool:42", "assistant:It is 42"],
        ),
    ],
)
def test_each_format_becomes_a_conversation(
    tmp_path: Path, record: dict[str, Any], name: str, messages: list[str]
) -> None:
    path = lines(tmp_path / "rows.jsonl", record)
    assert read_rows(path).format == name
    row = only(path)
    assert [f"{message.role}:{message.content}" for message in row.messages] == messages
    assert row.problem is None
    assert row.record == record


def test_a_document_has_text_and_no_messages(tmp_path: Path) -> None:
    row = only(lines(tmp_path / "rows.jsonl", {"text": "The tide turns.", "source": "a book"}))
    assert (row.text, row.messages, row.response) == ("The tide turns.", (), "The tide turns.")


def test_alpaca_with_a_rendered_text_column_is_alpaca(tmp_path: Path) -> None:
    record = {"instruction": "a", "input": "", "output": "b", "text": "### Instruction: a ### Response: b"}
    assert read_rows(lines(tmp_path / "rows.jsonl", record)).format == "alpaca"


def test_one_odd_first_record_does_not_decide_the_format(tmp_path: Path) -> None:
    good = {"question": "q", "answer": "a"}
    dataset = read_rows(lines(tmp_path / "rows.jsonl", {"text": "stray"}, good, good))
    assert dataset.format == "question-answer"
    assert [row.problem for row in dataset] == ["invalid_conversation", None, None]


def test_turns_of_weight_zero_and_conversational_prompts_bear_no_loss(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "weight": 0},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d", "weight": 1},
    ]
    row = only(lines(tmp_path / "weights.jsonl", {"messages": turns}), format="openai")
    assert [message.content for message in row.messages if message.role == "assistant" and message.bears_loss] == ["d"]
    row = only(lines(tmp_path / "pairs.jsonl", {"prompt": turns[:3], "completion": turns[3:]}))
    assert [message.content for message in row.messages if message.bears_loss] == ["d"]
    turns[3]["weight"] = 0
    assert only(lines(tmp_path / "none.jsonl", {"messages": turns})).problem == "no_loss_tokens"


def test_mapping_names_columns_also_nested_ones(tmp_path: Path) -> None:
    record = {"uid": 7, "data": {"ask": "Hi"}, "reply.text": "Ho"}
    mapping = parse_mapping(["prompt=data.ask", "response=reply.text", "id=uid"])
    row = only(lines(tmp_path / "rows.jsonl", record), mapping=mapping)
    assert (row.prompt, row.response, row.id, row.record) == ("Hi", "Ho", "7", record)


def test_an_optional_field_mapped_to_another_is_not_read_twice(tmp_path: Path) -> None:
    path = lines(tmp_path / "rows.jsonl", {"input": "P", "output": "R"})
    assert only(path, mapping={"instruction": "input"}).prompt == "P"
    assert only(path, mapping={"instruction": "input", "input": "input"}).prompt == "P\n\nP"
    path = lines(tmp_path / "nested.jsonl", {"input": {"ask": "P"}, "output": "R"})
    assert only(path, mapping={"instruction": "input.ask"}).prompt == "P"


def test_a_mapping_decides_the_format_where_others_fit_too(tmp_path: Path) -> None:
    record = {"instruction": "Ask.", "input": "", "output": "old", "output_new": "new"}
    path = lines(tmp_path / "rows.jsonl", record)
    assert only(path).response == "old"
    row = only(path, mapping=parse_mapping(["prompt=instruction", "response=output_new"]))
    assert (row.prompt, row.response) == ("Ask.", "new")
    for options in ({}, {"format": "alpaca"}):
        with pytest.raises(RipcurrentError, match="--map names prompt, which rows of format alpaca do not have"):
            read_rows(path, mapping={"prompt": "output_new"}, **options)


@pytest.mark.parametrize(
    ("pair", "part"), [("prompt", "field=column"), ("promt=x", "Did you mean 'prompt'?"), ("prompt=", "field=column")]
)
def test_bad_mapping_says_what_is_wrong(pair: str, part: str) -> None:
    with pytest.raises(RipcurrentError) as caught:
        parse_mapping([pair])
    assert part in str(caught.value)


def test_ids_are_the_rows_own_or_a_hash_of_what_is_said(tmp_path: Path) -> None:
    ask = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}
    own, number, gaps, part, unusable_id, bare = read_rows(
        lines(
            tmp_path / "rows.jsonl",
            {"id": "r-1", "messages": ask},
            {"id": 0, "messages": ask},
            {"id": 7.0, "messages": ask},
            {"id": 2.5, "messages": ask},
            {"id": True, "messages": ask},
            {"messages": ask, "note": "x"},
        )
    )
    assert (own.id, number.id, gaps.id) == ("r-1", "0", "7")
    assert unusable_id.id == part.id == bare.id
    assert len(bare.id) == 16
    half = tmp_path / "half.jsonl"
    half.write_text('{"id": "\\ud83d", "prompt": "Hi", "response": "Ho"}')
    assert only(half).id == bare.id
    # The same conversation has the same id in any format.
    assert only(lines(tmp_path / "pairs.jsonl", {"prompt": "Hi", "response": "Ho"})).id == bare.id


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"instruction": "a", "output": ""}, "no_response"),
        ({"instruction": "a", "output": " \n"}, "no_response"),
        ({"instruction": "a", "output": None}, "no_response"),
        ({"instruction": "a"}, "no_response"),
        ({"instruction": "a", "output": True}, "invalid_conversation"),
        ({"instruction": "a", "output": float("nan")}, "invalid_conversation"),
        ({"instruction": "a", "output": {"x": 1}}, "invalid_conversation"),
        ({"instruction": None, "output": "b"}, "invalid_conversation"),
        ({"instruction": "a", "input": ["c"], "output": "b"}, "invalid_conversation"),
        ({"instruction": "a", "output": "\ud800"}, "invalid_conversation"),
        ({}, "invalid_conversation"),
        ([1, 2], "invalid_conversation"),
        ("text", "invalid_conversation"),
        (None, "invalid_conversation"),
    ],
)
def test_a_bad_row_among_good_ones_gets_its_reason(tmp_path: Path, record: Any, problem: str) -> None:
    good = {"instruction": "a", "input": "", "output": "b"}
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(one) for one in (good, record, good)))
    before, bad, after = read_rows(path)
    assert (before.problem, bad.problem, after.problem) == (None, problem, None)
    assert bad.messages == ()
    assert [before.index, bad.index, after.index] == [0, 1, 2]


@pytest.mark.parametrize(
    ("turns", "problem"),
    [
        ([], "invalid_conversation"),
        (None, "invalid_conversation"),
        ("not json", "invalid_conversation"),
        (["hello"], "invalid_conversation"),
        ([{"role": "narrator", "content": "x"}], "invalid_conversation"),
        ([{"role": "user", "content": None}, {"role": "assistant", "content": "x"}], "invalid_conversation"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "invalid_conversation"),
        ([{"content": "x"}], "invalid_conversation"),
        ([{"role": "user", "content": "x"}], "no_response"),
        ([{"role": "user", "content": "x"}, {"role": "assistant", "content": ""}], "no_response"),
    ],
)
def test_what_is_no_conversation_says_so(tmp_path: Path, turns: Any, problem: str) -> None:
    assert only(lines(tmp_path / "rows.jsonl", {"messages": turns})).problem == problem


def test_a_conversation_in_a_csv_cell_is_json(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    cell = json.dumps([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]).replace('"', '""')
    path.write_text(f'messages\n"{cell}"\n')
    assert only(path).messages == (Message("user", "a"), Message("assistant", "b"))
    path.write_text(f'conversations\n"{cell}"\n')
    assert only(path).messages == (Message("user", "a"), Message("assistant", "b"))


def test_prompt_and_completion_as_turns_in_csv_cells(tmp_path: Path) -> None:
    asked, answered = [{"role": "user", "content": "hi"}], [{"role": "assistant", "content": "hello"}]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "completion"])
        writer.writerow([json.dumps(asked), json.dumps(answered)])
        writer.writerow(["Show me turns as JSON.", json.dumps(answered)])
        writer.writerow(["[1]", "[2]"])
    turns, about, plain = read_rows(tmp_path / "rows.csv")
    assert [(m.role, m.content) for m in turns.messages] == [("user", "hi"), ("assistant", "hello")]
    assert about.response == json.dumps(answered), "one side alone is an answer about turns"
    assert (plain.prompt, plain.response) == ("[1]", "[2]")


def test_a_column_that_is_null_decides_no_format(tmp_path: Path) -> None:
    """Merged datasets have all columns of all parts in every row."""
    path = lines(tmp_path / "rows.jsonl", *({"messages": None, "instruction": "a", "output": "b"} for _ in range(3)))
    data = read_rows(path)
    assert (data.format, next(iter(data)).response) == ("alpaca", "b")
    # rows that all lack their answer are still told by their names
    path = lines(tmp_path / "empty.jsonl", {"instruction": "a", "output": None})
    assert only(path).problem == "no_response"


def test_a_mapped_column_may_be_null_at_first(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "response": "b", "meta": {"sys": None}} for _ in range(25)]
    path = lines(tmp_path / "rows.jsonl", *rows, {"prompt": "a", "response": "b", "meta": {"sys": "Be brief."}})
    assert [len(row.messages) for row in read_rows(path, mapping={"system": "meta.sys"})] == [2] * 25 + [3]
    with pytest.raises(RipcurrentError, match=r"no column 'meta\.syst'"):
        read_rows(path, mapping={"system": "meta.syst"})


def test_trained_text_is_that_of_turns_with_loss(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "No.", "weight": 0},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "Paris"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "Rome"},
    ]
    row = only(lines(tmp_path / "rows.jsonl", {"messages": turns}))
    assert (row.trained(), row.trained("last")) == ("Paris\n\nRome", "Rome")
    assert row.response == "No.\n\nParis\n\nRome"


def test_a_number_is_text_as_in_csv(tmp_path: Path) -> None:
    row = only(lines(tmp_path / "rows.jsonl", {"instruction": 2, "input": 0.5, "output": -4}))
    assert (row.prompt, row.response) == ("2\n\n0.5", "-4")
    (tmp_path / "rows.csv").write_text("instruction,input,output\n2,0.5,-4\n")
    assert only(tmp_path / "rows.csv").id == row.id
    alone = only(lines(tmp_path / "alone.jsonl", {"instruction": "", "input": 5, "output": "five"}))
    assert (alone.prompt, alone.response) == ("5", "five")
    assert only(lines(tmp_path / "long.jsonl", {"instruction": "a", "output": 10**400})).response == str(10**400)


def test_limit_bounds_rows_count_and_resumed_iteration(tmp_path: Path) -> None:
    path = lines(tmp_path / "rows.jsonl", *({"text": str(number)} for number in range(9)))
    dataset = read_rows(path, limit=4)
    assert [row.text for row in dataset] == ["0", "1", "2", "3"]
    assert [row.index for row in dataset.iter_from(3)] == [3]
    assert list(dataset.iter_from(6)) == []
    assert dataset.count_and_hash()[0] == 4


def test_names_and_suffixes(tmp_path: Path) -> None:
    path = lines(tmp_path / "my.set.jsonl", {"text": "a"})
    dataset = read_rows(path)
    assert (dataset.path, dataset.name, dataset.container, dataset.suffix) == (str(path), "my.set", "jsonl", ".jsonl")
    array = tmp_path / "rows.json"
    array.write_text('{"text": "lines in a file named json"}\n{"text": "b"}\n')
    dataset = read_rows(array)
    assert (dataset.container, dataset.suffix, len(list(dataset))) == ("jsonl", ".json", 2)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "form", "rows"),
    [
        ("alpaca_en_demo.json", "alpaca", 999),
        ("instruction-data.json", "alpaca", 1100),
        ("gsm8k_test.jsonl", "question-answer", 1319),
        ("dolly_safety_only.jsonl", "dolly", 387),
    ],
)
def test_published_files_read_whole(data_folder: Path, name: str, form: str, rows: int) -> None:
    dataset = read_rows(data_folder / "rows" / name)
    assert dataset.format == form
    assert dataset.count_and_hash()[0] == rows
    assert all(row.problem is None for row in dataset)


def test_rows_by_their_numbers_come_in_order(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"prompt": "p{n}", "completion": "c{n}"}}\n' for n in range(6)))
    dataset = read_rows(path)
    assert [row.index for row in dataset.at({4, 1})] == [1, 4]
    assert [row.prompt for row in dataset.at([5, 0, 9])] == ["p0", "p5"]
    assert list(dataset.at(())) == []
