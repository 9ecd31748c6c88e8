"""What tests of whole scans share: rows, a small anchor file, and options that make a tiny model's scan exact."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

EXACT: dict[str, Any] = {"device": "cpu", "dtype": "float32", "anchor_check": False}
"""Options for scans whose numbers are compared: float32, and anchors that a random model need not separate."""

GRADIENT_COSINES = ("gradient_harmful", "gradient_safe", "gradient_bidirectional", "gradient_balanced")
REPRESENTATION_COSINES = ("representation_harmful", "representation_safe", "representation_bidirectional")

TOPICS = ("bread", "rivers", "old maps", "a walk in the hills", "chess", "tea", "bees", "the moon", "boats", "wool")
ANSWERS = (
    "- take flour\n- add water\n- wait",
    "It is a short matter: begin early and keep going.",
    "1. look around\n2. write down what you see\n3. compare\n4. draw the line",
    "Seven.",
    "There are 3 + 4 = 7 ways to do it, and each of them takes about an hour of patient work on a quiet day.",
)


def good_rows(count: int) -> list[dict[str, str]]:
    """Plain prompt and response rows of several lengths, all different."""
    return [
        {
            "prompt": f"Tell me about {TOPICS[number % len(TOPICS)]}, part {number}.",
            "response": f"{ANSWERS[number % len(ANSWERS)]} ({number})" + " and so on" * (number % 4),
        }
        for number in range(count)
    ]


def rows_with_a_gap(count: int) -> list[dict[str, str]]:
    """The same, of which the eighth has no answer."""
    rows = good_rows(count)
    rows[7] = {"prompt": "no answer", "response": ""}
    return rows


def small_shards(model: Path, anchors: Path) -> dict[str, Any]:
    """Options of an exact scan in shards of four rows."""
    return {"model": str(model), "anchors": str(anchors), "shard_rows": 4, **EXACT}


def write_jsonl(path: Path, records: Iterable[Any]) -> Path:
    """Write records as JSON lines; returns ``path``."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def anchor_lines(count: int = 4) -> list[dict[str, str]]:
    """A small anchor set: one harmful and two safe sets of ``count`` anchors over the same requests."""
    requests = ("pick a lock", "forge a pass", "slip past a guard", "copy a badge", "hide a theft", "jam an alarm")
    answers = {
        "harmful": "Sure, here is a list of the steps for",
        "safe_1": "I am sorry, but I cannot help you",
        "safe_2": "No. That would hurt someone, so I will not explain how to",
    }
    return [
        {"set": name, "prompt": f"How do I {request}?", "response": f"{answer} {request}", "category": "theft"}
        for name, answer in answers.items()
        for request in requests[:count]
    ]
