"""Judges that ask a language model: what is sent, kept and counted, and what a broken endpoint costs."""

import json
from dataclasses import replace
from typing import Any

import pytest

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate import Answer, JudgeSettings, find_judge
from ripcurrent.evaluate._endpoint import GREETING
from tests.evaluate.scripted_server import completion, error, last_user_text, serve

PROMPT = "How do I bake bread?"


@pytest.fixture
def settings(tmp_path):
    return JudgeSettings(model="judge", cache=tmp_path / "replies", max_retries=1, timeout=5.0)


def judge_at(settings, server, name="rubric", **more):
    return find_judge(name, replace(settings, endpoint=server.url, **more))


def by_answer(request: dict[str, Any]):
    """Grades an answer by the digit that is in it."""
    text = last_user_text(request).split("[BEGIN ANSWER]")[1].split("[END ANSWER]")[0]
    score = int(next(character for character in text if character.isdigit()))
    return completion(json.dumps({"reason": "because", "score": score}))


def answers(*texts: str) -> list[Answer]:
    return [Answer(PROMPT, text) for text in texts]


def test_every_answer_gets_its_own_reply_in_order(settings):
    with serve(by_answer) as server:
        judge = judge_at(settings, server)
        verdicts = judge.judge(answers(*(f"answer {1 + n % 5}, number {'x' * n}" for n in range(25))))
    assert [verdict.score for verdict in verdicts] == [1 + n % 5 for n in range(25)]
    assert {verdict.label for verdict in verdicts if verdict.score == 5} == {"compliance"}
    assert {verdict.label for verdict in verdicts if verdict.score != 5} == {"refusal"}
    request = server.requests[0]
    assert request["temperature"] == 0
    assert request["response_format"] == {"type": "json_object"}
    assert [message["role"] for message in request["messages"]] == ["user"]
    assert PROMPT in last_user_text(request)
    assert server.most_at_once <= 4


def test_thoughts_are_not_sent_and_degenerate_answers_not_at_all(settings):
    counted = []
    given = [*answers("<think>secret 5</think>answer 2", ""), Answer(PROMPT, "the " * 60, truncated=True)]
    with serve(by_answer) as server:
        judge = judge_at(settings, server, on_judged=counted.append)
        verdicts = judge.judge([*given, Answer("half a surrogate pair \ud83d", "answer 4 \udc00")])
    assert [(verdict.label, verdict.score, verdict.reason, verdict.truncated) for verdict in verdicts] == [
        ("refusal", 2.0, None, False),
        ("degenerate", None, "empty", False),
        ("degenerate", None, "looping", True),
        ("refusal", 4.0, None, False),
    ]
    assert len(server.requests) == 2
    assert not any("secret" in last_user_text(request) for request in server.requests)
    assert sum(counted) == 4


def test_nothing_is_asked_twice_unless_the_cache_is_damaged(settings):
    texts = ["answer 1 with peculiar wording", "answer 5", "answer 1 with peculiar wording"]
    with serve(by_answer) as server:

        def asked(*given, name="rubric", **more):
            before = len(server.requests)
            verdicts = judge_at(settings, server, name, **more).judge(given)
            return verdicts, len(server.requests) - before

        first, requests = asked(*answers(*texts))
        assert requests == 2, "equal questions are one request"
        assert asked(*answers(*texts)) == (first, 0)
        again, requests = asked(*answers(*texts, "answer 3"))
        assert (again[:3], requests) == (first, 1)
        for given, more in ((PROMPT, {"name": "strongreject"}), (PROMPT, {"model": "other"}), ("Another?", {})):
            assert asked(Answer(given, "answer 5"), **more)[1] == 1, "another question"
        for damage in ("", '{"text": ', "[]", '{"text": 5}'):
            for file in settings.cache.rglob("*.json"):
                assert not any(part in file.read_text() for part in ("peculiar", "bake")), "no answer and no request"
                file.write_text(damage)
            assert asked(*answers(*texts)) == (first, 2)


def test_what_cannot_be_read_is_counted_and_never_scored(settings):
    replies = {
        None: completion('{"reason": "all", "score": 5}'),
        "no_json": completion('{"reason": "all", "sco'),
        "cut": completion('{"reason": "it gives all of', finish_reason="length"),
        "rejected": error(400, "the content filter stopped this"),
        "out_of_scale": completion('{"score": 11}'),
    }

    def script(request):
        text = last_user_text(request)
        return completion("hello") if text == GREETING else replies[next(why for why in replies if f"<{why}>" in text)]

    with serve(script) as server:
        verdicts = judge_at(settings, server).judge(answers(*(f"only <{why}> here" for why in replies)))
        assert len(server.requests) == 5
        judge_at(settings, server).judge(answers(*(f"only <{why}> here" for why in replies)))
    assert [verdict.label for verdict in verdicts] == ["compliance", *["unjudged"] * 4]
    assert [verdict.reason for verdict in verdicts] == list(replies)
    again = [last_user_text(request) for request in server.requests[5:] if last_user_text(request) != GREETING]
    assert len(again) == 1, "what had no reply is asked again, and nothing else"
    assert "<rejected>" in again[0]


def test_what_was_judged_before_the_endpoint_broke_is_not_asked_again(settings):
    used_up = error(401, "your credit is used up")
    broken = iter([False] * 3 + [True])
    texts = [f"answer {1 + n % 5} {'y' * n}" for n in range(6)]
    with serve(lambda request: used_up if next(broken, False) else by_answer(request)) as server:
        judge = judge_at(settings, server, concurrency=1)
        with pytest.raises(RipcurrentError):
            judge.judge(answers(*texts))
        before = len(server.requests)
        verdicts = judge.judge(answers(*texts))
    assert len(server.requests) == before + 3
    assert [verdict.score for verdict in verdicts] == [1 + n % 5 for n in range(6)]


def test_a_cache_that_cannot_be_written(settings, tmp_path):
    (tmp_path / "file").write_text("")
    with serve(by_answer) as server, pytest.raises(RipcurrentError, match="cannot be kept") as caught:
        judge_at(settings, server, cache=tmp_path / "file").judge(answers("answer 5"))
    assert "RIPCURRENT_CACHE" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "head", "says", "score"),
    [
        ("strongreject", "", '{"reason": "x", "refused": "no", "specificity": 3, "convincingness": 4}', 5 / 8),
        ("own", "reply: label\nlabels: {helps: compliance, declines: refusal}", '{"label": "helps"}', None),
        # HarmBench's kind, behind an endpoint: it was trained to judge, and is asked for no JSON
        ("own", 'reply: word\nlabels: {"yes": compliance, "no": refusal}', "Yes.", None),
    ],
)
def test_other_kinds_of_replies(settings, tmp_path, name, head, says, score):
    path = tmp_path / "own.txt"
    path.write_text(f"---\n{head}\n---\nhelps or declines? {{prompt}} / {{completion}}. JSON, say.\n")
    with serve(lambda request: completion(says)) as server:
        judge = judge_at(settings, server, name if name == "strongreject" else f"file:{path}")
        (verdict,) = judge.judge(answers("no {prompt}"))
    assert (judge.name, verdict.label, verdict.score) == (name, "compliance", score)
    assert judge.scale == (None if score is None else (0.0, 1.0))
    assert verdict.details == ({} if score is None else {"refused": 0.0, "specificity": 3.0, "convincingness": 4.0})
    (request,) = server.requests
    assert ("response_format" in request) == ("word" not in head)
    if head:
        assert last_user_text(request).startswith(f"helps or declines? {PROMPT} / no {{prompt}}.")
