"""Judge files: what they may say, and one clear error for what they may not."""

import json
import re
from dataclasses import replace

import pytest

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate.judges import BUILTIN_RUBRICS, JUDGES, find_judge, find_judges, read_rubric
from ripcurrent.evaluate.judges._find import JudgeSettings

HERE = JudgeSettings(endpoint="http://127.0.0.1:9/v1", model="m")


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


def test_a_plain_text_is_a_rubric_with_scores_from_1_to_5(tmp_path):
    rubric = read_rubric(write(tmp_path, 'Rate {completion} for {prompt}. Say {"score": N}.'))
    assert (rubric.name, rubric.reply, rubric.scale, rubric.threshold) == ("mine", "score", (1, 5), 5)
    assert rubric.fill("p", "c") == 'Rate c for p. Say {"score": N}.'


def test_a_head_says_how_replies_are_read(tmp_path):
    head = "---\nname: other\nscale: [0, 3]\ncompliance_from: 2\n---\n"
    rubric = read_rubric(write(tmp_path, head + "Rate {completion}."))
    assert (rubric.name, rubric.scale, rubric.threshold, rubric.text) == ("other", (0, 3), 2, "Rate {completion}.")
    assert find_judge(f"file:{tmp_path / 'mine.txt'}", HERE).scale == (0, 3)


def test_a_change_of_the_text_or_the_reading_is_another_version(tmp_path):
    texts = [
        "Rate {completion}.",
        "Rate it: {completion}.",
        "---\ncompliance_from: 4\n---\nRate {completion}.",
        "---\nscale: [0, 5]\n---\nRate {completion}.",
    ]
    judges = [find_judge(f"file:{write(tmp_path, text)}", HERE) for text in texts]
    judges.append(find_judge(f"file:{write(tmp_path, texts[0])}", replace(HERE, model="n")))
    judges.append(find_judge(f"file:{write(tmp_path, texts[0])}", replace(HERE, endpoint="http://127.0.0.1:8/v1")))
    assert len({judge.version for judge in judges}) == len(judges)
    again = find_judge(f"file:{write(tmp_path, texts[0], 'renamed.txt')}", HERE)
    assert again.version == judges[0].version
    assert again.name == "renamed"
    json.dumps(again.describe())


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("", "has no text", ""),
        ("---\nname: x\n---\n  \n", "has no text", ""),
        ("Rate {prompt}.", "no {completion}", ""),
        ("Rate {answer}.", "{answer}", "{completion}"),
        ("---\nname: x\nRate {completion}.", "head without an end", "---"),
        ("---\nname: [\n---\nRate {completion}.", "not YAML (line 2)", "key: value"),
        ("---\n- a\n---\nRate {completion}.", "no keys and values", ""),
        ("---\nlables: {a: refusal}\n---\nRate {completion}.", "Did you mean labels", "compliance_from"),
        ("---\ntext: x\n---\nRate {completion}.", "no key 'text'", ""),
        ("---\nreply: number\n---\nRate {completion}.", "reply 'number'", "score, label, strongreject"),
        ("---\nscale: [5, 1]\n---\nRate {completion}.", "scale 5 to 1", ""),
        ("---\nscale: 5\n---\nRate {completion}.", "scale 5 is not possible", ""),
        ("---\ncompliance_from: 1\n---\nRate {completion}.", "compliance_from 1", ""),
        ("---\nreply: strongreject\nscale: [0, 10]\n---\nRate {completion}.", "scale goes with reply: score", ""),
        (
            "---\nclassifier: m\ncompliance_from: 3\nlabels: {a: refusal}\n---\n{completion}",
            "compliance_from goes with reply: score",
            "",
        ),
        ("---\ncompliance_from: 9\n---\nRate {completion}.", "compliance_from 9", ""),
        ("---\nreply: label\n---\nRate {completion}.", "needs labels", ""),
        ("---\nlabels: {a: refusal}\n---\na {completion}.", "reply: label", ""),
        (
            "---\nreply: label\nlabels: {bad: complience, good: refusal}\n---\nbad, good {completion}.",
            "unknown label 'complience'. Did you mean compliance?",
            "refusal, compliance, degenerate",
        ),
        ("---\nreply: label\nlabels: {bad: unjudged}\n---\nbad {completion}.", "unknown label 'unjudged'", ""),
        ("---\nreply: label\nlabels: {yes: refusal}\n---\nyes {completion}.", "label True is no text", "quotes"),
        ("---\nreply: label\nlabels: {bad: refusal}\n---\nRate {completion}.", "does not name the label 'bad'", ""),
    ],
)
def test_what_is_wrong_with_a_judge_file(tmp_path, text, says, hint):
    with pytest.raises(RipcurrentError) as caught:
        read_rubric(write(tmp_path, text))
    assert says in caught.value.message
    assert "mine.txt" in caught.value.message
    assert hint in caught.value.hint


def test_no_text_file(tmp_path):
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe{completion}")
    with pytest.raises(RipcurrentError, match="not UTF-8"):
        find_judge(f"file:{tmp_path / 'bytes.txt'}", HERE)


def test_names_of_judges(tmp_path):
    assert [find_judge(judge.name) for judge in JUDGES] == list(JUDGES)
    taken = write(tmp_path, "{completion}", "prefix.txt")
    with pytest.raises(RipcurrentError, match="like one that comes along"):
        find_judge(f"file:{taken}", HERE)
    mine = write(tmp_path, "{completion}")
    with pytest.raises(RipcurrentError, match="Two judges are called 'mine'"):
        find_judges(["prefix", f"file:{mine}", f"file:{mine}"], HERE)
    with pytest.raises(RipcurrentError, match="No judge is named"):
        find_judges([])
    found = find_judges(["keyword", "rubric", f"file:{mine}"], HERE)
    assert [judge.name for judge in found] == ["keyword", "rubric", "mine"]
    with pytest.raises(RipcurrentError, match="the model there is not named"):
        find_judge("strongreject", replace(HERE, model=None))
