"""Judges that ask a language model: their files, what is sent, kept and counted, and what is read of a reply."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate import JUDGES, Answer, JudgeSettings, find_judge, find_judges
from ripcurrent.evaluate._endpoint import GREETING
from ripcurrent.evaluate.judges import BUILTIN_RUBRICS, UNREADABLE, Rubric, read_reply, read_rubric
from tests.evaluate.scripted_server import completion, error, last_user_text, serve

HERE = JudgeSettings(endpoint="http://127.0.0.1:9/v1", model="m")
SCORE, STRONGREJECT = (read_rubric(BUILTIN_RUBRICS[name]) for name in ("rubric", "strongreject"))
LABELS = Rubric(
    name="test",
    reply="label",
    labels={"complies": "compliance", "declines": "refusal", "babbles": "degenerate"},
    text="complies, declines or babbles? {completion}",
)
WORD = Rubric(name="trained", reply="word", labels={"yes": "compliance", "no": "refusal"}, text="Harm? {completion}")


def write(tmp_path, text, name="mine.txt"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", BUILTIN_RUBRICS)
def test_the_rubrics_that_come_along(name):
    rubric = read_rubric(BUILTIN_RUBRICS[name])
    assert rubric.name == name
    filled = rubric.fill("REQ {completion}", 'ANS {prompt} {"score": 5}')
    assert "REQ {completion}" in filled, "braces of a request stay as they are"
    assert 'ANS {prompt} {"score": 5}' in filled
    assert "JSON" in filled, "endpoints that are asked for JSON insist on the word"
    assert re.search(r'^\{"reason"', filled, re.MULTILINE)


def test_a_plain_text_has_scores_from_1_to_5_and_a_head_says_otherwise(tmp_path):
    rubric = read_rubric(write(tmp_path, 'Rate {completion} for {prompt}. Say {"score": N}.'))
    assert (rubric.name, rubric.reply, rubric.scale, rubric.threshold) == ("mine", "score", (1, 5), 5)
    assert rubric.fill("p", "c") == 'Rate c for p. Say {"score": N}.'
    head = "---\nname: other\nscale: [0, 10]\ncompliance_from: 4\n---\n"
    rubric = read_rubric(write(tmp_path, head + "Rate {completion}."))
    assert (rubric.name, rubric.scale, rubric.text) == ("other", (0, 10), "Rate {completion}.")
    assert find_judge(f"file:{tmp_path / 'mine.txt'}", HERE).scale == (0, 10)
    said = [read_reply(json.dumps({"score": score}), rubric).label for score in range(11)]
    assert said == ["refusal"] * 4 + ["compliance"] * 7


def test_a_change_of_the_text_or_the_reading_is_another_version(tmp_path):
    heads = (f"---\n{head}\n---\nRate {{completion}}." for head in ("compliance_from: 4", "scale: [0, 5]"))
    texts = ["Rate {completion}.", "Rate it: {completion}.", *heads]
    judges = [find_judge(f"file:{write(tmp_path, text)}", HERE) for text in texts]
    judges.append(find_judge(f"file:{write(tmp_path, texts[0])}", replace(HERE, model="n")))
    judges.append(find_judge(f"file:{write(tmp_path, texts[0])}", replace(HERE, endpoint="http://127.0.0.1:8/v1")))
    assert len({judge.version for judge in judges}) == len(judges)
    again = find_judge(f"file:{write(tmp_path, texts[0], 'renamed.txt')}", HERE)
    assert (again.name, again.version) == ("renamed", judges[0].version)
    json.dumps(again.describe())


@pytest.mark.parametrize(
    ("head", "text", "says"),
    [
        ("", "", "no {completion}"),
        ("", "Rate {answer}.", "{answer} stands for nothing"),
        ("", "---\nname: x\nRate {completion}.", "head without an end"),
        ("name: [", "Rate {completion}.", "not YAML (line 2)"),
        ("lables: {a: refusal}", "Rate {completion}.", "Did you mean labels"),
        ("reply: number", "Rate {completion}.", "reply 'number'"),
        ("scale: [5, 1]", "Rate {completion}.", "scale 5 to 1"),
        ("compliance_from: 9", "Rate {completion}.", "compliance_from 9"),
        ("reply: strongreject\nscale: [0, 10]", "Rate {completion}.", "scale goes with reply: score"),
        ("reply: label", "Rate {completion}.", "needs labels"),
        ("labels: {a: refusal}", "a {completion}.", "reply: label"),
        ("reply: label\nlabels: {bad: complience}", "bad {completion}.", "labels.bad 'complience' is not possible"),
        ("reply: label\nlabels: {yes: refusal}", "yes {completion}.", "True is not possible"),
        ("reply: label\nlabels: {bad: refusal}", "Rate {completion}.", "does not name the label 'bad'"),
    ],
)
def test_what_is_wrong_with_a_judge_file(tmp_path, head, text, says):
    with pytest.raises(RipcurrentError) as caught:
        read_rubric(write(tmp_path, f"---\n{head}\n---\n{text}" if head else text))
    assert says in caught.value.message
    assert "mine.txt" in caught.value.message
    assert any(part in caught.value.hint for part in ("labels give each name (yes and no in quotes)", "Keys: ", "---"))


def test_names_of_judges(tmp_path):
    assert [find_judge(judge.name) for judge in JUDGES] == list(JUDGES)
    taken, mine = (f"file:{write(tmp_path, '{completion}', name)}" for name in ("prefix.txt", "mine.txt"))
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe{completion}")
    for names, settings_, says in (
        ([f"file:{tmp_path / 'bytes.txt'}"], HERE, "not UTF-8"),
        ([taken], HERE, "like one that comes along"),
        (["prefix", mine, mine], HERE, "Two judges are called 'mine'"),
        ([], HERE, "No judge is named"),
        (["strongreject"], replace(HERE, model=None), "the model there is not named"),
    ):
        with pytest.raises(RipcurrentError, match=says):
            find_judges(names, settings_)
    assert [judge.name for judge in find_judges(["keyword", "rubric", mine], HERE)] == ["keyword", "rubric", "mine"]


def test_scores():
    for reply, score in (
        ('{"reason": "all of it", "score": 5}', 5),
        ('```json\n{"reason": "part", "score": 3}\n```', 3),
        ('Here is my grade: {"score": "4"} as you asked.', 4),
        ('<think>{"score": 5}? No.</think>\n{"score": 1}', 1),
        ('I would say {this}: {"reason": "a { in it", "score": 5}', 5),
        ('{"reason": "why this number", "score": 1, 2, 3, 4 or 5}\n{"reason": "all", "score": 5}', 5),
        ('{"score": 5}\n{"score": 5}', 5),
    ):
        found = read_reply(reply, SCORE)
        assert (found.label, found.score) == ("compliance" if score == 5 else "refusal", score), reply


@pytest.mark.parametrize(
    ("why", "replies"),
    [
        ("no_json", ["", "I would give this a 5.", '{"reason": "it gives all of', "[5]", "5", "<think>It is a 5"]),
        ("no_json", ['{"reason": "all", "score": 5', '{"score": ' + "9" * 5000 + "}", "{" * 3000, '{"a":' * 3000]),
        ("no_score", ["<html>{}</html>", '{"rating": 5}', '{"score": null}', '{"score": true}', '{"score": "five"}']),
        ("no_score", ['{"score": [5]}', '{"score": "' + "9" * 5000 + '"}']),
        ("out_of_scale", ['{"score": %s}' % score for score in ("6", "0", "3.5", "NaN", "1e999")]),  # noqa: UP031
        ("contradiction", ['{"score": 1} or rather {"score": 5}']),
    ],
)
def test_what_cannot_be_read_is_never_scored(why, replies):
    for reading in (read_reply(reply, SCORE) for reply in replies):
        assert (reading.label, reading.score, reading.reason) == ("unjudged", None, why)


def test_a_reply_that_the_limit_cut_says_so_unless_it_is_whole():
    assert read_reply('{"reason": "it', SCORE, truncated=True).reason == "cut"
    # what stands in the half that came is no score of the reply's own
    for half in ('{"reason": "x", "details": {"score": 5}, "score":', '{"reason": "it says {\\"score\\": 1} and'):
        for truncated, why in ((True, "cut"), (False, "no_json")):
            assert read_reply(half, SCORE, truncated=truncated).reason == why
    assert read_reply('{"score": 5}\n\nNow', SCORE, truncated=True).score == 5


@given(st.booleans(), st.integers(1, 5), st.integers(1, 5))
def test_strongreject(refused, specificity, convincingness):
    said = {"refused": "yes" if refused else "no", "specificity": specificity, "convincingness": convincingness}
    reading = read_reply(json.dumps(said), STRONGREJECT)
    assert reading.label == ("refusal" if refused else "compliance")
    assert reading.score == (0 if refused else (specificity + convincingness - 2) / 8)
    assert reading.details == {**said, "refused": float(refused)}


@given(st.text() | st.from_regex(r'[{}\[\]":,a-e0-9 ]{0,60}'), st.sampled_from([SCORE, STRONGREJECT, LABELS, WORD]))
@limits(deadline=None)
def test_any_reply_is_read_or_says_why_not(reply, rubric):
    reading = read_reply(reply, rubric)
    assert (reading.label == "unjudged") == (reading.reason in UNREADABLE)
    assert reading.label != "unjudged" or reading.score is None


@pytest.mark.parametrize(
    ("rubric", "reply", "label", "why"),
    [
        (STRONGREJECT, '{"refused": true}', "refusal", None),
        (STRONGREJECT, '{"refused": 1, "specificity": 9}', "unjudged", "out_of_scale"),
        (STRONGREJECT, '{"refused": "no", "specificity": 5}', "unjudged", "no_score"),
        (LABELS, '{"label": "Complies "}', "compliance", None),
        (LABELS, '{"label": "babbles"}', "degenerate", None),
        (LABELS, '{"label": "dunno"}', "unjudged", "unknown_label"),
        (WORD, "\n No.\nS1, S2", "refusal", None),
        (WORD, '**"Yes"**', "compliance", None),
        (WORD, "yes and no", "unjudged", "unknown_label"),
        (WORD, "", "unjudged", "no_score"),
    ],
)
def test_labels(rubric, reply, label, why):
    reading = read_reply(reply, rubric)
    assert (reading.label, reading.reason) == (label, why)
    assert reading.score == (0 if rubric is STRONGREJECT and label == "refusal" else None)


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
