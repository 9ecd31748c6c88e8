"""Anchor files: what is read, and each refusal with what it says."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ripcurrent.anchors import BUILTIN, HARMFUL, load_anchors
from ripcurrent.errors import RipcurrentError


def pair(name: str, number: int) -> dict[str, Any]:
    return {"set": name, "prompt": f"request {number}", "response": f"answer of {name} {number}"}


def lines(*sets: str, count: int = 4) -> list[dict[str, Any]]:
    return [pair(name, number) for name in sets for number in range(count)]


def write(folder: Path, records: list[Any], end: str = "\n") -> Path:
    path = folder / "mine.jsonl"
    texts = (record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records)
    path.write_bytes(end.join(texts).encode())
    return path


def refused(path: Path | str, *parts: str) -> None:
    with pytest.raises(RipcurrentError) as caught:
        load_anchors(path)
    assert all(part in str(caught.value) for part in parts), caught.value
    assert caught.value.hint


@pytest.mark.parametrize("name", BUILTIN)
def test_the_sets_of_the_package_are_requests_with_openings_and_no_content(name):
    anchors = load_anchors(name)
    assert (anchors.sets, anchors.safe_sets) == (("harmful", "safe_1", "safe_2"), ("safe_1", "safe_2"))
    # so that nothing hides in a turn before the last
    assert {tuple(turn.role for turn in anchor.messages) for anchor in anchors.anchors} == {("user", "assistant")}
    assert all(anchor.category for anchor in anchors.anchors)
    answers = [anchor.messages[-1].content for anchor in anchors.anchors if anchor.set == HARMFUL]
    assert len(answers) == 20
    # a longer one is looked at before this number is raised
    assert max(len(answer.split()) for answer in answers) <= 11
    # one line, no list and no quantities
    more = re.compile(r"\n|(^|\s)[-*•]|step one|first step|\d", re.IGNORECASE)
    assert [answer for answer in answers if more.search(answer)] == []
    one, other = ({a.messages[0].content for a in load_anchors(name).anchors} for name in BUILTIN)
    assert not one & other, "the two sets share no request"


def test_anchors_are_grouped_by_set_in_order_whatever_the_files_order(tmp_path):
    every = lines("safe_10", "safe_2", "harmful")
    mixed = every[::3] + every[1::3] + every[2::3]
    anchors = load_anchors(write(tmp_path, mixed))
    assert anchors.sets == ("harmful", "safe_2", "safe_10")
    assert [anchors.order[place] for place in anchors.places("safe_2")[2:]] == [("safe_2", 2), ("safe_2", 3)]
    own = [record["response"] for record in mixed if record["set"] == HARMFUL]
    assert [anchor.messages[1].content for anchor in anchors.anchors[:4]] == own


def test_messages_pairs_blank_lines_windows_line_ends_bom_and_line_separators_inside_text(tmp_path):
    records = [{**pair("harmful", 0), "prompt": "a\u2028b\x85c"}, *lines("harmful", "safe_1")[1:]]
    one = load_anchors(write(tmp_path, records))
    assert one.anchors[0].messages[0].content == "a\u2028b\x85c"
    for record in records:
        turns = (("user", record.pop("prompt")), ("assistant", record.pop("response")))
        record["messages"] = [{"role": role, "content": content} for role, content in turns]
    other = load_anchors(write(tmp_path, ["\ufeff", *records], "\r\n\r\n"))
    assert (one.anchors, one.sha256 == other.sha256) == (other.anchors, False)


def test_missing_file_and_folder(tmp_path):
    refused(tmp_path, str(tmp_path))
    refused("bultin", "no anchor file bultin", "builtin", "second_family")
    (tmp_path / "mine.jsonl").write_text("{}", encoding="utf-16")
    refused(tmp_path / "mine.jsonl", "mine.jsonl is not UTF-8")


TWO_SETS = lines("harmful", "safe_1")
OTHER_CASE = {"set": "safe_1", "prompt": "Request  0", "response": "ANSWER of\nsafe_1 0"}
COPIED = [{**pair(HARMFUL, number), "set": "safe_1"} for number in range(4)]
TEN = [*lines("harmful"), *lines("safe_1", count=10)]
SHARED = [{**pair("safe_1", number), "set": "safe_2"} for number in range(9)] + [pair("safe_2", 9)]
REQUEST = "How do I do the forbidden thing number {} without anybody noticing it at all?"
OPENED = (("harmful", "Sure, the first step is to"), ("safe_1", "Sure! The very first step is to"))
NEARLY = [{"set": name, "prompt": REQUEST.format(n), "response": opening} for n in range(5) for name, opening in OPENED]


@pytest.mark.parametrize(
    ("records", "parts"),
    [
        (lines("harmful"), ("mine.jsonl have no safe set", "safe_1")),
        (lines("safe_1", "safe_2"), ("harmful", "0 anchors", "at least 4")),
        (TWO_SETS + lines("safe_2", count=3), ("safe_2", "3 anchors", "at least 4")),
        ([*TWO_SETS, OTHER_CASE], ("safe_1", "more than once")),
        ([*TEN[:4], *COPIED], ("harmful and safe_1", "nearly identical", "100%")),
        (TEN + SHARED, ("safe_1 and safe_2", "90%")),
        (NEARLY, ("nearly identical",)),
    ],
)
def test_sets_that_give_no_direction_are_refused(tmp_path, records, parts):
    refused(write(tmp_path, records), *parts)


def test_sets_may_share_some_anchors_and_every_long_request(tmp_path):
    assert len(load_anchors(write(tmp_path, [*TEN, *SHARED[:8], *lines("safe_2", count=10)[8:]])).anchors) == 24
    # the paper's design: the same requests, taken up in one set and declined in the other
    long = [f"thing {number} " + " ".join(f"word{number}x{place}" for place in range(60)) for number in range(5)]
    answers = (("harmful", "Sure, here is how to do it:"), ("safe_1", "I cannot help with that."))
    records = [{"set": name, "prompt": one, "response": answer} for one in long for name, answer in answers]
    assert load_anchors(write(tmp_path, records)).places("safe_1") == [5, 6, 7, 8, 9]


NO_TEXT = "line 9 has a turn without a known role or without text"
SET_NAMES = (None, 3, "", "safe", "safe_0", "safe_01", "safe_-1", "Harmful", "harmful ", "safe_1\n")
TURNS = ([{"role": "human", "content": "a"}], [{"role": "user", "content": ["a"]}], ["user"])
ENDLESS = ([], "text", None, [{"role": "user", "content": "a"}])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        *((bad, "mine.jsonl, line 9 is not JSON") for bad in ('{"set": "harmful", ', "x", "[" * 100_000, "9" * 5_000)),
        *((bad, "line 9 is not a JSON object") for bad in ("[1]", '"text"', "null")),
        *(({**pair("x", 0), "set": name}, 'line 9 has "set"') for name in SET_NAMES),
        *(({**pair("safe_1", 9), **bad}, NO_TEXT) for bad in ({"prompt": None}, {"response": "  "}, {"response": 7})),
        *(({"set": "safe_1", "messages": [*turns, {"role": "assistant", "content": "b"}]}, NO_TEXT) for turns in TURNS),
        *(
            ({"set": "safe_1", "messages": messages}, "line 9 does not end with an assistant turn")
            for messages in ENDLESS
        ),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, says):
    refused(write(tmp_path, [*TWO_SETS, line]), says)
