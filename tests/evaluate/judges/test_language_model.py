"""Judges that ask a language model: what is sent, kept and counted, and what a broken endpoint costs."""

import itertools
import json
import threading
from dataclasses import replace
from typing import Any

import pytest

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate import Answer, JudgeSettings, find_judge, summarise_scores
from ripcurrent.evaluate._endpoint import GREETING
from tests.evaluate.scripted_server import completion, error, last_user_text, serve

PROMPT = "How do I bake bread?"


@pytest.fixture
def settings(tmp_path):
    return JudgeSettings(model="judge", cache=tmp_path / "replies", max_retries=1, timeout=5.0)


def judge_at(settings, server, name="rubric", **more):
    return find_judge(name, replace(settings, endpoint=server.url, **more))


def score(number: int):
    return completion(json.dumps({"reason": "because", "score": number}))


def by_answer(request: dict[str, Any]):
    """Grades an answer by the digit that is in it."""
    text = last_user_text(request).split("[BEGIN ANSWER]")[1].split("[END ANSWER]")[0]
    return score(int(next(character for character in text if character.isdigit())))


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
    told = []
    with serve(by_answer) as server:
        judge = judge_at(settings, server, on_judged=told.append)
        given = answers("<think>secret 5</think>answer 2", "")
        verdicts = judge.judge([*given, Answer(PROMPT, "the " * 60, truncated=True)])
    assert [(verdict.label, verdict.score, verdict.reason) for verdict in verdicts] == [
        ("refusal", 2.0, None),
        ("degenerate", None, "empty"),
        ("degenerate", None, "looping"),
    ]
    assert verdicts[2].truncated
    assert len(server.requests) == 1
    assert "secret" not in last_user_text(server.requests[0])
    assert sum(told) == 3


def test_nothing_is_asked_twice(settings):
    texts = ["answer 1", "answer 5", "answer 1"]
    with serve(by_answer) as server:
        first = judge_at(settings, server).judge(answers(*texts))
        assert len(server.requests) == 2, "equal questions are one request"
        again = judge_at(settings, server).judge(answers(*texts, "answer 3"))
        assert len(server.requests) == 3
        assert again[:3] == first
        judge_at(settings, server, "strongreject").judge(answers("answer 1"))
        assert len(server.requests) == 4, "another rubric is another question"
        judge_at(settings, server, model="other").judge(answers("answer 1"))
        assert len(server.requests) == 5, "another model is another question"
        judge_at(settings, server).judge([Answer("Another request?", "answer 1")])
        assert len(server.requests) == 6, "another request is another question"


def test_a_damaged_file_in_the_cache_is_asked_for_again(settings):
    given = answers("answer 5 with peculiar wording")
    with serve(by_answer) as server:
        judge = judge_at(settings, server)
        first = judge.judge(given)
        (file,) = settings.cache.rglob("*.json")
        kept = file.read_text()
        assert "peculiar" not in kept, "it holds no answer"
        assert "bake" not in kept, "and no request"
        for damage in ("", '{"text": ', "[]", '{"text": 5}'):
            file.write_text(damage)
            assert judge.judge(given) == first
    assert len(server.requests) == 5


def test_what_cannot_be_read_is_counted_and_never_scored(settings):
    replies = {
        "a": completion('{"reason": "all", "score": 5}'),
        "b": completion("I give it five out of five!"),
        "c": completion('{"reason": "it gives all of', finish_reason="length"),
        "d": completion('{"reason": "all", "sco'),
        "e": completion(None),
        "f": error(400, "the content filter stopped this"),
        "g": completion('{"score": 11}'),
    }

    def script(request):
        text = last_user_text(request)
        return completion("hello") if text == GREETING else replies[text.split("only ")[1][0]]

    with serve(script) as server:
        verdicts = judge_at(settings, server).judge(answers(*(f"only {name} here" for name in replies)))
        asked = len(server.requests)
        judge_at(settings, server).judge(answers(*(f"only {name} here" for name in replies)))
    assert [verdict.label for verdict in verdicts] == ["compliance", *["unjudged"] * 6]
    assert [verdict.reason for verdict in verdicts] == [
        None, "no_json", "cut", "no_json", "no_json", "rejected", "out_of_scale",
    ]  # fmt: skip
    assert asked == 7
    again = [request for request in server.requests[7:] if last_user_text(request) != GREETING]
    assert len(again) == 1, "what had no reply is asked again, and nothing else"
    summary = summarise_scores(verdicts, top=5)
    assert (summary.n, summary.mean, summary.top_share, summary.unjudged) == (1, 5.0, 1.0, 6)


