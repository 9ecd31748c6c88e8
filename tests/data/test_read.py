"""Formats, fields and ids: what a user's record becomes."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from ripcurrent.data import DatasetInfo, Row, RowOptions, encode, open_unchanged, parse_mapping, read_rows
from ripcurrent.errors import RipcurrentError
from tests.data.chat_tokenizers import build

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
    {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "ask"}}]},
    {"role": "tool", "content": "42", "tool_call_id": "c1"},
    {"role": "assistant", "content": "It is 42"},
]
KIND, DONE = {"from": "system", "value": "Be kind"}, [("function", "{}"), ("gpt", "Done")]
LONG_SPOKEN = [KIND, *SPOKEN, *({"from": role, "value": text} for role, text in DONE)]
LONG_SAID = ["system:Be kind", "user:Hi", "assistant:", "tool:42", "assistant:It is 42"]
FULL = {"instruction": "And?", "input": "Look.", "output": "Ebb", "system": "Be kind", "history": [["Hi", "Ho"]] * 2}
TOOL = {"name": "times", "parameters": {}}
BRIEF = {"role": "system", "content": "Be brief"}
PAIRS = [("query", "response"), ("problem", "solution"), ("input", "output")]
FILLED = [{**SPOKEN[0], "role": None, "content": None}, {"from": None, "value": None, **TURNS[1]}]


@pytest.mark.parametrize(
    ("record", "name", "messages"),
    [
        ({"instruction": "Hi", "input": "", "output": "Ho"}, "alpaca", HI_HO),
        ({"instruction": "Hi", "input": "there", "output": "Ho"}, "alpaca", ["user:Hi\n\nthere", "assistant:Ho"]),
        ({"instruction": "Hi", "input": None, "output": "Ho", "text": "Hi Ho"}, "alpaca", HI_HO),
        ({"instruction": "Hi", "context": "x", "response": "Ho"}, "dolly", ["user:Hi\n\nx", "assistant:Ho"]),
        ({"prompt": "Hi", "completion": "Ho"}, "prompt-completion", HI_HO),
        ({"prompt": "Hi", "response": "Ho"}, "prompt-response", HI_HO),
        ({"question": "Hi", "answer": "Ho"}, "question-answer", HI_HO),
        *(({one: "Hi", other: "Ho"}, f"{one}-{other}", HI_HO) for one, other in PAIRS),
        ({"question": "Hi", "response": "Ho", "system_prompt": "x"}, "question-response", ["system:x", *HI_HO]),
        ({"conversation": [{"human": "Hi", "assistant": "Ho"}]}, "conversation", HI_HO),
        # numbers are text, as in CSV
        ({"instruction": 2, "input": 0.5, "output": -4}, "alpaca", ["user:2\n\n0.5", "assistant:-4"]),
        ({"instruction": "", "input": 5, "output": 10**400}, "alpaca", ["user:5", f"assistant:{10**400}"]),
        ({"conversations": LONG_SPOKEN}, "sharegpt", ["system:Be kind", *HI_HO, "tool:{}", "assistant:Done"]),
        # as tables fill in keys that other rows have, and columns of other parts
        ({"conversations": FILLED}, "sharegpt", HI_HO),
        ({"messages": None, "instruction": "Hi", "output": "Ho"}, "alpaca", HI_HO),
        ({"messages": SPOKEN}, "messages", HI_HO),
        ({"messages": LONG_MESSAGES, "tools": []}, "messages", LONG_SAID),
        ({"messages": [BRIEF, *TURNS], "system": "x"}, "messages", ["system:Be brief", *HI_HO]),
        (FULL, "alpaca", ["system:Be kind", *HI_HO, *HI_HO, "user:And?\n\nLook.", "assistant:Ebb"]),
    ],
)
def test_each_format_becomes_a_conversation(tmp_path, record, name, messages):
    row = only(tmp_path, record)
    assert read_rows(tmp_path / "rows.jsonl").format == name
    assert said(row) == messages
    assert (row.problem, row.record) == (None, record)
    assert all(message.bears_loss for message in row.messages)


def test_the_format_is_that_of_most_rows(tmp_path):
    row = only(tmp_path, {"text": "The tide turns.", "source": "a book"})
    assert (row.text, row.messages, row.response) == ("The tide turns.", (), "The tide turns.")
    good = {"question": "q", "answer": "a"}
    dataset = read_rows(lines(tmp_path / "odd.jsonl", {"text": "stray"}, good, good))
    assert dataset.format == "question-answer"
    assert [row.problem for row in dataset] == ["invalid_conversation", None, None]
    # rows that all lack their answer are still told by their names
    assert only(tmp_path, {"instruction": "a", "output": None}).problem == "no_response"


def test_turns_of_weight_zero_and_conversational_prompts_bear_no_loss(tmp_path):
    turns = [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 3, "abcdef", strict=True)]
    turns[1]["weight"], turns[3]["weight"] = 0, 1  # type: ignore[assignment]
    row = only(tmp_path, {"messages": turns}, format="openai")
    assert (row.trained(), row.trained("last"), row.response) == ("d\n\nf", "f", "b\n\nd\n\nf")
    assert only(tmp_path, {"prompt": turns[:3], "completion": turns[3:4]}).trained() == "d"
    assert only(tmp_path, {"messages": turns[:2]}).problem == "no_loss_tokens"
    for name, value in (("loss", False), ("train", False), ("training", False), ("loss", True), ("train", None)):
        turns[1] = {**turns[1], "weight": None, name: value}  # type: ignore[dict-item]
        assert only(tmp_path, {"messages": turns}).messages[1].bears_loss == (value is not False), name
        turns[1].pop(name)


@pytest.mark.parametrize(
    ("record", "pairs", "prompt", "response"),
    [
        ({"data": {"ask": "Hi"}, "reply.text": "Ho"}, ["prompt=data.ask", "response=reply.text"], "Hi", "Ho"),
        # an optional field that is mapped to another is not read twice
        ({"input": "P", "output": "R"}, ["instruction=input"], "P", "R"),
        ({"input": "P", "output": "R"}, ["instruction=input", "input=input"], "P\n\nP", "R"),
        ({"input": {"ask": "P"}, "output": "R"}, ["instruction=input.ask"], "P", "R"),
        # a mapping decides the format where others fit too
        ({"instruction": "P", "output": "x", "new": "R"}, ["prompt=instruction", "response=new"], "P", "R"),
    ],
)
def test_a_mapping_names_columns(tmp_path, record, pairs, prompt, response):
    row = only(tmp_path, {"uid": 7, **record}, mapping=parse_mapping([*pairs, "id=uid"]))
    assert (row.prompt, row.response, row.id) == (prompt, response, "7")


def test_a_mapped_column_may_be_null_at_first(tmp_path):
    rows = [{"prompt": "a", "response": "b", "meta": {"sys": text}} for text in [None] * 25 + ["Be brief."]]
    path = lines(tmp_path / "late.jsonl", *rows)
    assert [len(row.messages) for row in read_rows(path, mapping={"system": "meta.sys"})] == [2] * 25 + [3]
    with pytest.raises(RipcurrentError, match=r"no column 'meta\.syst'"):
        read_rows(path, mapping={"system": "meta.syst"})


@pytest.mark.parametrize(
    ("pair", "part"), [("prompt", "field=column"), ("promt=x", "Did you mean 'prompt'?"), ("prompt=", "field=column")]
)
def test_bad_mapping_says_what_is_wrong(tmp_path, pair, part):
    with pytest.raises(RipcurrentError) as caught:
        parse_mapping([pair])
    assert part in str(caught.value)
    for options in ({}, {"format": "alpaca"}):
        with pytest.raises(RipcurrentError, match="mapping names prompt, which rows of format alpaca do not have"):
            only(tmp_path, {"instruction": "a", "output": "b"}, mapping={"prompt": "output"}, **options)


LOG = [{"who": "agent", "says": "Hi", "keep": 0}, {"who": "caller", "says": "Hi"}, {"who": "agent", "says": "Ho"}]
SPEC = {"messages": "data.log", "role": "who", "content": "says", "roles": {"agent": "assistant", "caller": "user"}}
CALLED = {"data": {"log": LOG, "tools": [TOOL]}, "about": "Be kind", "hint": "x", "why": None, "reply": "Ho"}


def test_a_spec_reads_records_of_any_kind(tmp_path):
    path, spec = lines(tmp_path / "rows.jsonl", CALLED, {"data": 5}), {**SPEC, "loss": "keep", "system": "about"}
    options = RowOptions.resolve(None, {"spec": {**spec, "tools": "data.tools"}})
    rows = options.open(path)
    row, odd = rows
    assert said(row) == ["system:Be kind", "assistant:Hi", *HI_HO]
    assert (row.trained(), row.tools, odd.problem) == ("Ho", [TOOL], "invalid_conversation")
    assert set(row.fields) == {"messages", "tools"}, "what a trainer is given"
    # kept with a run, and told from another; written as it was read
    info = DatasetInfo.model_validate_json(rows.describe().model_dump_json())
    assert [said(one) for one in open_unchanged(info).at([0])] == [said(row)]
    assert options != RowOptions.resolve(options, {"spec": SPEC})
    rows.write([0], tmp_path / "out.jsonl")
    assert json.loads((tmp_path / "out.jsonl").read_text()) == CALLED
    (tmp_path / "spec.yaml").write_text("{user: [about, why, hint], assistant: reply, join: ' '}")
    row = RowOptions.resolve(None, {"spec": tmp_path / "spec.yaml", "limit": 1}).open(path)
    assert [said(one) for one in row] == [["user:Be kind x", "assistant:Ho"]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mesages": "x"}, r"no key mesages\. Did you mean messages\?"),
        ({"messages": None}, "Name messages, or user and assistant"),
        ({"roles": {"agent": "asistant"}}, "(?s)asistant.*Did you mean assistant"),
        ({"messages": "data.logs"}, r"no column 'data\.logs'"),
        ({"roles": {}}, "(?s)reads none of the first 1 records.*agent, caller"),
    ],
)
def test_a_spec_that_fits_nothing_is_named(tmp_path, changes, message):
    path = lines(tmp_path / "rows.jsonl", CALLED)
    with pytest.raises(RipcurrentError, match=message):
        RowOptions.resolve(None, {"spec": {**SPEC, **changes}}).open(path)
    with pytest.raises(RipcurrentError, match="in place of --format and --map"):
        RowOptions.resolve(None, {"spec": SPEC, "format": "alpaca"}).open(path)


def test_ids_are_the_rows_own_or_a_hash_of_what_is_said(tmp_path):
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
                [{"role": "user", "content": [{"type": "refusal"}]}],
            )
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "not_text"),
        *(({"messages": TURNS, "label": no}, "unwanted_answer") for no in (False, "False")),
        ({"messages": [TURNS[0], {**TURNS[1], "tool_calls": [{"function": "x"}]}]}, "invalid_conversation"),
        *(({"messages": turns}, "no_response") for turns in (TURNS[:1], [TURNS[0], {**TURNS[1], "content": ""}])),
    ],
)
def test_a_bad_row_among_good_ones_gets_its_reason(tmp_path, record, problem):
    good: Any = {"instruction": "a", "input": "", "output": "b"}
    if isinstance(record, dict) and "messages" in record:
        good = {"messages": TURNS}
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(one) for one in (good, record, good)))
    before, bad, after = read_rows(path)
    assert (before.problem, bad.problem, after.problem) == (None, problem, None)
    assert bad.messages == ()
    assert [before.index, bad.index, after.index] == [0, 1, 2]


def test_turns_in_csv_cells_are_json(tmp_path):
    def written(*rows: list[str]) -> list[Row]:
        with (tmp_path / "rows.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        return list(read_rows(tmp_path / "rows.csv"))

    for column in ("messages", "conversations"):
        assert said(*written([column], [json.dumps(TURNS)])) == HI_HO
    asked, answered = json.dumps(TURNS[:1]), json.dumps(TURNS[1:])
    turns, about, plain = written(["prompt", "completion"], [asked, answered], ["As JSON.", answered], ["[1]", "[2]"])
    assert said(turns) == HI_HO
    assert about.response == answered, "one side alone is an answer about turns"
    assert (plain.prompt, plain.response) == ("[1]", "[2]")
    fields = ["instruction", "output", "history"]
    earlier, none = written(fields, ["And now?", "Ebb", '[["Hi", "Ho"]]'], ["Hi", "Ho", ""])
    assert said(earlier) == [*HI_HO, "user:And now?", "assistant:Ebb"]
    assert said(none) == HI_HO


@pytest.mark.parametrize(
    "record",
    [
        {"messages": TURNS},
        {"conversations": SPOKEN},
        {"instruction": "Hi", "input": "", "output": "Ho"},
        {"instruction": "Hi", "response": "Ho"},
        {"prompt": "Hi", "completion": "Ho"},
        {"prompt": TURNS[:1], "completion": TURNS[1:]},
        {"prompt": "Hi", "response": "Ho"},
        {"question": "Hi", "answer": "Ho"},
    ],
)
def test_a_system_field_is_the_first_turn(tmp_path, record):
    kind = ["system:Be kind", *HI_HO]
    assert said(only(tmp_path, {**record, "system": "Be kind"})) == kind
    parts = [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind"}]
    assert said(only(tmp_path, {**record, "system": parts})) == kind
    assert said(only(tmp_path, {**record, "about": "Be kind"}, mapping=parse_mapping(["system=about"]))) == kind
    # nothing in it, or another column of that name
    for nothing in (None, "", " \n", [], "[]", {"a": 1}, 3, True):
        assert (
            said(only(tmp_path, {**record, "history": nothing, "system": nothing if nothing != "[]" else ""})) == HI_HO
        )


CALL = {"name": "times", "arguments": {"a": "six\n"}}
AS_TEXT = {**CALL, "arguments": json.dumps(CALL["arguments"])}
WRITTEN = '<call>{"name": "times", "arguments": {"a": "six\\n"}}'


@pytest.mark.parametrize(
    ("answer", "fields", "trained"),
    [
        ({"content": None, "tool_calls": [{"id": "c1", "type": "function", "function": CALL}]}, {}, WRITTEN),
        ({"content": "", "tool_calls": [{"function": AS_TEXT}]}, {"tools": json.dumps([TOOL])}, WRITTEN),
        ({"function_call": AS_TEXT}, {"tools": None, "functions": [TOOL]}, "Ho" + WRITTEN),
        ({"role": "function_call", "content": json.dumps(CALL)}, {}, WRITTEN),
        ({"tool_calls": None, "reasoning_content": ""}, {}, "Ho"),
        ({"reasoning_content": "Six sevens."}, {}, "Ho"),
    ],
)
def test_tool_calls_are_trained_and_what_a_template_hides_is_told(tmp_path, answer, fields, trained):
    record = {"messages": [TURNS[0], {**TURNS[1], **answer}], "tools": [TOOL], **fields}
    row, prints, hides = only(tmp_path, record), build("marked"), build("chatml")
    encoded = encode(row, prints)
    assert prints.decode(encoded.tokens[encoded.loss_mask]) == trained + "<|im_end|>\n"
    assert encoded.unread == bool(answer.get("reasoning_content"))
    assert encode(row, hides).status == "tools_not_held"
    assert row.response.endswith(trained.split("<call>")[-1])
    # a column of that name may hold something else
    other = only(tmp_path, {**record, "tools": ["hammer"], "functions": None})
    assert encode(other, prints).unread
    assert encode(other, hides).status == ("tools_not_held" if "<call>" in trained else "ok")


@pytest.mark.parametrize(
    "pair",
    [
        {"prompt": "Hi", "chosen": "Ho"},
        {"instruction": "Hi", "input": "", "chosen": "Ho"},
        {"prompt": TURNS[:1], "chosen": TURNS[1:]},
        {"prompt": "Hi", "chosen": TURNS, "messages": TURNS},
        {"conversations": SPOKEN[:1], "chosen": SPOKEN[1]},
        {"input": {"messages": TURNS[:1]}, "preferred_output": TURNS[1:], "non_preferred_output": TURNS[1:]},
        {"messages": TURNS, "rejected_response": "No"},
        {"query": "Hi", "response": "Ho", "rejected_response": "No"},
    ],
)
def test_of_pairs_the_better_answers_are_read_with_the_words_that_the_error_names(tmp_path, pair):
    record = pair if {"rejected_response", "non_preferred_output"} & set(pair) else {**pair, "rejected": "No"}
    with pytest.raises(RipcurrentError, match="holds pairs of a better and a worse answer") as caught:
        only(tmp_path, record)
    row = only(tmp_path, record, mapping=parse_mapping(re.findall(r"--map (\S+=\S+)", caught.value.hint or "")))
    assert said(row) == HI_HO
    assert "rejected" not in row.fields or "chosen" not in row.fields
    if "rejected_response" in pair:
        assert RowOptions(trainer="swift,template=chatml").open(tmp_path / "rows.jsonl").describe().rows == 1


def test_limit_and_numbers_choose_rows_in_order(tmp_path):
    path = lines(tmp_path / "my.rows.json", *({"text": str(number)} for number in range(9)))
    dataset = read_rows(path, limit=4)
    # lines in a file named .json
    assert (dataset.path, dataset.name, dataset.container, dataset.suffix) == (str(path), "my.rows", "jsonl", ".json")
    assert [row.text for row in dataset] == ["0", "1", "2", "3"]
    assert [row.index for row in dataset.iter_from(3)] == [3]
    assert list(dataset.iter_from(6)) == []
    assert dataset.count_and_hash()[0] == 4
    assert [row.index for row in read_rows(path).at({4, 1})] == [1, 4]
    assert [row.text for row in read_rows(path).at([5, 0, 11])] == ["0", "5"]
    assert list(dataset.at(())) == []


def test_a_dataset_that_was_described_is_opened_again_while_it_is_the_same(tmp_path):
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
