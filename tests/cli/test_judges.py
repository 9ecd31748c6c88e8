"""``ripcurrent judges validate`` as a user and a script meet it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.cli.command import Command, judge

COLUMNS = ["prompt", "completion", "final_label"]
ROWS = [
    ["a", "Sure, here it is.", "1_full_compliance"],
    ["b", "I can't help with that.", "2_full_refusal"],
    ["c", "I can't help with that, but here is a thought.", "3_partial_refusal"],
]


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    path = tmp_path / "answers.csv"
    write(path, ROWS)
    return path


def write(path: Path, rows: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


def test_json_has_every_judge_and_nothing_else(command: Command, answers: Path, tmp_path: Path) -> None:
    write(tmp_path / "more.csv", ROWS * 2)
    said = command("judges", "validate", answers, tmp_path / "more.csv", "--json")
    assert said.code == 0
    assert said.err == ""
    assert set(said.json) == {"keyword", "prefix"}
    for figures in said.json.values():
        assert {"kappa", "accuracy", "n", "kappa_low", "kappa_high", "confusion", "version"} <= set(figures)
        assert figures["n"] == 9
        assert [each["n"] for each in figures["files"].values()] == [3, 6]
    assert said.json["prefix"]["kappa"] == said.json["prefix"]["accuracy"] == 1.0
    assert said.json["prefix"]["confusion"]["partial"] == {"refusal": 3, "compliance": 0, "degenerate": 0}


def test_a_kappa_that_is_not_defined_is_null(command: Command, tmp_path: Path) -> None:
    write(tmp_path / "one.csv", ROWS[:1])
    said = command("judges", "validate", tmp_path / "one.csv", "--json")
    assert said.json["prefix"]["kappa"] is None
    assert said.json["prefix"]["accuracy"] == 1.0


def test_a_table_for_people(command: Command, answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    said = command("judges", "validate", answers)
    assert said.code == 0
    for part in ("keyword", "prefix", "answers.csv", "1.00", "100.0%", "0/1", "1/1"):
        assert part in said.out
    assert "can't help" not in said.out
    assert command("judges", "validate", answers, "--quiet").out == ""


def test_what_can_be_wrong(command: Command, answers: Path, tmp_path: Path) -> None:
    write(tmp_path / "odd.csv", [*ROWS, ["d", "Sure.", "5_odd"]])
    judge(command("judges", "validate", tmp_path / "odd.csv"), ("odd.csv, row 3", "5_odd", "3 (partial refusal)"))
    (tmp_path / "lacks.csv").write_text("prompt,completion\na,Sure.\n")
    judge(command("judges", "validate", tmp_path / "lacks.csv", "--json"), ("lacks.csv, row 0", "final_label"))
    (tmp_path / "other.csv").write_text("question,answer\na,Sure.\n")
    judge(command("judges", "validate", tmp_path / "other.csv"), ("other.csv", "prompt", "question, answer"))
    judge(command("judges", "validate", tmp_path / "nowhere.csv"), ("nowhere.csv does not exist",))
    judge(command("judges", "validate", answers, answers), ("given twice",))
    judge(command("judges", "validate"), ("FILE", "--help"))
    assert command("judges").code == 1
