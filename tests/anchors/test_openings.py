"""The package's harmful anchors hold openings of answers and no content."""

from __future__ import annotations

import re

import pytest

from ripcurrent.anchors import BUILTIN, HARMFUL, load_anchors

LONGEST = 11
"""Words of the longest opening there is. A longer one is looked at before this number is raised."""


@pytest.mark.parametrize("name", BUILTIN)
def test_a_harmful_answer_is_its_opening_alone(name: str) -> None:
    answers = [one.messages[-1].content for one in load_anchors(name).anchors if one.set == HARMFUL]
    assert len(answers) == 20
    for answer in answers:
        assert len(answer.split()) <= LONGEST, answer
        assert "\n" not in answer, "one line"
        assert not re.search(r"(^|\s)(\d+[.):]|[-*•]|step \d|step one|first step)", answer, re.IGNORECASE), answer
        assert not re.search(r"\d", answer), "no quantities"


@pytest.mark.parametrize("name", BUILTIN)
def test_a_harmful_anchor_is_one_request_and_one_answer(name: str) -> None:
    """So that nothing hides in a turn before the last."""
    for anchor in load_anchors(name).anchors:
        assert [message.role for message in anchor.messages] == ["user", "assistant"]
