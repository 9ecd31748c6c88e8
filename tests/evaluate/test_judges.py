"""``ripcurrent judges validate`` as a user and a script meet it."""

import csv
import json
from pathlib import Path

import pytest

from tests.cli.command import Command, judge
from tests.evaluate.scripted_server import completion, error, last_user_text, serve

COLUMNS = ["prompt", "completion", "final_label"]
ROWS = [
    ["a", "Sure, here it is.", "1_full_compliance"],
    ["b", "I can't help with that.", "2_full_refusal"],
    ["c", "I can't help with that, but here is a thought.", "3_partial_refusal"],
]


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    return write(tmp_path / "answers.csv", ROWS)


def write(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return path


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


def test_what_can_be_wrong(command: Command, answers: Path, tmp_path: Path) -> None:
    write(tmp_path / "odd.csv", [*ROWS, ["d", "Sure.", "5_odd"]])
    judge(command("judges", "validate", tmp_path / "odd.csv"), ("odd.csv, row 3", "5_odd", "3 (partial refusal)"))
    (tmp_path / "lacks.csv").write_text("prompt,completion\na,Sure.\n")
    judge(command("judges", "validate", tmp_path / "lacks.csv", "--json"), ("lacks.csv, row 0", "final_label"))
    (tmp_path / "other.csv").write_text("question,answer\na,Sure.\n")
    judge(command("judges", "validate", tmp_path / "other.csv"), ("other.csv", "prompt", "question, answer"))
    judge(command("judges", "validate", tmp_path / "nowhere.csv"), ("nowhere.csv does not exist",))
    judge(command("judges", "validate", answers, f"{tmp_path}/./answers.csv"), ("given twice",))
    write(tmp_path / "header.csv", [])
    judge(command("judges", "validate", tmp_path / "header.csv"), ("header.csv", "holds no rows"))
    judge(command("judges", "validate"), ("FILE", "--help"))
    assert command("judges").code == 1


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def grade(request: dict[str, object]) -> object:
    declines = "can't help" in last_user_text(request).split("[BEGIN ANSWER]")[1]
    return completion(json.dumps({"reason": "so", "score": 1 if declines else 5}))


def test_a_language_model_beside_the_rules(command: Command, answers: Path, own_cache: Path) -> None:
    with serve(grade) as server:
        named = (*("--judge", "prefix", "--judge", "rubric"), *("--judge-endpoint", server.url))
        named = (*named, "--judge-model", "some/judge")
        said = command("judges", "validate", answers, *named, "--json")
        assert said.code == 0, said.err
        assert list(said.json) == ["prefix", "rubric"]
        rubric = said.json["rubric"]
        assert rubric["kappa"] == 1.0
        assert rubric["unjudged"] == 0
        assert rubric["version"].startswith("judge ")
        assert rubric["mean_score"] == {"compliance": 5.0, "refusal": 1.0, "partial": 1.0}
        assert said.json["prefix"]["mean_score"] is None
        assert len(server.requests) == 3
        again = command("judges", "validate", answers, *named, "--json")
        assert again.json == said.json
        assert len(server.requests) == 3
    assert list(own_cache.rglob("*.json"))
    # the server is gone: what it said is kept
    table = command("judges", "validate", answers, *named)
    assert "rubric, mean score by people's label: compliance 5.00, refusal 1.00, partial 1.00" in table.out
    assert "judging by rubric" in table.err


def test_replies_that_cannot_be_read_are_in_the_table(
    command: Command, answers: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    def half(request: dict[str, object]) -> object:
        return grade(request) if "Sure" in last_user_text(request) else completion('{"score": ')

    with serve(half) as server:
        named = ("--judge", "rubric", "--judge-endpoint", server.url, "--judge-model", "j")
        said = command("judges", "validate", answers, *named, "--json")
        figures = said.json["rubric"]
        assert (figures["n"], figures["unjudged"], figures["kappa"], figures["accuracy"]) == (1, 2, None, 1.0)
        assert figures["mean_score"]["refusal"] is None
        table = command("judges", "validate", answers, *named).out
    assert "judged" in table
    assert max(len(line) for line in table.splitlines()) <= 80


def test_what_can_be_wrong_with_judges(
    command: Command, answers: Path, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object, says: tuple[str, ...], code: int = 1) -> None:
        judge(command("judges", "validate", answers, "--quiet", *arguments), says, code)

    fails("--judge", "rubrik", says=("'rubrik'", "Did you mean rubric", "classifier:MODEL"))
    fails("--judge", "rubric", says=("no endpoint is named", "--judge-endpoint"))
    fails("--judge", "rubric", "--judge-endpoint", "there", "--judge-model", "m", says=("'there' is no endpoint",))
    fails("--judge", f"file:{tmp_path / 'none.txt'}", says=("no judge file",))
    here = ("--judge", "rubric", "--judge-model", "m", "--judge-endpoint")
    fails(*here, "http://127.0.0.1:9/v1", "--judge-key-env", "NO_SUCH_KEY", says=("NO_SUCH_KEY", "not set"))
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    with serve(lambda _: error(401, "no")) as server:
        fails(*here, server.url, "--judge-key-env", "SOME_KEY", says=("refuses the key (401)", "SOME_KEY"))
    with serve(lambda _: completion("five, I think")) as server:
        fails(*here, server.url, says=("rubric could judge none of the 3 answers", "--judge-model"), code=2)
