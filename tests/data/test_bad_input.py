"""A user's mistakes: one clear message, naming file and place, with what to do."""

import gzip
import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ripcurrent.data import read_rows
from ripcurrent.errors import RipcurrentError

GOOD = '{"prompt": "a", "response": "b"}'
BRACKETS, DIGITS = "[" * 100_000, "9" * 5_000
LONG = [json.dumps({"text": "word " * 200})] * 3_000
TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
NO_DATA = gzip.compress("\n".join(json.dumps({"text": str(n**9)}) for n in range(5_000)).encode())


def fails(path: Path | str, *parts: str, **options: Any) -> None:
    """Reading raises one error, at once or on validation and on iteration alike, whose text has all parts."""
    with pytest.raises(RipcurrentError) as caught:
        read_rows(path, **options).count_and_hash()
    with pytest.raises(RipcurrentError) as again:
        list(read_rows(path, **options))
    for text in (str(caught.value), str(again.value)):
        for part in parts:
            assert part in text
    assert caught.value.hint


CASES: list[tuple[str, str | bytes, tuple[str, ...], dict[str, Any]]] = [
    # no container
    ("rows.xlsx", "x", ("rows.xlsx", ".jsonl"), {}),
    *((f"rows.{kind}", "", (f"rows.{kind}", " is empty."), {}) for kind in ("json", "json.gz", "csv", "parquet")),
    *(
        (f"rows.{kind}", text, (f"rows.{kind}", "holds no rows"), {})
        for kind, text in (("json", "[]"), ("json", " \n"), ("jsonl", "\n\n"), ("csv", "prompt,response\n"))
    ),
    # no format
    ("rows.jsonl", GOOD, ("'alpacca'", "Did you mean 'alpaca'?", "sharegpt"), {"format": "alpacca"}),
    ("rows.jsonl", GOOD, ("is not alpaca", "prompt, response", "instruction, output", "--map"), {"format": "alpaca"}),
    ("rows.jsonl", GOOD, ("limit of 0 rows",), {"limit": 0}),
    ("rows.jsonl", json.dumps({"chat": TURNS}), ("No row format fits", "fields chat", "--map"), {}),
    ("rows.json", "[1, [2], null]", ("first 3 rows", "named fields"), {}),
    ("rows.csv", "ask,output\na,b\n", ("alpaca needs also instruction", "--map instruction=COLUMN"), {}),
    # the hint is to what also reads the other columns that are there
    ("rows.csv", "instruction,input,answer\na,b,c\n", ("--map output=COLUMN",), {}),
    ("rows.csv", "ask,reply\na,b\n", ("--map prompt=COLUMN --map response=COLUMN",), {}),
    ("rows.csv", "ask,reply\na,b\n", ("Did you mean 'reply'",), {"mapping": {"prompt": "ask", "response": "replly"}}),
    ("rows.csv", "ask,reply\na,b\n", ("No row format has a field",), {"mapping": {"questoin": "ask"}}),
    # broken JSON
    *(
        ("rows.jsonl", "\n".join([GOOD, "", GOOD, bad, GOOD]), ("rows.jsonl, line 4: broken JSON", why), {})
        for bad, why in (('{"prompt": "a", ', ""), ('{"prompt": "a"} x', ""), (BRACKETS, "deeply"), (DIGITS, "digits"))
    ),
    *(
        ("rows.json", text, ("broken JSON", f"rows.json, line {line}"), {})
        for text, line in (
            (f"[\n{GOOD},\n{GOOD}", 3),
            (f"[\n{GOOD}\n{GOOD}]", 3),
            (f"[\n{GOOD},\n{{\n'a': 1}}]", 4),
            (f'[\n{GOOD},\n{{"a": "not closed}},\n{GOOD}]', 3),
            (f"[\n{GOOD}]\n\n{GOOD}", 4),
            (f"[{GOOD},\n{BRACKETS}]", "2: broken JSON: it is nested too deeply"),
            (f"[{GOOD},\n{DIGITS}]", "2: broken JSON: a number has too many digits"),
            ("[\n" + ",\n".join([*LONG[:2_500], '{"text": "a", oops}', *LONG[2_501:]]) + "\n]", 2502),
            # all the rest of a large file in one line
            ("[" + ",".join([*LONG[:30], '{"text": "a" "b"}', *LONG[31:]]) + "]", 1),
        )
    ),
    *(("rows.json", text, ("rows.json",), {}) for text in ('{"data": [1, 2]}', '"text"', "5")),
    # rows inside an object
    *(
        ("rows.json", text, said, {"mapping": mapping})
        for mapping in ({}, {"prompt": "ask"}, {"prompt": "data.ask"})
        for text, said in (
            ('{"data": [{"ask": "a", "reply": "b"}]}', ("only field, data, holds a list", "jq '.[\"data\"]' FILE")),
            ('{\n  "data": [\n    {"ask": "a"}]}', ("no array of rows", "write the list alone")),
        )
    ),
    ("rows.jsonl", f"[{GOOD}]", ("JSON array", "Name the file .json"), {}),
    # broken CSV
    ("rows.csv", 'prompt,response\na,b\nc,"d\ne,f\n', ("rows.csv, line 3", "broken CSV"), {}),
    ("rows.csv", "prompt,prompt,response\na,b,c\n", ("two columns named 'prompt'",), {}),
    ("rows.csv", "instruction\toutput\na\tb\n", ("separated by tabs", "commas between the cells"), {}),
    ("rows.csv", "instruction;output\na;b, or c\n", ("separated by semicolons",), {"mapping": {"prompt": "output"}}),
    # other bytes
    ("rows.jsonl", f"{GOOD}\n{GOOD}".encode("utf-16"), ("rows.jsonl", "UTF-8"), {}),
    ("rows.csv", b"prompt,response\n\xe9,\xe9\n", ("rows.csv, line 2", "UTF-8"), {}),
    ("a.jsonl.gz", GOOD, ("not a gzip file",), {}),
    ("b.jsonl.gz", NO_DATA[: len(NO_DATA) // 2], ("b.jsonl.gz", "ends early"), {}),
    ("rows.parquet", b"PAR1 no, it is not one", ("no readable Parquet file",), {}),
    ("rows.parquet.gz", gzip.compress(b"PAR1 no, it is not one"), ("no readable Parquet file",), {}),
]


@pytest.mark.parametrize(("name", "content", "parts", "options"), CASES, ids=range(len(CASES)))
def test_a_file_that_cannot_be_read(tmp_path, name, content, parts, options):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    fails(tmp_path / name, *parts, **options)


def test_folders_and_places(tmp_path):
    fails(tmp_path / "no.json", "no.json", "does not exist")
    fails(tmp_path, "is a folder", "save_to_disk")
    one = datasets.Dataset.from_list([{"text": "a"}])
    datasets.DatasetDict({"train": one, "test": one}).save_to_disk(tmp_path / "d")
    fails(tmp_path / "d", "splits test, train", str(tmp_path / "d" / "test"))
    (tmp_path / "state.json").write_text("{}")
    (tmp_path / "dataset_info.json").write_text("{}")
    fails(tmp_path, "cannot be loaded")
    (tmp_path / "rows.jsonl").symlink_to("/proc/self/mem")
    if (tmp_path / "rows.jsonl").exists():
        fails(tmp_path / "rows.jsonl", "rows.jsonl")


def test_hub_addresses_and_failures(monkeypatch):
    for address in ("hf:name", "hf:", "hf:/x", "hf:a/b/c/d"):
        fails(address, "hf:owner/name")
    for error in (ConnectionError("Couldn't reach 'owner/name' on the Hub"), RuntimeError("No dataset scripts")):
        monkeypatch.setattr(datasets, "load_dataset", Mock(side_effect=error))
        fails("hf:owner/name", str(error), "network")


def test_csv_rows_of_another_length_and_very_long_cells(tmp_path):
    (tmp_path / "rows.csv").write_text(f"prompt,response\na,{'word ' * 100_000}\nc,d,e\nf\ng,h\n")
    rows = list(read_rows(tmp_path / "rows.csv"))
    assert [row.problem for row in rows] == [None, "invalid_conversation", "invalid_conversation", None]
    assert len(rows[0].response) == 500_000


@pytest.mark.parametrize(("name", "said"), [("text", "utf-8"), ("written", "date")])
def test_a_value_that_python_has_no_equal_of(tmp_path, name, said):
    text = pa.array([b"a"] * 300 + [b"\xff"], pa.binary())
    columns = {
        "text": text.view(pa.string()) if name == "text" else pa.array(["a"] * 301),
        "written": pa.array([0] * 300 + [2**63 - 1 if name == "written" else 0], pa.timestamp("us")),
    }
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    fails(tmp_path / "rows.parquet", "rows.parquet, row 300, column " + name, said)
