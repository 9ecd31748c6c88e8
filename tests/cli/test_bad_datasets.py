"""Datasets that cannot be scanned, or not wholly: what the command says and leaves behind."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.cli.command import Command
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
def test_what_is_no_dataset(
    command: Command, tmp_path: Path, out: Path, name: str, text: str | None, says: tuple[str, ...]
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    command.scan_fails(tmp_path / name, "--out", out, says=says)
    assert not out.exists()


@pytest.mark.parametrize("address", ["hf:name", "hf:a/b/c/d"])
def test_hub_address_that_is_none(command: Command, out: Path, address: str) -> None:
    command.scan_fails(address, "--out", out, says=("hf:owner/name",))


def test_wrong_format_name(command: Command, rows_file: Path, out: Path) -> None:
    says = ("'alpacca'", "Did you mean 'alpaca'?", "sharegpt")
    command.scan_fails(rows_file, "--format", "alpacca", "--out", out, says=says)


def test_a_map_that_is_none(command: Command, tmp_path: Path, out: Path) -> None:
    (tmp_path / "rows.csv").write_text("ask,reply\na,b\n")
    command.scan_fails(tmp_path / "rows.csv", "--map", "prompt", "--out", out, says=("prompt", "="))
    command.scan_fails(
        tmp_path / "rows.csv", "--map", "prompt=aks", "--map", "response=reply", "--out", out, says=("'ask'",)
    )
    good = command.scan(tmp_path / "rows.csv", "--map", "prompt=ask", "--map", "response=reply", "--out", out, "--json")
    assert (good.code, good.json["scored"]) == (0, 1)


def test_no_usable_row(command: Command, tmp_path: Path, out: Path) -> None:
    rows: list[Any] = [{"prompt": "a", "response": ""}, {"prompt": "b", "response": None}]
    dataset = write_jsonl(tmp_path / "rows.jsonl", rows)
    says = ("No row of", "rows.jsonl could be scored", "2 no_response", "scores.parquet")
    command.scan_fails(dataset, "--out", out, says=says, code=2)
    assert statuses(out) == ["no_response"] * 2
    assert not (out / "report.html").exists()
    command.scan_fails(dataset, "--out", out, says=says, code=2)


def test_bad_rows_among_good_ones_get_their_reason_and_the_rest_is_scored(
    command: Command, tmp_path: Path, out: Path
) -> None:
    good = good_rows(2)
    rows: list[Any] = [
        good[0],
        {"prompt": "a", "response": ""},
        {"prompt": "a", "response": None},
        {"prompt": "a"},
        {"prompt": True, "response": "b"},
        {"prompt": "a", "response": ["b"]},
        {"prompt": "a", "response": {"text": "b"}},
        {"prompt": None, "response": "b"},
        {},
        [],
        3,
        None,
        good[1],
    ]
    said = command.scan(write_jsonl(tmp_path / "rows.jsonl", rows), "--out", out, "--json")
    assert said.code == 0
    assert (said.json["rows"], said.json["scored"]) == (13, 2)
    found = statuses(out)
    assert found[0] == found[-1] == "ok"
    assert found[1:3] == ["no_response", "no_response"]
    assert set(found[3:-1]) <= {"no_response", "invalid_conversation"}
    assert found[4:7] == ["invalid_conversation"] * 3
    assert sum(said.json["unscored"].values()) == 11


def test_a_row_of_100_000_tokens_is_scored_on_its_head(command: Command, tmp_path: Path, out: Path) -> None:
    rows = [*good_rows(2), {"prompt": "Go on.", "response": "a b " * 50_000}, {"prompt": "c " * 9_000, "response": "d"}]
    said = command.scan(write_jsonl(tmp_path / "rows.jsonl", rows), "--out", out, "--json")
    assert (said.code, said.json["unscored"]) == (0, {"too_long": 1})
    table = pq.read_table(out / "scores.parquet")
    assert table["truncated"].to_pylist() == [False, False, True, False]
    assert table["prompt_tokens"][2].as_py() + table["response_tokens"][2].as_py() == 1024
