"""A user's mistakes: one clear message, naming file and place, with what to do."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from ripcurrent.data import read_rows
from ripcurrent.errors import RipcurrentError

GOOD = '{"prompt": "a", "response": "b"}'


def fails(path: Path | str, *parts: str, **options: Any) -> None:
    """Reading raises one error, at once or on validation and on iteration alike, whose text has all parts."""
    with pytest.raises(RipcurrentError) as caught:
        read_rows(path, **options).count_and_hash()
    with pytest.raises(RipcurrentError) as again:
        list(read_rows(path, **options))
    for text in (str(caught.value), str(again.value)):
        for part in parts:
            assert part in text
    assert caught.value.message
    assert caught.value.hint


def test_missing_file(tmp_path: Path) -> None:
    fails(tmp_path / "no.json", "no.json", "does not exist")


def test_folder_that_is_no_dataset(tmp_path: Path) -> None:
    fails(tmp_path, "is a folder", "save_to_disk")


def test_damaged_saved_folder(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{}")
    (tmp_path / "dataset_info.json").write_text("{}")
    fails(tmp_path, "cannot be loaded")


def test_folder_of_several_splits(tmp_path: Path) -> None:
    import datasets

    one = datasets.Dataset.from_list([{"text": "a"}])
    datasets.DatasetDict({"train": one, "test": one}).save_to_disk(tmp_path / "d")
    fails(tmp_path / "d", "splits test, train", str(tmp_path / "d" / "test"))


def test_no_container_suffix(tmp_path: Path) -> None:
    (tmp_path / "rows.xlsx").write_text("x")
    fails(tmp_path / "rows.xlsx", "rows.xlsx", ".jsonl")


def test_wrong_format_name(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(GOOD)
    fails(tmp_path / "rows.jsonl", "'alpacca'", "Did you mean 'alpaca'?", "sharegpt", format="alpacca")


def test_named_format_that_does_not_fit(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(GOOD)
    fails(tmp_path / "rows.jsonl", "is not alpaca", "prompt, response", "instruction, output", "--map", format="alpaca")


@pytest.mark.parametrize("bad", ['{"prompt": "a", ', "{'prompt': 1}", '{"prompt": "a"} x', "[" * 100_000, "9" * 5_000])
def test_broken_json_line(tmp_path: Path, bad: str) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join([GOOD, "", GOOD, bad, GOOD]))
    fails(tmp_path / "rows.jsonl", "rows.jsonl, line 4", "broken JSON")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
@pytest.mark.parametrize(("bad", "why"), [("9" * 5_000, "too many digits"), ("[" * 100_000, "nested too deeply")])
def test_numbers_and_nesting_without_end_are_told_in_plain_words(tmp_path: Path, name: str, bad: str, why: str) -> None:
    row = f'{{"prompt": "a", "response": {bad}'
    (tmp_path / name).write_text(f"{GOOD}\n{row}}}" if name.endswith("l") else f"[{GOOD},\n{row}}}]")
    with pytest.raises(RipcurrentError, match=f"line 2: broken JSON: .*{why}") as caught:
        list(read_rows(tmp_path / name))
    assert "sys." not in str(caught.value)
    assert "recursion" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"[\n{GOOD},\n{GOOD}", 3),
        (f"[\n{GOOD}\n{GOOD}]", 3),
        (f"[\n{GOOD},\n]", 3),
        (f"[\n{GOOD},\n{{\n'a': 1}}]", 4),
        (f'[\n{GOOD},\n{{"a": "not closed}},\n{GOOD}]', 3),
        (f"[\n{GOOD}]\n\n{GOOD}", 4),
        (f"[{GOOD},\n{'[' * 100_000}]", 2),
    ],
)
def test_broken_json_array(tmp_path: Path, text: str, line: int) -> None:
    (tmp_path / "rows.json").write_text(text)
    fails(tmp_path / "rows.json", f"rows.json, line {line}", "broken JSON")


def test_a_broken_record_far_into_a_large_array_is_found_with_its_line(tmp_path: Path) -> None:
    rows = [json.dumps({"text": "word " * 200})] * 3_000
    rows[2_500] = '{"text": "a", oops}'
    (tmp_path / "rows.json").write_text("[\n" + ",\n".join(rows) + "\n]")
    fails(tmp_path / "rows.json", "line 2502")


def test_a_broken_record_with_all_the_rest_of_a_large_file_in_one_line(tmp_path: Path) -> None:
    rows = [json.dumps({"text": "word " * 200})] * 3_000
    rows[30] = '{"text": "a" "b"}'
    (tmp_path / "rows.json").write_text("[" + ",".join(rows) + "]")
    fails(tmp_path / "rows.json", "line 1", "broken JSON")


@pytest.mark.parametrize("text", ['{"data": [1, 2]}', '{\n  "data": [\n    1]\n}', '"text"', "5"])
def test_json_that_is_no_array_of_rows(tmp_path: Path, text: str) -> None:
    (tmp_path / "rows.json").write_text(text)
    fails(tmp_path / "rows.json", "rows.json")


@pytest.mark.parametrize("mapping", [{}, {"prompt": "ask"}, {"prompt": "data.ask"}])
def test_rows_inside_an_object_are_to_be_taken_out(tmp_path: Path, mapping: dict[str, str]) -> None:
    (tmp_path / "rows.json").write_text('{"data": [{"ask": "a", "reply": "b"}]}')
    fails(tmp_path / "rows.json", "whose only field, data, holds a list", "jq '.[\"data\"]' FILE", mapping=mapping)
    (tmp_path / "rows.json").write_text('{\n  "data": [\n    {"ask": "a", "reply": "b"}]}')
    fails(tmp_path / "rows.json", "no array of rows", "write the list alone", mapping=mapping)


def test_one_conversation_under_another_name_is_no_list_of_rows(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"chat": turns}))
    fails(tmp_path / "rows.jsonl", "No row format fits", "fields chat", "--map")
    (row,) = read_rows(tmp_path / "rows.jsonl", mapping={"messages": "chat"})
    assert row.response == "b"


@pytest.mark.parametrize(("separator", "name"), [("\t", "tabs"), (";", "semicolons")])
def test_csv_with_another_separator(tmp_path: Path, separator: str, name: str) -> None:
    (tmp_path / "rows.csv").write_text(f"instruction{separator}output\na{separator}b, or c\n")
    fails(tmp_path / "rows.csv", f"separated by {name}", "commas between the cells")
    fails(tmp_path / "rows.csv", f"separated by {name}", mapping={"prompt": "instruction"})


@pytest.mark.parametrize(("name", "does"), [("rows.tsv", "commas between the cells"), ("rows.txt", '{"text": "…"}')])
def test_a_file_that_a_new_name_does_not_mend(tmp_path: Path, name: str, does: str) -> None:
    (tmp_path / name).write_text("prompt\tresponse\na\tb\n")
    fails(tmp_path / name, name, does)


def test_array_of_no_records(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text("[1, [2], null]")
    fails(tmp_path / "rows.json", "first 3 rows", "named fields")


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.csv", "rows.parquet", "rows.json.gz"])
def test_empty_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("")
    fails(tmp_path / name, name, " is empty.")


@pytest.mark.parametrize(
    ("name", "text"),
    [("rows.json", "[]"), ("rows.json", " \n"), ("rows.jsonl", "\n\n"), ("rows.csv", "prompt,response\n")],
)
def test_no_rows(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    fails(tmp_path / name, name, "holds no rows")


def test_csv_without_the_needed_columns(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("ask,output\na,b\n")
    fails(tmp_path / "rows.csv", "ask, output", "alpaca needs also instruction", "--map instruction=COLUMN")
    fails(tmp_path / "rows.csv", "ask, output", "lacks instruction", "--map instruction=COLUMN", format="alpaca")
    # the hint is to what also reads the other columns that are there
    (tmp_path / "rows.csv").write_text("instruction,input,answer\na,b,c\n")
    fails(tmp_path / "rows.csv", "--map output=COLUMN")
    (tmp_path / "rows.csv").write_text("ask,reply\na,b\n")
    fails(tmp_path / "rows.csv", "--map prompt=COLUMN --map response=COLUMN")


def test_mapped_column_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("question,reply\na,b\n")
    with pytest.raises(RipcurrentError, match="Did you mean 'reply'"):
        read_rows(tmp_path / "rows.csv", mapping={"prompt": "question", "response": "replly"})
    with pytest.raises(RipcurrentError, match="No row format has a field"):
        read_rows(tmp_path / "rows.csv", mapping={"questoin": "question"})


def test_csv_with_an_open_quote(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('prompt,response\na,b\nc,"d\ne,f\n')
    fails(tmp_path / "rows.csv", "rows.csv, line 3", "broken CSV")


def test_csv_row_with_a_stray_cell_is_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prompt,response\na,b\nc,d,e\nf\ng,h\n")
    assert [row.problem for row in read_rows(tmp_path / "rows.csv")] == [
        None,
        "invalid_conversation",
        "invalid_conversation",
        None,
    ]


def test_csv_takes_a_very_long_cell(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(f"prompt,response\na,{'word ' * 100_000}\n")
    (row,) = read_rows(tmp_path / "rows.csv")
    assert len(row.response) == 500_000


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.csv"])
def test_not_utf8(tmp_path: Path, name: str) -> None:
    text = {"rows.json": f"[{GOOD},\n{GOOD}]", "rows.jsonl": f"{GOOD}\n{GOOD}", "rows.csv": "prompt,response\na,a\n"}[
        name
    ]
    (tmp_path / name).write_bytes(
        text.encode().replace(b"a", b"\xe9", 2) if name == "rows.csv" else text.encode("utf-16")
    )
    fails(tmp_path / name, name, "UTF-8")


def test_no_gzip_and_truncated_gzip(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_text(GOOD)
    fails(tmp_path / "a.jsonl.gz", "not a gzip file")
    packed = gzip.compress("\n".join(json.dumps({"text": str(n**9)}) for n in range(5_000)).encode())
    (tmp_path / "b.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    fails(tmp_path / "b.jsonl.gz", "b.jsonl.gz", "ends early")


@pytest.mark.parametrize("name", ["rows.parquet", "rows.parquet.gz"])
def test_no_parquet(tmp_path: Path, name: str) -> None:
    data = b"PAR1 no, it is not one"
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    fails(tmp_path / name, "no readable Parquet file")


def test_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.symlink_to("/proc/self/mem")
    if not path.exists():
        pytest.skip("no /proc here")
    with pytest.raises(RipcurrentError):
        read_rows(path)


@pytest.mark.parametrize("address", ["hf:name", "hf:", "hf:/x", "hf:a/b/c/d"])
def test_hub_address(address: str) -> None:
    fails(address, "hf:owner/name")


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("Couldn't reach 'owner/name' on the Hub"),
        RuntimeError("Dataset scripts are no longer supported, but found name.py"),
    ],
)
def test_hub_failure_is_told(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    import datasets

    def load(path: str, **options: object) -> object:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load)
    fails("hf:owner/name", str(error)[:20], "network")


def test_limit_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(GOOD)
    with pytest.raises(RipcurrentError, match="limit of 0 rows"):
        read_rows(tmp_path / "rows.jsonl", limit=0)


@pytest.mark.parametrize("text", ['[{"prompt": "a", "response": "b"}]', '[\n {"prompt": "a", "response": "b"}\n]\n'])
def test_an_array_in_a_file_of_lines_is_told_apart_from_broken_json(tmp_path, text):
    path = tmp_path / "rows.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RipcurrentError, match="JSON array") as caught:
        list(read_rows(path))
    assert "Name the file .json" in caught.value.hint


def test_two_csv_columns_of_one_name_are_an_error(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("prompt,prompt,response\na,b,c\n", encoding="utf-8")
    with pytest.raises(RipcurrentError, match="two columns named 'prompt'"):
        list(read_rows(path))


@pytest.mark.parametrize(("name", "said"), [("text", "utf-8"), ("written", "date")])
def test_a_value_that_python_has_no_equal_of(tmp_path: Path, name: str, said: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.array([b"a"] * 300 + [b"\xff"], pa.binary())
    columns = {
        "text": text.cast(pa.binary()).view(pa.string()) if name == "text" else pa.array(["a"] * 301),
        "written": pa.array([0] * 300 + [2**63 - 1 if name == "written" else 0], pa.timestamp("us")),
    }
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    fails(tmp_path / "rows.parquet", "rows.parquet, row 300, column " + name, said)
