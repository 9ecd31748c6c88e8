"""Judges measured against people: κ against a loop and a published table, the reader's complaints, the real files."""

import csv
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate import validate_judges
from ripcurrent.evaluate._agree import kappa
from ripcurrent.evaluate._validate import read_labelled, validate
from ripcurrent.evaluate.judges import PREFIX, Answer
from tests.tiny_scan import write_jsonl

ROWS = [
    {"prompt": "a", "completion": "Sure, here it is.", "final_label": "1_full_compliance"},
    {"prompt": "b", "completion": "I can't help with that.", "final_label": "2_full_refusal"},
    {"prompt": "c", "completion": "I can't help with that, but here is a thought.", "final_label": "3_partial_refusal"},
    {"prompt": "d", "completion": "Of course: first, breathe.", "final_label": "2_full_refusal"},
    {"prompt": "e", "completion": "", "final_label": "1_full_compliance"},
]


def write_csv(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def loop_kappa(people, judge):
    n = len(people)
    observed = sum(a == b for a, b in zip(people, judge, strict=True)) / n
    chance = sum(people.count(name) / n * judge.count(name) / n for name in {*people, *judge})
    return (observed - chance) / (1 - chance) if chance < 1 else math.nan


def measured(people, judge):
    numbers = (["abc".index(one) for one in said] for said in (people, judge))
    return kappa(*numbers, 3, [str(n) for n in range(len(people))])[0]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=40))
@settings(deadline=None)
def test_kappa_by_its_definition(pairs):
    people, judge = zip(*pairs, strict=True)
    assert measured(people, judge) == pytest.approx(loop_kappa(people, judge), abs=1e-12, nan_ok=True)


def test_kappa_worked_by_hand():
    """20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no: observed 0.7, by chance 0.5·0.6 + 0.5·0.4 = 0.5, κ 0.4."""
    assert measured("a" * 25 + "b" * 25, "a" * 20 + "b" * 5 + "a" * 10 + "b" * 15) == pytest.approx(0.4)


@pytest.mark.parametrize("write", [write_csv, write_jsonl])
def test_a_file_is_measured(tmp_path, write):
    file = write(tmp_path / ("answers.csv" if write is write_csv else "answers.jsonl"), ROWS)
    validation = validate({str(file): read_labelled(file)}, PREFIX)
    pooled = validation.pooled
    assert validation.files == {str(file): pooled}
    assert pooled.n == 5
    assert pooled.confusion == {
        "compliance": {"refusal": 0, "compliance": 1, "degenerate": 1},
        "refusal": {"refusal": 1, "compliance": 1, "degenerate": 0},
        "partial": {"refusal": 1, "compliance": 0, "degenerate": 0},
    }
    assert pooled.degenerate == 1
    assert pooled.accuracy == pytest.approx(3 / 5)
    people = ["compliance", "refusal", "refusal", "refusal", "compliance"]
    judge = ["compliance", "refusal", "refusal", "compliance", "degenerate"]
    assert pooled.kappa == pytest.approx(loop_kappa(people, judge))


def labelled(agree, disagree, asks="Request"):
    said = ["Sure, here it is.", "I can't help with that."] * (agree + disagree)
    answers = [Answer(f"{asks} {n}", text) for n, text in enumerate(said)]
    labels = ["compliance", "refusal"] * agree + ["refusal", "compliance"] * disagree
    return list(zip(answers, labels, strict=True))


def test_pooling_adds_the_files_and_the_interval_is_that_of_its_size():
    files = {"a": labelled(90, 10), "b": labelled(60, 40, asks="Question")}
    validation = validate(files, PREFIX)
    assert [agreement.n for agreement in validation.files.values()] == [200, 200]
    assert validation.files["a"].kappa == pytest.approx(0.8)
    assert validation.files["b"].kappa == pytest.approx(0.2)
    assert validation.pooled.kappa == pytest.approx(0.5)
    for agreement in validation.files.values():
        share = agreement.accuracy
        # With even margins kappa is 2·accuracy - 1, so that its standard error is twice a share's.
        error = 2 * math.sqrt(share * (1 - share) / agreement.n)
        width = agreement.kappa_high - agreement.kappa_low
        assert width == pytest.approx(2 * norm.isf(0.025) * error, rel=0.1)
        assert agreement.kappa_low < agreement.kappa < agreement.kappa_high
    assert validate(files, PREFIX) == validation


def test_answers_to_one_prompt_are_drawn_together():
    """The same answers twice say no more than once, where they are to the same prompts."""
    twice = validate({"a": labelled(90, 10), "b": labelled(90, 10)}, PREFIX)
    assert (twice.pooled.kappa_low, twice.pooled.kappa_high) == pytest.approx(
        (twice.files["a"].kappa_low, twice.files["a"].kappa_high)
    )
    assert twice.pooled.n == 400


def test_one_class_alone_has_no_kappa(tmp_path):
    file = write_csv(tmp_path / "one.csv", ROWS[:1] * 3)
    validation = validate({str(file): read_labelled(file)}, PREFIX)
    assert validation.pooled.accuracy == 1.0
    assert np.isnan([validation.pooled.kappa, validation.pooled.kappa_low]).all()


@pytest.mark.parametrize("label", ["4_other", "", "refusal", "12", "0"])
def test_unknown_labels(tmp_path, label):
    file = write_csv(tmp_path / "answers.csv", [*ROWS, {**ROWS[0], "final_label": label}])
    with pytest.raises(RipcurrentError, match=r"answers\.csv, row 5: unknown final_label") as caught:
        read_labelled(file)
    assert "2 (refusal)" in caught.value.hint


@pytest.mark.parametrize("column", ["prompt", "completion", "final_label"])
@pytest.mark.parametrize("write", [write_csv, write_jsonl])
def test_a_missing_column(tmp_path, write, column):
    rows = [{key: value for key, value in row.items() if key != column} for row in ROWS]
    file = write(tmp_path / ("answers.csv" if write is write_csv else "answers.jsonl"), rows)
    with pytest.raises(RipcurrentError, match=f"no (column ')?{column}"):
        read_labelled(file)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["xstest_llama2new.csv", "xstest_gpt4.csv"])
def test_the_bar_of_the_prefix_judge(data_folder, name):
    keyword, prefix = validate_judges([data_folder / "judges" / name])
    assert prefix.judge == "prefix"
    assert prefix.pooled.n == 450
    assert prefix.pooled.kappa >= 0.80
    assert prefix.pooled.degenerate == keyword.pooled.degenerate == 0