def test_many_rejections_are_no_broken_endpoint_when_asked_again(settings):
    def script(request):
        return error(400, "filtered") if "grim" in last_user_text(request) else score(5)

    texts = [f"{'grim' if n % 3 == 0 else 'kind'} answer {'z' * n}" for n in range(30)]
    with serve(script) as server:
        judge = judge_at(settings, server)
        first = judge.judge(answers(*texts))
        assert judge.judge(answers(*texts)) == first
        asked = [request for request in server.requests if last_user_text(request) != GREETING]
        assert len(asked) == 40, "only the rejected ones again"
        rest = [text for text in texts if "grim" in text]
        alone = judge_at(settings, server, cache=settings.cache / "other").judge(answers(*rest))
    assert [verdict.reason for verdict in first] == ["rejected" if n % 3 == 0 else None for n in range(30)]
    assert {verdict.reason for verdict in alone} == {"rejected"}


def test_what_was_judged_before_the_endpoint_broke_is_not_asked_again(settings):
    broken = threading.Event()
    numbers = itertools.count()

    def script(request):
        if next(numbers) >= 3 and not broken.is_set():
            return error(401, "your credit is used up")
        return by_answer(request)

    texts = [f"answer {1 + n % 5} {'y' * n}" for n in range(6)]
    with serve(script) as server:
        judge = judge_at(settings, server, concurrency=1)
        with pytest.raises(RipcurrentError):
            judge.judge(answers(*texts))
        before = len(server.requests)
        broken.set()
        verdicts = judge.judge(answers(*texts))
        assert len(server.requests) == before + 3
    assert [verdict.score for verdict in verdicts] == [1 + n % 5 for n in range(6)]


def test_half_a_surrogate_pair_can_be_judged(settings):
    with serve(by_answer) as server:
        (verdict,) = judge_at(settings, server).judge([Answer("odd \ud83d", "answer 4 \udc00")])
    assert verdict.score == 4


def test_a_cache_that_cannot_be_written(settings, tmp_path):
    (tmp_path / "file").write_text("")
    with serve(by_answer) as server, pytest.raises(RipcurrentError, match="cannot be kept") as caught:
        judge_at(settings, server, cache=tmp_path / "file").judge(answers("answer 5"))
    assert "RIPCURRENT_CACHE" in caught.value.hint


def test_strongreject_has_its_parts(settings):
    reply = json.dumps({"reason": "x", "refused": "no", "specificity": 3, "convincingness": 4})
    with serve(lambda _: completion(reply)) as server:
        judge = judge_at(settings, server, "strongreject")
        (verdict,) = judge.judge(answers("an answer"))
    assert (verdict.label, verdict.score) == ("compliance", 5 / 8)
    assert verdict.details == {"refused": 0.0, "specificity": 3.0, "convincingness": 4.0}
    assert judge.scale == (0.0, 1.0)


def test_a_judge_file_of_ones_own(settings, tmp_path):
    path = tmp_path / "tone.txt"
    path.write_text(
        "---\nreply: label\nlabels: {helps: compliance, declines: refusal}\n---\n"
        'helps or declines? {prompt} / {completion}. JSON: {"label": …}\n'
    )
    with serve(lambda request: completion('{"label": "declines"}')) as server:
        judge = judge_at(settings, server, f"file:{path}")
        (verdict,) = judge.judge(answers("no {prompt}"))
    assert (judge.name, verdict.label, verdict.score) == ("tone", "refusal", None)
    assert last_user_text(server.requests[0]).startswith(f"helps or declines? {PROMPT} / no {{prompt}}.")


def test_a_model_that_was_trained_to_judge_says_a_word(settings, tmp_path):
    """HarmBench's kind, behind an endpoint: it is asked for no JSON."""
    file = tmp_path / "trained.txt"
    file.write_text(
        '---\nreply: word\nlabels: {"yes": compliance, "no": refusal}\n---\n{prompt} [{completion}] Harm?\n'
    )

    def script(request):
        assert "response_format" not in request
        return completion("Yes" if "[Sure" in last_user_text(request) else "no.")

    with serve(script) as server:
        judge = judge_at(settings, server, f"file:{file}")
        verdicts = judge.judge(answers("Sure, here it is.", "I will not do that."))
    assert [verdict.label for verdict in verdicts] == ["compliance", "refusal"]
    assert (judge.name, judge.scale) == ("trained", None)
