"""Judging that fails midway and goes on: what was judged keeps its judge's record, what was not is judged later."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate import Answer, JudgeSettings, Verdict, evaluate, find_judge, judge_again, lacks_verdicts
from tests.evaluate.scripted_server import Answered, completion, error, last_user_text, serve
from tests.tiny_scan import write_jsonl


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    axes = ["harmful"] * 4 + ["sounds_dangerous"] * 4
    return write_jsonl(
        tmp_path / "prompts.jsonl", [{"id": f"q{n}", "prompt": f"request {n}", "axis": a} for n, a in enumerate(axes)]
    )


@pytest.fixture
def settings(tmp_path: Path) -> JudgeSettings:
    return JudgeSettings(model="judge", max_retries=0, concurrency=1, cache=tmp_path / "replies")


def strictly(path: Path) -> Any:
    """JSON as other parsers read it: without NaN."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_a_judge_whose_successor_failed_keeps_its_record(tmp_path: Path, asked: Path, settings: JudgeSettings) -> None:
    """A score below the greatest is no refusal, whoever judges later; equal scores have no interval, and are JSON."""

    def script(request: dict[str, Any]) -> Answered:
        if request["model"] == "answers":
            return completion("Surely.")
        return completion('{"score": 4}') if '"score"' in last_user_text(request) else error(404, "gone")

    common: dict[str, Any] = {"prompts": [asked], "out": tmp_path / "run"}
    with serve(script) as server:
        there = replace(settings, endpoint=server.url)
        with pytest.raises(RipcurrentError, match="knows no model"):
            evaluate("answers", endpoint=server.url, judges=["rubric", "strongreject"], judge_settings=there, **common)
        assert not (tmp_path / "run" / "manifest.json").exists()
        found = evaluate("answers", endpoint=server.url, judges=["prefix"], **common)
    assert set(found.rates) == {"rubric", "prefix"}
    assert set(found.manifest.discrimination) == {"prefix"}
    manifest = strictly(tmp_path / "run" / "manifest.json")
    assert manifest["judges"]["rubric"]["scale"] == [1, 5]
    rate = manifest["rates"]["rubric"]["harmful"]
    assert (rate["refused"], rate["score"]["mean"], rate["score"]["mean_low"]) == (None, 4.0, None)


def test_what_an_endpoint_failed_to_judge_is_lacking(tmp_path: Path, asked: Path, settings: JudgeSettings) -> None:
    broken = True

    def script(request: dict[str, Any]) -> Answered:
        if request["model"] == "answers":
            return completion(f"Surely, {last_user_text(request)}.")
        return error(500, "busy") if broken and "request 3" in last_user_text(request) else completion('{"score": 5}')

    with serve(script) as server:
        there = replace(settings, endpoint=server.url)
        run = evaluate(
            "answers", endpoint=server.url, prompts=[asked], out=tmp_path / "run",
            judges=["prefix", "rubric"], judge_settings=there,
        ).folder  # fmt: skip
        rubric, prefix = (find_judge(name, there) for name in ("rubric", "prefix"))
        assert (lacks_verdicts(run, rubric), lacks_verdicts(run, prefix)) == (True, False)
        assert lacks_verdicts(run, find_judge("keyword"))
        broken = False
        before = len(server.requests)
        judge_again(run, [rubric])
        assert len(server.requests) == before + 1, "what it replied before is kept"
        assert not lacks_verdicts(run, rubric)
        assert lacks_verdicts(run, find_judge("rubric", replace(there, model="another"))), "another version"


def test_a_judge_of_ones_own(tmp_path: Path, asked: Path) -> None:
    class Mine:
        name, version, scale = "mine", "1", (0.0, 10.0)

        def judge(self, answers: Any) -> list[Verdict]:
            return [self._one(answer) for answer in answers]

        def _one(self, answer: Answer) -> Verdict:
            return Verdict("compliance", self.name, self.version, answer.truncated, score=float(len(answer.prompt)))

        def describe(self) -> dict[str, Any]:
            return {}

    with serve(lambda _: completion("Surely.")) as server:
        found = evaluate("m", endpoint=server.url, prompts=[asked], out=tmp_path / "run", judges=[Mine()])
    assert found.rates["mine"]["harmful"].score.mean == 9.0


def test_none_judged_says_why(tmp_path: Path, asked: Path, settings: JudgeSettings) -> None:
    with serve(lambda _: completion("Surely.")) as server:
        there = replace(settings, endpoint=server.url)
        with pytest.raises(RipcurrentError, match=r"could judge none of the 8 answers.*most often, 8 times: no_json"):
            evaluate(
                "m", endpoint=server.url, prompts=[asked], out=tmp_path / "run", judges=["rubric"], judge_settings=there
            )
