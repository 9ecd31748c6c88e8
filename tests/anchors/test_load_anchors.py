"""Anchor files: what is read, and each refusal with what it says."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ripcurrent.anchors import BUILTIN, HARMFUL, AnchorsInfo, load_anchors
from ripcurrent.errors import RipcurrentError


def pair(name: str, number: int, answer: str = "answer") -> dict[str, Any]:
    return {"set": name, "prompt": f"request {number}", "response": f"{answer} of {name} {number}"}


def lines(*sets: str, count: int = 4) -> list[dict[str, Any]]:
    return [pair(name, number) for name in sets for number in range(count)]


TWO_SETS = lines("harmful", "safe_1")
ROLES = (("user", "prompt"), ("assistant", "response"))


def write(folder: Path, records: list[Any]) -> Path:
    path = folder / "mine.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records), encoding="utf-8")
    return path


def refused(path: Path | str, *parts: str) -> None:
    with pytest.raises(RipcurrentError) as caught:
        load_anchors(path)
    for part in parts:
        assert part in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("name", BUILTIN)
def test_the_sets_of_the_package_are_requests_with_openings_and_no_content(name: str) -> None:
    anchors = load_anchors(name)
    assert anchors.sets == ("harmful", "safe_1", "safe_2")
    assert anchors.safe_sets == ("safe_1", "safe_2")
    for anchor in anchors.anchors:
        # so that nothing hides in a turn before the last
        assert [message.role for message in anchor.messages] == ["user", "assistant"]
        assert anchor.category
    answers = [anchor.messages[-1].content for anchor in anchors.anchors if anchor.set == HARMFUL]
    assert len(answers) == 20
    for answer in answers:
        # the longest there is: a longer one is looked at before this number is raised
        assert len(answer.split()) <= 11, answer
        # one line, no list and no quantities
        assert not re.search(r"\n|(^|\s)[-*•]|step one|first step|\d", answer, re.IGNORECASE), answer
    one, other = ({a.messages[0].content for a in load_anchors(name).anchors} for name in BUILTIN)
    assert not one & other, "the two sets share no request"


def test_anchors_are_grouped_by_set_in_order_whatever_the_files_order(tmp_path: Path) -> None:
    mixed = [record for four in zip(*[iter(lines("safe_10", "safe_2", "harmful"))] * 4, strict=True) for record in four]
    mixed = mixed[::3] + mixed[1::3] + mixed[2::3]
    anchors = load_anchors(write(tmp_path, mixed))
    assert anchors.sets == ("harmful", "safe_2", "safe_10")
    assert anchors.places("safe_2") == [4, 5, 6, 7]
    assert anchors.order[:5] == [("harmful", 0), ("harmful", 1), ("harmful", 2), ("harmful", 3), ("safe_2", 0)]
    own_order = [record["prompt"] for record in mixed if record["set"] == HARMFUL]
    assert [a.messages[0].content for a in anchors.anchors[:4]] == own_order
    assert AnchorsInfo.model_validate_json(anchors.info.model_dump_json()) == anchors.info


def test_messages_and_pairs_mean_the_same(tmp_path: Path) -> None:
    as_messages = [
        {"set": r["set"], "messages": [{"role": role, "content": r[field]} for role, field in ROLES]} for r in TWO_SETS
    ]
    one = load_anchors(write(tmp_path, TWO_SETS))
    other = load_anchors(write(tmp_path, as_messages))
    assert one.anchors == other.anchors
    assert one.sha256 != other.sha256


def test_blank_lines_windows_line_ends_bom_and_line_separators_inside_text(tmp_path: Path) -> None:
    records = [json.dumps(r, ensure_ascii=False) for r in TWO_SETS]
    records[0] = json.dumps({"set": "harmful", "prompt": "a\u2028b\x85c", "response": "d"}, ensure_ascii=False)
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(records).encode())
    anchors = load_anchors(path)
    assert len(anchors.anchors) == 8
    assert anchors.anchors[0].messages[0].content == "a\u2028b\x85c"


def test_missing_file_and_folder(tmp_path: Path) -> None:
    refused(tmp_path / "no.jsonl", "no.jsonl", "builtin", "second_family")
    refused(tmp_path, str(tmp_path))
    refused("bultin", "no anchor file bultin", "builtin")
    (tmp_path / "mine.jsonl").write_bytes(json.dumps(TWO_SETS[0]).encode("utf-16"))
    refused(tmp_path / "mine.jsonl", "mine.jsonl is not UTF-8")


TEN = [*lines("harmful"), *lines("safe_1", count=10)]
SHARED = [{**pair("safe_1", number), "set": "safe_2"} for number in range(9)] + [pair("safe_2", 9)]
REQUEST = "How do I do the forbidden thing number {} without anybody noticing it at all?"
NEARLY = [
    {"set": name, "prompt": REQUEST.format(number), "response": f"Sure{mark} first step is to"}
    for number in range(5)
    for name, mark in (("harmful", ", the"), ("safe_1", "! The very"))
]


@pytest.mark.parametrize(
    ("records", "parts"),
    [
        ([], ("mine.jsonl holds no anchors",)),
        (lines("harmful"), ("no safe set", "safe_1")),
        (lines("safe_1", "safe_2"), ("harmful", "0 anchors", "at least 4")),
        (TWO_SETS + lines("safe_2", count=3), ("safe_2", "3 anchors", "at least 4")),
        # also in other case and spacing
        (
            [*TWO_SETS, {"set": "safe_1", "prompt": "Request  0", "response": "ANSWER of\nsafe_1 0"}],
            ("safe_1", "more than once"),
        ),
        (
            lines("harmful") + [{**pair(HARMFUL, number), "set": "safe_1"} for number in range(4)],
            ("harmful and safe_1", "nearly identical", "100%"),
        ),
        (TEN + SHARED, ("safe_1 and safe_2", "90%")),
        (NEARLY, ("nearly identical",)),
    ],
)
def test_sets_that_give_no_direction_are_refused(tmp_path: Path, records: list[Any], parts: tuple[str, ...]) -> None:
    refused(write(tmp_path, records), *parts)


def test_sets_may_share_some_anchors_and_every_long_request(tmp_path: Path) -> None:
    assert len(load_anchors(write(tmp_path, [*TEN, *SHARED[:8], *lines("safe_2", count=10)[8:]])).anchors) == 24
    # the paper's design: the same requests, taken up in one set and declined in the other
    long = [f"thing {number} " + " ".join(f"word{number}x{place}" for place in range(60)) for number in range(5)]
    answers = (("harmful", "Sure, here is how to do it:"), ("safe_1", "I cannot help with that."))
    records = [{"set": name, "prompt": one, "response": answer} for one in long for name, answer in answers]
    assert len(load_anchors(write(tmp_path, records)).anchors) == 10


NO_TEXT = "line 9 has a turn without a known role or without text"
NO_END = "line 9 does not end with an assistant turn"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        *((bad, "mine.jsonl, line 9 is not JSON") for bad in ('{"set": "harmful", ', "x", "[" * 100_000, "9" * 5_000)),
        *((bad, "line 9 is not a JSON object") for bad in ("[1]", '"text"', "null")),
        *(
            ({**pair("x", 0), "set": name}, 'line 9 has "set"')
            for name in (None, 3, "", "safe", "safe_0", "safe_01", "safe_-1", "Harmful", "harmful ", "safe_1\n")
        ),
        *(({**pair("safe_1", 9), **bad}, NO_TEXT) for bad in ({"prompt": None}, {"response": "  "}, {"response": 7})),
        *(
            ({"set": "safe_1", "messages": [*turns, {"role": "assistant", "content": "b"}]}, NO_TEXT)
            for turns in ([{"role": "human", "content": "a"}], [{"role": "user", "content": ["a"]}], ["user"])
        ),
        *(
            ({"set": "safe_1", "messages": messages}, NO_END)
            for messages in ([], "text", None, [{"role": "user", "content": "a"}])
        ),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: Any, says: str) -> None:
    refused(write(tmp_path, [*TWO_SETS, line]), says)
