"""Formats, fields and ids: what a user's record becomes."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from ripcurrent.data import DatasetInfo, Message, Row, has_unread, open_unchanged, parse_mapping, read_rows
from ripcurrent.errors import RipcurrentError

TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
SPOKEN = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]
HI_HO = ["user:Hi", "assistant:Ho"]


def lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def only(folder: Path, record: Any, **options: Any) -> Row:
    (row,) = read_rows(lines(folder / "rows.jsonl", record), **options)
    return row


def said(row: Row) -> list[str]:
    return [f"{message.role}:{message.content}" for message in row.messages]


LONG_MESSAGES = [
    {"role": "developer", "content": "Be kind"},
    {"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "c1"}]},
    {"role": "tool", "content": "42", "tool_call_id": "c1"},
    {"role": "assistant", "content": "It is 42"},
]
LONG_SPOKEN = [("system", "Be kind"), ("human", "Hi"), ("gpt", "Ho"), ("function", "{}"), ("gpt", "Done")]
FILLED = [{**SPOKEN[0], "role": None, "content": None}, {"from": None, "value": None, **TURNS[1]}]


@pytest.mark.parametrize(
    ("record", "name", "messages"),
    [
        ({"instruction": "Hi", "input": "", "output": "Ho"}, "alpaca", HI_HO),
        ({"instruction": "Hi", "input": "there", "output": "Ho"}, "alpaca", ["user:Hi\n\nthere", "assistant:Ho"]),
        ({"instruction": "Hi", "input": None, "output": "Ho"}, "alpaca", HI_HO),
        ({"instruction": "Hi", "input": "", "output": "Ho", "text": "Hi Ho"}, "alpaca", HI_HO),
        ({"instruction": "Hi", "context": "x", "response": "Ho"}, "dolly", ["user:Hi\n\nx", "assistant:Ho"]),
        ({"prompt": "Hi", "completion": "Ho"}, "prompt-completion", HI_HO),
        ({"prompt": "Hi", "response": "Ho"}, "prompt-response", HI_HO),
        ({"question": "Hi", "answer": "Ho"}, "question-answer", HI_HO),
        (
            {"conversations": [{"from": role, "value": text} for role, text in LONG_SPOKEN]},
            "sharegpt",
            ["system:Be kind", *HI_HO, "tool:{}", "assistant:Done"],
        ),
        # as tables fill in keys that other rows have
        ({"conversations": FILLED}, "sharegpt", HI_HO),
        ({"messages": SPOKEN}, "messages", HI_HO),
        (
            {"messages": LONG_MESSAGES, "tools": []},
            "messages",
            ["system:Be kind", "user:Hi", "assistant:", "tool:42", "assistant:It is 42"],
        ),
    ],
)
def test_each_format_becomes_a_conversation(
    tmp_path: Path, record: dict[str, Any], name: str, messages: list[str]
) -> None:
    row = only(tmp_path, record)
    assert read_rows(tmp_path / "rows.jsonl").format == name
    assert said(row) == messages
    assert row.problem is None
    assert row.record == record


def test_a_document_has_text_and_no_messages(tmp_path: Path) -> None:
    row = only(tmp_path, {"text": "The tide turns.", "source": "a book"})
    assert (row.text, row.messages, row.response) == ("The tide turns.", (), "The tide turns.")


def test_the_format_is_that_of_most_rows_and_of_filled_columns(tmp_path: Path) -> None:
    good = {"question": "q", "answer": "a"}
    dataset = read_rows(lines(tmp_path / "odd.jsonl", {"text": "stray"}, good, good))
    assert dataset.format == "question-answer"
    assert [row.problem for row in dataset] == ["invalid_conversation", None, None]
    # merged datasets have all columns of all parts in every row
    row = only(tmp_path, {"messages": None, "instruction": "a", "output": "b"})
    assert row.response == "b"
    # rows that all lack their answer are still told by their names
    assert only(tmp_path, {"instruction": "a", "output": None}).problem == "no_response"


def test_turns_of_weight_zero_and_conversational_prompts_bear_no_loss(tmp_path: Path) -> None:
    turns = [
        *({"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}),
        *({"role": "user", "content": "c"}, {"role": "assistant", "content": "d", "weight": 1}),
        *({"role": "user", "content": "e"}, {"role": "assistant", "content": "f"}),
    ]
    row = only(tmp_path, {"messages": turns}, format="openai")
    assert (row.trained(), row.trained("last"), row.response) == ("d\n\nf", "f", "b\n\nd\n\nf")
    row = only(tmp_path, {"prompt": turns[:3], "completion": turns[3:4]})
    assert [message.content for message in row.messages if message.bears_loss] == ["d"]
    assert only(tmp_path, {"messages": turns[:2]}).problem == "no_loss_tokens"


def test_mapping_names_columns_also_nested_ones(tmp_path: Path) -> None:
    record = {"uid": 7, "data": {"ask": "Hi"}, "reply.text": "Ho"}
    row = only(tmp_path, record, mapping=parse_mapping(["prompt=data.ask", "response=reply.text", "id=uid"]))
    assert (row.prompt, row.response, row.id, row.record) == ("Hi", "Ho", "7", record)
    # an optional field that is mapped to another is not read twice
    record = {"input": "P", "output": "R"}
    assert only(tmp_path, record, mapping={"instruction": "input"}).prompt == "P"
    assert only(tmp_path, record, mapping={"instruction": "input", "input": "input"}).prompt == "P\n\nP"
    record = {"input": {"ask": "P"}, "output": "R"}
    assert only(tmp_path, record, mapping={"instruction": "input.ask"}).prompt == "P"
    # a mapped column may be null at first
    rows = [{"prompt": "a", "response": "b", "meta": {"sys": text}} for text in [None] * 25 + ["Be brief."]]
    path = lines(tmp_path / "late.jsonl", *rows)
    assert [len(row.messages) for row in read_rows(path, mapping={"system": "meta.sys"})] == [2] * 25 + [3]
    with pytest.raises(RipcurrentError, match=r"no column 'meta\.syst'"):
        read_rows(path, mapping={"system": "meta.syst"})


def test_a_mapping_decides_the_format_where_others_fit_too(tmp_path: Path) -> None:
    record = {"instruction": "Ask.", "input": "", "output": "old", "output_new": "new"}
    row = only(tmp_path, record, mapping=parse_mapping(["prompt=instruction", "response=output_new"]))
    assert (row.prompt, row.response) == ("Ask.", "new")
    for options in ({}, {"format": "alpaca"}):
        with pytest.raises(RipcurrentError, match="mapping names prompt, which rows of format alpaca do not have"):
            only(tmp_path, record, mapping={"prompt": "output_new"}, **options)


@pytest.mark.parametrize(
    ("pair", "part"), [("prompt", "field=column"), ("promt=x", "Did you mean 'prompt'?"), ("prompt=", "field=column")]
)
def test_bad_mapping_says_what_is_wrong(pair: str, part: str) -> None:
    with pytest.raises(RipcurrentError) as caught:
        parse_mapping([pair])
    assert part in str(caught.value)


def test_ids_are_the_rows_own_or_a_hash_of_what_is_said(tmp_path: Path) -> None:
    bare = only(tmp_path, {"messages": TURNS, "note": "x"}).id
    assert len(bare) == 16
    for own, found in (("r-1", "r-1"), (0, "0"), (7.0, "7"), (2.5, bare), (True, bare), ("", bare)):
        assert only(tmp_path, {"id": own, "messages": TURNS}).id == found
    (tmp_path / "half.jsonl").write_text('{"id": "\\ud83d", "prompt": "Hi", "response": "Ho"}')
    assert [row.id for row in read_rows(tmp_path / "half.jsonl")] == [bare]
    # The same conversation has the same id in any format.
    assert only(tmp_path, {"prompt": "Hi", "response": "Ho"}).id == bare


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        *(({"instruction": "a", "output": nothing}, "no_response") for nothing in ("", " \n", None)),
        ({"instruction": "a"}, "no_response"),
        *(({"instruction": "a", "output": bad}, "invalid_conversation") for bad in (True, float("nan"), {"x": 1})),
        ({"instruction": None, "output": "b"}, "invalid_conversation"),
        ({"instruction": "a", "input": ["c"], "output": "b"}, "invalid_conversation"),
        ({"instruction": "a", "output": "\ud800"}, "invalid_conversation"),
        *((odd, "invalid_conversation") for odd in ({}, [1, 2], "text", None)),
        # earlier turns that are a list of something else
        *(
            ({"instruction": "Hi", "output": "Ho", "history": history}, "invalid_conversation")
            for history in ([["Hi"]], [["Hi", None]], ["Hi", "Ho"], "[1")
        ),
        *(
            ({"messages": turns}, "invalid_conversation")
            for turns in (
                *([], None, "not json", ["hello"], [{"content": "x"}], [{"role": "narrator", "content": "x"}]),
                [{"role": "user", "content": None}, TURNS[1]],
                [{"role": "user", "content": [{"type": "image_url"}]}],
            )
        ),
        *(({"messages": turns}, "no_response") for turns in (TURNS[:1], [TURNS[0], {**TURNS[1], "content": ""}])),
    ],
)
def test_a_bad_row_among_good_ones_gets_its_reason(tmp_path: Path, record: Any, problem: str) -> None:
    good: Any = {"instruction": "a", "input": "", "output": "b"}
    if isinstance(record, dict) and "messages" in record:
        good = {"messages": TURNS}
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(one) for one in (good, record, good)))
    before, bad, after = read_rows(path)
    assert (before.problem, bad.problem, after.problem) == (None, problem, None)
    assert bad.messages == ()
    assert [before.index, bad.index, after.index] == [0, 1, 2]


def test_turns_in_csv_cells_are_json(tmp_path: Path) -> None:
    def written(*rows: list[str]) -> list[Row]:
        with (tmp_path / "rows.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        return list(read_rows(tmp_path / "rows.csv"))

    for column in ("messages", "conversations"):
        (row,) = written([column], [json.dumps(TURNS)])
        assert row.messages == (Message("user", "Hi"), Message("assistant", "Ho"))
    asked, answered = json.dumps(TURNS[:1]), json.dumps(TURNS[1:])
    turns, about, plain = written(["prompt", "completion"], [asked, answered], ["As JSON.", answered], ["[1]", "[2]"])
    assert said(turns) == HI_HO
    assert about.response == answered, "one side alone is an answer about turns"
    assert (plain.prompt, plain.response) == ("[1]", "[2]")
    fields = ["instruction", "output", "history"]
    earlier, none = written(fields, ["And now?", "Ebb", '[["Hi", "Ho"]]'], ["Hi", "Ho", ""])
    assert said(earlier) == [*HI_HO, "user:And now?", "assistant:Ebb"]
    assert said(none) == HI_HO


def test_a_number_is_text_as_in_csv(tmp_path: Path) -> None:
    row = only(tmp_path, {"instruction": 2, "input": 0.5, "output": -4})
    assert (row.prompt, row.response) == ("2\n\n0.5", "-4")
    (tmp_path / "rows.csv").write_text("instruction,input,output\n2,0.5,-4\n")
    assert [one.id for one in read_rows(tmp_path / "rows.csv")] == [row.id]
    alone = only(tmp_path, {"instruction": "", "input": 5, "output": "five"})
    assert (alone.prompt, alone.response) == ("5", "five")
    assert only(tmp_path, {"instruction": "a", "output": 10**400}).response == str(10**400)


# system prompts and earlier turns in fields of their own


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
    bare = only(tmp_path, record, **options)
    assert said(only(tmp_path, {**record, "system": "Be kind"}, **options)) == ["system:Be kind", *said(bare)]
    parts = [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind"}]
    assert said(only(tmp_path, {**record, "system": parts}, **options))[0] == "system:Be kind"
    # nothing in it, or another column of that name
    for nothing in (None, "", " \n", {"a": 1}, 3, True):
        assert only(tmp_path, {**record, "system": nothing}, **options).id == bare.id
    mapped = only(tmp_path, {**record, "about": "Be kind"}, mapping=parse_mapping(["system=about"]), **options)
    assert said(mapped)[0] == "system:Be kind"


def test_a_system_turn_in_the_conversation_comes_before_the_field(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be brief"}, *TURNS]
    assert said(only(tmp_path, {"messages": turns, "system": "Be kind"})) == ["system:Be brief", *HI_HO]


def test_history_stands_before_the_instruction_and_bears_loss(tmp_path: Path) -> None:
    record = {"instruction": "And now?", "input": "Look.", "output": "Ebb", "system": "Be kind"}
    bare = only(tmp_path, record)
    for nothing in (None, "", [], "[]", "Hi", 3, {"Hi": "Ho"}):
        assert only(tmp_path, {**record, "history": nothing}).id == bare.id
    row = only(tmp_path, {**record, "history": [["Hi", "Ho"], ["What is it?", "Flood"]]})
    earlier = [*HI_HO, "user:What is it?", "assistant:Flood"]
    assert said(row) == ["system:Be kind", *earlier, "user:And now?\n\nLook.", "assistant:Ebb"]
    assert all(message.bears_loss for message in row.messages)


# tool calls and reasoning, which no format reads, are noticed wherever the turns stand


def answered(**answer: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "6 times 7?"}, {"role": "assistant", "content": "42.", **answer}]}


CALL = {"id": "c1", "type": "function", "function": {"name": "times", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("record", "unread"),
    [
        (answered(), False),
        (answered(tool_calls=None, reasoning_content=""), False),
        (answered(tool_calls=[]), False),
        (answered() | {"tools": []}, False),
        (answered() | {"tools": "[]"}, False),
        ({"prompt": "What are tool_calls?", "response": "[tool_calls"}, False),
        ({"text": "[]"}, False),
        (answered(tool_calls=[CALL]), True),
        (answered(function_call={"name": "times"}), True),
        (answered(reasoning_content="Six sevens."), True),
        (answered() | {"tools": [{"name": "times"}]}, True),
        ({"messages": json.dumps(answered(tool_calls=[CALL])["messages"])}, True),
    ],
)
def test_what_is_not_read_is_noticed(record: dict[str, Any], unread: bool) -> None:
    assert has_unread(record, {}) is unread
    assert has_unread({"data": record}, {"messages": "data.messages"}) is (unread and "tools" not in record)


# a dataset as a whole


def test_limit_and_numbers_choose_rows_in_order(tmp_path: Path) -> None:
    path = lines(tmp_path / "rows.jsonl", *({"text": str(number)} for number in range(9)))
    dataset = read_rows(path, limit=4)
    assert [row.text for row in dataset] == ["0", "1", "2", "3"]
    assert [row.index for row in dataset.iter_from(3)] == [3]
    assert list(dataset.iter_from(6)) == []
    assert dataset.count_and_hash()[0] == 4
    assert [row.index for row in read_rows(path).at({4, 1})] == [1, 4]
    assert [row.text for row in read_rows(path).at([5, 0, 11])] == ["0", "5"]
    assert list(dataset.at(())) == []


def test_names_and_suffixes(tmp_path: Path) -> None:
    path = lines(tmp_path / "my.set.jsonl", {"text": "a"})
    dataset = read_rows(path)
    assert (dataset.path, dataset.name, dataset.container, dataset.suffix) == (str(path), "my.set", "jsonl", ".jsonl")
    array = tmp_path / "rows.json"
    array.write_text('{"text": "lines in a file named json"}\n{"text": "b"}\n')
    dataset = read_rows(array)
    assert (dataset.container, dataset.suffix, len(list(dataset))) == ("jsonl", ".json", 2)


def test_a_dataset_that_was_described_is_opened_again_while_it_is_the_same(tmp_path: Path) -> None:
    path = lines(tmp_path / "rows.jsonl", *({"ask": str(number), "reply": "b"} for number in range(9)))
    mapping = {"prompt": "ask", "response": "reply"}
    info = read_rows(path, mapping=mapping, limit=4).describe()
    assert DatasetInfo.model_validate_json(info.model_dump_json()) == info
    assert (info.rows, info.format, info.mapping, info.container) == (4, "prompt-response", mapping, "jsonl")
    assert [row.prompt for row in open_unchanged(info, limit=4)] == ["0", "1", "2", "3"]
    with pytest.raises(RipcurrentError, match="changed since it was scanned"):
        open_unchanged(info)
    moved = path.rename(tmp_path / "moved.jsonl")
    assert open_unchanged(info, limit=4, data=moved).path == str(moved)
    with pytest.raises(RipcurrentError, match="does not exist") as caught:
        open_unchanged(info, limit=4)
    assert "say with --data" in (caught.value.hint or "")
    lines(moved, {"ask": "other", "reply": "b"})
    with pytest.raises(RipcurrentError, match="other rows than the dataset that was scanned"):
        open_unchanged(info, limit=4, data=moved)


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
