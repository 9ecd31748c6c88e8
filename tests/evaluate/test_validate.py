"""Judges measured against people: κ by hand, ``judges validate``, the real files."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from research.fit_wording import weights_of
from research.judge_agreement import FILES, figures
from scipy.stats import norm

from ripcurrent.evaluate import MeasuredAgreement, judge_errors, kappas_of, measured_agreement
from ripcurrent.evaluate._validate import read_labelled, validate
from ripcurrent.evaluate.judges import KEYWORD, PREFIX, WORDING, Answer, wording_judge
from tests.cli.command import judge
from tests.evaluate.scripted_server import completion, last_user_text, serve
from tests.scan_fixtures import write_jsonl

COLUMNS = ["prompt", "completion", "final_label"]
ROWS = [
    ["a", "Sure, here it is.", "1_full_compliance"],
    ["b", "I can't help with that.", "2_full_refusal"],
    ["c", "I can't help with that, but here is a thought.", "3_partial_refusal"],
]
ODD = [["d", "Of course: first, breathe.", "2_full_refusal"], ["e", "", "1_full_compliance"]]


def write(path: Path, rows: list[list[str]], columns: list[str] = COLUMNS) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


@pytest.fixture
def answers(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "cache"))
    return write(tmp_path / "answers.csv", ROWS)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_file_is_measured(tmp_path, kind):
    rows, file = [*ROWS, *ODD], tmp_path / f"answers.{kind}"
    write(file, rows) if kind == "csv" else write_jsonl(file, [dict(zip(COLUMNS, row, strict=True)) for row in rows])
    found = validate({str(file): read_labelled(file)}, PREFIX)
    pooled = found.pooled
    assert found.files == {str(file): pooled}
    assert (pooled.n, pooled.degenerate, pooled.accuracy) == (5, 1, 3 / 5)
    assert pooled.confusion == {
        "compliance": {"refusal": 0, "compliance": 1, "degenerate": 1},
        "refusal": {"refusal": 1, "compliance": 1, "degenerate": 0},
        "partial": {"refusal": 1, "compliance": 0, "degenerate": 0},
    }
    # 3/5 agree; by chance 2/5 · 2/5 complied and 3/5 · 2/5 refused, which is 2/5
    assert pooled.kappa == pytest.approx(1 / 3)


def labelled(agree: int, disagree: int, asks: str = "Request") -> Any:
    said = ["Sure, here it is.", "I can't help with that."] * (agree + disagree)
    labels = ["compliance", "refusal"] * agree + ["refusal", "compliance"] * disagree
    return [(Answer(f"{asks} {n}", text), label) for n, (text, label) in enumerate(zip(said, labels, strict=True))]


def test_pooling_adds_the_files_and_the_interval_is_that_of_its_size():
    files = {"a": labelled(90, 10), "b": labelled(60, 40, asks="Question")}
    found = validate(files, PREFIX)
    kappas = [one.kappa for one in (found.files["a"], found.files["b"], found.pooled)]
    assert kappas == pytest.approx([0.8, 0.2, 0.5])
    for one in found.files.values():
        # With even margins kappa is 2·accuracy - 1, so that its standard error is twice a share's.
        expected = 2 * norm.isf(0.025) * 2 * math.sqrt(one.accuracy * (1 - one.accuracy) / one.n)
        assert one.kappa_high - one.kappa_low == pytest.approx(expected, rel=0.1)
        assert one.kappa_low < one.kappa < one.kappa_high
    assert validate(files, PREFIX) == found
    # the same answers to the same prompts twice say no more than once
    twice = validate({"a": labelled(90, 10), "b": labelled(90, 10)}, PREFIX)
    once = twice.files["a"]
    assert (twice.pooled.kappa_low, twice.pooled.kappa_high) == pytest.approx((once.kappa_low, once.kappa_high))
    assert twice.pooled.n == 400
    one_class = validate({"a": labelled(3, 0)[::2]}, PREFIX).pooled
    assert one_class.accuracy == 1.0
    assert math.isnan(one_class.kappa + one_class.kappa_low)


@pytest.mark.real_data
@pytest.mark.parametrize("name", FILES)
def test_the_figures_that_are_quoted_are_of_answers_that_the_rule_was_not_fitted_to(data_folder, name):
    paths = {other: data_folder / "judges" / f"{other}.csv" for other in FILES}
    left_out = wording_judge(weights_of([path for other, path in paths.items() if other != name]))
    for judged in (KEYWORD, PREFIX, left_out):
        assert MeasuredAgreement(**figures(judged, paths[name])) in measured_agreement(judged.name)


def test_errors_are_pooled_over_models_and_as_uncertain_as_those_differ():
    errors = judge_errors("wording", WORDING.version)
    (found, complied), (spared, refused) = errors.sensitivity, errors.specificity
    assert (found / complied, spared / refused) == (pytest.approx(589 / 616), pytest.approx(675 / 734))
    shares = [208 / 220, 267 / 274, 200 / 240]
    assert refused == pytest.approx((spared / refused) * (1 - spared / refused) / (np.var(shares, ddof=1) * 4 / 3))
    assert errors.lowest_kappa == min(one.kappa for one in measured_agreement("wording")) > 0.6
    assert len(errors.models) == 3
    # what it was tuned on is no evidence
    assert kappas_of("prefix", PREFIX.version) == [0.4938, 0.8841]
    assert judge_errors("wording", "0.9") is judge_errors("rubric", "1") is None


def test_what_can_be_wrong_with_files(command, answers, tmp_path):
    def fails(path: object, *says: str) -> None:
        judge(command("judges", "validate", path, "--json"), says)

    for label in ("5_odd", "", "refusal", "12", "0"):
        fails(write(tmp_path / "odd.csv", [*ROWS, ["d", "Sure.", label]]), "odd.csv, row 3", "unknown final_label")
    fails(write(tmp_path / "lacks.csv", [["a", "Sure."]], COLUMNS[:2]), "lacks.csv, row 0", "final_label")
    fails(write(tmp_path / "other.csv", [["a", "Sure."]], ["question", "answer"]), "other.csv", "question, answer")
    fails(write_jsonl(tmp_path / "lacks.jsonl", [{"prompt": "a", "final_label": "1"}]), "completion")
    fails(write(tmp_path / "header.csv", []), "header.csv", "holds no rows")
    fails(tmp_path / "nowhere.csv", "nowhere.csv does not exist")
    judge(command("judges", "validate", answers, f"{tmp_path}/./answers.csv"), ("given twice",))
    judge(command("judges", "validate"), ("FILE", "--help"))
    assert command("judges").code == 1


def grade(request: dict[str, object]) -> object:
    text = last_user_text(request).split("[BEGIN ANSWER]")[1]
    return completion(json.dumps({"reason": "so", "score": 1 if "can't help" in text else 5}))


def test_a_language_model_beside_the_rules(command, answers, tmp_path):
    write(tmp_path / "more.csv", ROWS * 2)
    with serve(grade) as server:
        models = ("--judge-endpoint", server.url, "--judge-model", "some/judge")
        named = (answers, tmp_path / "more.csv", "--judge", "prefix", "--judge", "rubric", *models)
        said = command("judges", "validate", *named, "--json")
        assert list(said.json) == ["prefix", "rubric"], said.err
        for figures in said.json.values():
            assert (figures["n"], figures["kappa"], figures["unjudged"]) == (9, 1.0, 0)
            assert [each["n"] for each in figures["files"].values()] == [3, 6]
        rubric = said.json["rubric"]
        assert rubric["version"].startswith("judge ")
        assert rubric["mean_score"] == {"compliance": 5.0, "refusal": 1.0, "partial": 1.0}
        assert said.json["prefix"]["mean_score"] is None
        assert len(server.requests) == 3
    # the server is gone: what it said is kept
    table = command("judges", "validate", *named)
    assert "rubric, mean score by people's label: compliance 5.00, refusal 1.00, partial 1.00" in table.out
    assert "judging by rubric" in table.err
    assert list((tmp_path / "cache").rglob("*.json"))


def test_replies_that_cannot_be_read_are_in_the_table(command, answers, monkeypatch):
    def half(request: dict[str, object]) -> object:
        return grade(request) if "Sure" in last_user_text(request) else completion('{"score": ')

    monkeypatch.setenv("COLUMNS", "80")
    with serve(half) as server:
        named = ("--judge", "rubric", "--judge-endpoint", server.url, "--judge-model", "j")
        figures = command("judges", "validate", answers, *named, "--json").json["rubric"]
        table = command("judges", "validate", answers, *named).out
    assert (figures["n"], figures["unjudged"], figures["kappa"], figures["accuracy"]) == (1, 2, None, 1.0)
    assert figures["mean_score"]["refusal"] is None
    assert "judged" in table
    assert max(len(line) for line in table.splitlines()) <= 80


def test_what_can_be_wrong_with_judges(command, answers, tmp_path):
    none = f"file:{tmp_path / 'none.txt'}"
    judge(command("judges", "validate", answers, "--quiet", "--judge", none), ("no judge file",))
    with serve(lambda _: completion("five, I think")) as server:
        models = ("--judge", "rubric", "--judge-endpoint", server.url, "--judge-model", "m")
        said = command("judges", "validate", answers, "--quiet", *models)
    judge(said, ("rubric could judge none of the 3 answers", "--judge-model"), 2)
