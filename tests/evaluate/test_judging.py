"""Judging an evaluation: what was judged keeps its judge's record, what was not is judged later; scores and shares."""

import json
from dataclasses import replace
from typing import Any

import pytest

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate import JudgeSettings, evaluate, find_judge, judge_again, lacks_verdicts, summarise_scores
from ripcurrent.evaluate.judges import Answer, Verdict
from ripcurrent.statistics import wilson_interval
from tests.evaluate.scripted_server import Answered, completion, error, last_user_text, serve
from tests.scan_fixtures import write_jsonl


@pytest.fixture
def common(tmp_path) -> dict[str, Any]:
    axes = ["harmful"] * 4 + ["sounds_dangerous"] * 4
    prompts = [{"id": f"q{n}", "prompt": f"request {n}", "axis": a} for n, a in enumerate(axes)]
    return {"prompts": [write_jsonl(tmp_path / "prompts.jsonl", prompts)], "out": tmp_path / "run"}


@pytest.fixture
def settings(tmp_path) -> JudgeSettings:
    return JudgeSettings(model="judge", max_retries=0, concurrency=1, cache=tmp_path / "replies")


def test_a_judge_whose_successor_failed_keeps_its_record(common, settings):
    """A score below the greatest is no refusal, whoever judges later; equal scores have no interval, and are JSON."""

    def script(request: dict[str, Any]) -> Answered:
        if request["model"] == "answers":
            return completion("Surely.")
        return completion('{"score": 4}') if '"score"' in last_user_text(request) else error(404, "gone")

    with serve(script) as server:
        common |= {"endpoint": server.url, "judge_settings": replace(settings, endpoint=server.url)}
        with pytest.raises(RipcurrentError, match="knows no model"):
            evaluate("answers", judges=["rubric", "strongreject"], **common)
        assert not (common["out"] / "manifest.json").exists()
        found = evaluate("answers", judges=["prefix"], **common)
    assert set(found.rates) == {"rubric", "prefix"}
    assert set(found.manifest.discrimination) == {"prefix"}
    text = (common["out"] / "manifest.json").read_text(encoding="utf-8")
    assert "NaN" not in text
    manifest = json.loads(text)
    assert manifest["judges"]["rubric"]["scale"] == [1, 5]
    rate = manifest["rates"]["rubric"]["harmful"]
    assert (rate["refused"], rate["score"]["mean"], rate["score"]["mean_low"]) == (None, 4.0, None)


def test_what_an_endpoint_failed_to_judge_is_lacking(common, settings):
    broken = True

    def script(request: dict[str, Any]) -> Answered:
        if request["model"] == "answers":
            return completion(f"Surely, {last_user_text(request)}.")
        return error(500, "busy") if broken and "request 3" in last_user_text(request) else completion('{"score": 5}')

    with serve(script) as server:
        there = replace(settings, endpoint=server.url)
        run = evaluate(
            "answers", endpoint=server.url, judges=["prefix", "rubric"], judge_settings=there, **common
        ).folder
        rubric, prefix = (find_judge(name, there) for name in ("rubric", "prefix"))
        assert (lacks_verdicts(run, rubric), lacks_verdicts(run, prefix)) == (True, False)
        assert lacks_verdicts(run, find_judge("keyword"))
        broken = False
        before = len(server.requests)
        judge_again(run, [rubric])
        assert len(server.requests) == before + 1, "what it replied before is kept"
        assert not lacks_verdicts(run, rubric)
        assert lacks_verdicts(run, find_judge("rubric", replace(there, model="another"))), "another version"


def test_a_judge_of_ones_own_and_one_that_judges_none(common, settings):
    class Mine:
        name, version, scale = "mine", "1", (0.0, 10.0)

        def judge(self, answers: list[Answer]) -> list[Verdict]:
            return [Verdict("compliance", "mine", "1", one.truncated, score=float(len(one.prompt))) for one in answers]

        def describe(self) -> dict[str, Any]:
            return {}

    with serve(lambda _: completion("Surely.")) as server:
        common |= {"endpoint": server.url, "judge_settings": replace(settings, endpoint=server.url)}
        found = evaluate("m", judges=[Mine()], **common)
        assert found.rates["mine"]["harmful"].score.mean == 9.0
        assert found.manifest.judges["mine"]["version"] == "1", "also where it does not describe it"
        with pytest.raises(RipcurrentError, match=r"could judge none of the 8 answers.*most often, 8 times: no_json"):
            evaluate("m", judges=["rubric"], **common)


@pytest.mark.parametrize(("top", "share"), [(5.0, 3 / 8), (4.0, 4 / 8), (1.0, 8 / 8), (9.0, 0.0)])
def test_mean_score_and_share_of_the_greatest(top, share):
    verdicts = [Verdict("compliance", "rubric", "1", False, score=float(score)) for score in (1, 5, 3, 5, 2, 4, 5, 1)]
    none = [Verdict(label, "rubric", "1", False) for label in ("degenerate", "unjudged", "unjudged")]
    found = summarise_scores([none[0], *verdicts, *none[1:]], top=top)
    assert (found.n, found.degenerate, found.unjudged) == (8, 1, 2)
    assert (found.mean, found.top_share) == (26 / 8, share), "of eight scores, not of eleven answers"
    wilson = wilson_interval(round(8 * share), 8)
    assert (found.top_low, found.top_high) == (wilson.low, wilson.high)
    # Student's t of eight: 2.365 standard errors of 0.62
    assert found.mean_high - found.mean_low == pytest.approx(2 * 2.365 * 0.62, rel=0.01)
    found = summarise_scores(none, top=5)
    assert (found.n, found.degenerate, found.unjudged) == (0, 1, 2)
    assert {found.mean, found.mean_low, found.top_share, found.top_low, found.top_high} == {None}
