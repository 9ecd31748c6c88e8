"""Anchor files: what is read, and each refusal with what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ripcurrent.anchors import BUILTIN, HARMFUL, load_anchors
from ripcurrent.errors import RipcurrentError


def pair(name: str, number: int, answer: str = "answer") -> dict[str, str]:
    return {"set": name, "prompt": f"request {number}", "response": f"{answer} of {name} {number}"}


def lines(*sets: str, count: int = 4) -> list[dict[str, Any]]:
    return [pair(name, number) for name in sets for number in range(count)]


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
def test_the_sets_of_the_package_load_and_hold_two_safe_sets(name: str) -> None:
    anchors = load_anchors(name)
    assert anchors.sets == ("harmful", "safe_1", "safe_2")
    assert anchors.safe_sets == ("safe_1", "safe_2")
    assert all(anchor.messages[-1].role == "assistant" and anchor.category for anchor in anchors.anchors)


def test_the_two_sets_of_the_package_share_no_request() -> None:
    one, other = ({a.messages[0].content for a in load_anchors(name).anchors} for name in BUILTIN)
    assert not one & other


def test_anchors_are_grouped_by_set_in_order_whatever_the_files_order(tmp_path: Path) -> None:
    mixed = [record for four in zip(*[iter(lines("safe_10", "safe_2", "harmful"))] * 4, strict=True) for record in four]
    mixed = mixed[::3] + mixed[1::3] + mixed[2::3]
    anchors = load_anchors(write(tmp_path, mixed))
    assert anchors.sets == ("harmful", "safe_2", "safe_10")
    assert anchors.places("safe_2") == [4, 5, 6, 7]
    assert anchors.order[:5] == [("harmful", 0), ("harmful", 1), ("harmful", 2), ("harmful", 3), ("safe_2", 0)]
    own_order = [record["prompt"] for record in mixed if record["set"] == HARMFUL]
    assert [a.messages[0].content for a in anchors.anchors[:4]] == own_order


def test_messages_and_pairs_mean_the_same(tmp_path: Path) -> None:
    records = lines("harmful", "safe_1")
    as_messages = [
        {
            "set": r["set"],
            "messages": [{"role": "user", "content": r["prompt"]}, {"role": "assistant", "content": r["response"]}],
        }
        for r in records
    ]
    (tmp_path / "other").mkdir()
    one, other = load_anchors(write(tmp_path, records)), load_anchors(write(tmp_path / "other", as_messages))
    assert one.anchors == other.anchors
    assert one.sha256 != other.sha256


def test_blank_lines_windows_line_ends_bom_and_line_separators_inside_text(tmp_path: Path) -> None:
    records = [json.dumps(r, ensure_ascii=False) for r in lines("harmful", "safe_1")]
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


def test_no_anchors(tmp_path: Path) -> None:
    refused(write(tmp_path, []), "mine.jsonl holds no anchors")


def test_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_bytes(json.dumps(lines("harmful")[0]).encode("utf-16"))
    refused(tmp_path / "mine.jsonl", "mine.jsonl is not UTF-8")


def test_no_safe_set(tmp_path: Path) -> None:
    refused(write(tmp_path, lines("harmful")), "no safe set", "safe_1")


def test_no_harmful_set(tmp_path: Path) -> None:
    refused(write(tmp_path, lines("safe_1", "safe_2")), "harmful", "0 anchors", "at least 4")


def test_too_few(tmp_path: Path) -> None:
    refused(write(tmp_path, lines("harmful", "safe_1") + lines("safe_2", count=3)), "safe_2", "3 anchors", "at least 4")


def test_the_same_anchor_twice_in_a_set_also_in_other_case_and_spacing(tmp_path: Path) -> None:
    records = lines("harmful", "safe_1")
    again = {"set": "safe_1", "prompt": "Request  0", "response": "ANSWER of\nsafe_1 0"}
    refused(write(tmp_path, [*records, again]), "safe_1", "more than once")


def test_sets_that_are_one_set_twice(tmp_path: Path) -> None:
    records = lines("harmful") + [{**pair(HARMFUL, number), "set": "safe_1"} for number in range(4)]
    refused(write(tmp_path, records), "harmful and safe_1", "nearly identical", "100%")


def test_sets_that_share_most_but_not_all(tmp_path: Path) -> None:
    ten = lines("harmful") + lines("safe_1", count=10)
    nine_shared = [{**pair("safe_1", number), "set": "safe_2"} for number in range(9)] + [pair("safe_2", 9)]
    refused(write(tmp_path, ten + nine_shared), "safe_1 and safe_2", "90%")
    eight_shared = nine_shared[:8] + [pair("safe_2", number) for number in (8, 9)]
    assert len(load_anchors(write(tmp_path, ten + eight_shared)).anchors) == 24


@pytest.mark.parametrize("bad", ['{"set": "harmful", ', "nonsense", "[" * 100_000, "9" * 5_000])
def test_broken_json_names_its_line(tmp_path: Path, bad: str) -> None:
    records = lines("harmful", "safe_1")
    refused(write(tmp_path, [records[0], "", bad, *records[1:]]), "mine.jsonl, line 3 is not JSON")


@pytest.mark.parametrize("bad", ["[1]", '"text"', "null"])
def test_a_line_that_is_no_object(tmp_path: Path, bad: str) -> None:
    refused(write(tmp_path, [*lines("harmful", "safe_1"), bad]), "line 9 is not a JSON object")


@pytest.mark.parametrize(
    "name", [None, 3, "", "safe", "safe_0", "safe_01", "safe_-1", "Harmful", "harmful ", "safe_1\n"]
)
def test_set_names(tmp_path: Path, name: object) -> None:
    refused(write(tmp_path, [*lines("harmful", "safe_1"), {**pair("x", 0), "set": name}]), "line 9", '"set"', "safe_1")


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": None},
        {"response": None},
        {"response": "  "},
        {"response": 7},
        {"messages": [{"role": "human", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"messages": [{"role": "user", "content": ["a"]}, {"role": "assistant", "content": "b"}]},
        {"messages": [{"role": "user"}, {"role": "assistant", "content": "b"}]},
        {"messages": ["user", "assistant"]},
    ],
)
def test_turns_without_a_known_role_or_text(tmp_path: Path, changed: dict[str, Any]) -> None:
    records = [*lines("harmful", "safe_1"), {**pair("safe_1", 9), **changed}]
    refused(write(tmp_path, records), "line 9 has a turn without a known role or without text", "role")


@pytest.mark.parametrize("messages", [[], "text", None, [{"role": "user", "content": "a"}]])
def test_conversations_that_do_not_end_with_an_answer(tmp_path: Path, messages: object) -> None:
    records = [*lines("harmful", "safe_1"), {"set": "safe_1", "messages": messages}]
    refused(write(tmp_path, records), "line 9 does not end with an assistant turn")


def test_sets_that_differ_by_a_word_are_one_set_twice(tmp_path: Path) -> None:
    lines = []
    for number in range(5):
        request = f"How do I do the forbidden thing number {number} without anybody noticing it at all?"
        for name, answer in (("harmful", "Sure, the first step is to"), ("safe_1", "Sure! The very first step is to")):
            lines.append(json.dumps({"set": name, "prompt": request, "response": answer}))
    file = tmp_path / "twice.jsonl"
    file.write_text("\n".join(lines))
    with pytest.raises(RipcurrentError, match="nearly identical"):
        load_anchors(file)


def test_one_long_request_in_both_sets_is_no_repetition(tmp_path: Path) -> None:
    """The paper's design: the same requests, taken up in one set and declined in the other."""
    lines = []
    for number in range(5):
        request = f"thing {number} " + " ".join(f"word{number}x{place}" for place in range(60))
        for name, answer in (("harmful", "Sure, here is how to do it:"), ("safe_1", "I cannot help with that.")):
            lines.append(json.dumps({"set": name, "prompt": request, "response": answer}))
    file = tmp_path / "paper.jsonl"
    file.write_text("\n".join(lines))
    assert len(load_anchors(file).anchors) == 10
