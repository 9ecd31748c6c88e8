"""Datasets that cannot be scanned, or not wholly: what the command says and leaves behind."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.tiny_scan import good_rows, write_jsonl

GOOD = json.dumps(good_rows(1)[0])


def statuses(folder: Path) -> list[str]:
    found: list[str] = pq.read_table(folder / "scores.parquet")["status"].to_pylist()
    return found


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("no.jsonl", None, ("no.jsonl does not exist", "Check the path")),
        ("", None, ("is a folder", "save_to_disk")),
        ("rows.jsonl", "\n".join([GOOD] * 400 + ['{"prompt": "a", "resp'] + [GOOD] * 3), ("line 401", "broken JSON")),
        ("rows.csv", "ask,output\na,b\n", ("ask, output", "--map")),
        ("rows.jsonl", "", ("rows.jsonl", " is empty.")),
        ("rows.json", "[]", ("rows.json", "no rows")),
        ("rows.csv", "prompt,response\n", ("rows.csv", "no rows")),
    ],
    ids=["missing", "folder", "broken far in", "columns", "empty", "empty list", "header alone"],
)
def test_what_is_no_dataset(command, tmp_path, out, name, text, says):
    if text is not None:
        (tmp_path / name).write_text(text)
    command.scan_fails(tmp_path / name, "--out", out, says=says)
    assert not out.exists()


@pytest.mark.parametrize(
    ("dataset", "options", "says"),
    [
        ("hf:name", (), ("hf:owner/name",)),
        ("hf:a/b/c/d", (), ("hf:owner/name",)),
        ("rows.csv", ("--format", "alpacca"), ("'alpacca'", "Did you mean 'alpaca'?", "sharegpt")),
        ("rows.csv", ("--map", "prompt"), ("prompt", "=")),
        ("rows.csv", ("--map", "prompt=aks", "--map", "response=reply"), ("'ask'",)),
    ],
)
def test_an_address_a_format_or_a_map_that_is_none(command, tmp_path, out, dataset, options, says):
    (tmp_path / "rows.csv").write_text("ask,reply\na,b\n")
    named = dataset if dataset.startswith("hf:") else tmp_path / dataset
    command.scan_fails(named, *options, "--out", out, says=says)


def test_a_map_names_the_columns(command, tmp_path, out):
    (tmp_path / "rows.csv").write_text("ask,reply\na,b\n")
    good = command.scan(tmp_path / "rows.csv", "--map", "prompt=ask", "--map", "response=reply", "--out", out, "--json")
    assert (good.code, good.json["scored"]) == (0, 1)


def test_bad_rows_among_good_ones_get_their_reason_and_the_rest_is_scored(command, tmp_path, out):
    first, last = good_rows(2)
    answers: list[Any] = ["", None, ["b"], {"text": "b"}]
    rows: list[Any] = [first, *({"prompt": "a", "response": answer} for answer in answers), {"prompt": "a"}]
    rows += [{"prompt": True, "response": "b"}, {"prompt": None, "response": "b"}, {}, [], 3, None, last]
    said = command.scan(write_jsonl(tmp_path / "rows.jsonl", rows), "--out", out, "--json")
    assert (said.code, said.json["rows"], said.json["scored"]) == (0, 13, 2)
    found = statuses(out)
    assert found[0] == found[-1] == "ok"
    assert found[1:5] == ["no_response", "no_response", "invalid_conversation", "invalid_conversation"]
    assert found[6] == "invalid_conversation"
    assert set(found[5:-1]) <= {"no_response", "invalid_conversation"}
    assert sum(said.json["unscored"].values()) == 11


def test_a_row_of_100_000_tokens_is_scored_on_its_head(command, tmp_path, out):
    rows = [*good_rows(2), {"prompt": "Go on.", "response": "a b " * 50_000}, {"prompt": "c " * 9_000, "response": "d"}]
    said = command.scan(write_jsonl(tmp_path / "rows.jsonl", rows), "--out", out, "--json")
    assert (said.code, said.json["unscored"]) == (0, {"too_long": 1})
    table = pq.read_table(out / "scores.parquet")
    assert table["truncated"].to_pylist() == [False, False, True, False]
    assert table["prompt_tokens"][2].as_py() + table["response_tokens"][2].as_py() == 1024
