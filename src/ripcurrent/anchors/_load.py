"""Reading anchor sets and checking their structure before any model sees them."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from itertools import combinations
from pathlib import Path
from typing import Any

from ripcurrent.anchors._types import HARMFUL, Anchor, AnchorSet
from ripcurrent.data import Message, similarity, word_set
from ripcurrent.errors import RipcurrentError

BUILTIN = ("builtin", "second_family")
"""Anchor sets that come with the package."""

MINIMUM = 4
"""Fewer anchors than this in a set give no direction worth trusting."""

NEAR_IDENTICAL = 0.8
"""Two sets that share more than this part of their conversations, or nearly so, are one set twice."""

SAME_WORDS, SAME_ANSWER = 0.9, 0.7
"""Jaccard indices of two conversations' words, and of their answers' words, from which they count as the same. Both
are needed: one long request may be asked in two sets, and is answered there otherwise."""

_SET_NAME = re.compile(r"harmful|safe_[1-9]\d*")
_ROLES = ("system", "user", "assistant", "tool")


def load_anchors(source: str | Path = "builtin") -> AnchorSet:
    """Read an anchor set: ``builtin``, ``second_family``, or a JSON-lines file.

    Each line is ``{"set": "harmful" | "safe_1" | …, "messages": […]}``, or ``"prompt"`` and ``"response"`` in place of
    the messages. Raises `RipcurrentError` for a missing file, a malformed line (with its number), a missing set, too
    few anchors, duplicates within a set, and sets that are (nearly) the same.
    """
    name = str(source)
    if name in BUILTIN:
        content = resources.files("ripcurrent.anchors").joinpath(f"{name}.jsonl").read_bytes()
    else:
        path = Path(source)
        if not path.is_file():
            raise RipcurrentError(
                f"There is no anchor file {path}.", f"Name a JSON-lines file, or one of: {', '.join(BUILTIN)}."
            )
        content, name = path.read_bytes(), path.name
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RipcurrentError(f"{name} is not UTF-8 text.", "Save the anchors as JSON lines in UTF-8.") from None
    anchors = []
    # only line feeds end a line: JSON strings may hold the other characters that splitlines() takes for line ends
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            anchors.append(_read_line(line, f"{name}, line {number}"))
    sets = [HARMFUL, *sorted({a.set for a in anchors} - {HARMFUL}, key=lambda text: int(text.removeprefix("safe_")))]
    ordered = tuple(anchor for wanted in sets for anchor in anchors if anchor.set == wanted)
    anchor_set = AnchorSet(name, hashlib.sha256(content).hexdigest(), ordered)
    check_structure(anchor_set)
    return anchor_set


def check_structure(anchor_set: AnchorSet) -> None:
    """Refuse an anchor set that cannot give a direction."""
    responses: dict[str, list[tuple[str, str]]] = {HARMFUL: []}
    for anchor in anchor_set.anchors:
        responses.setdefault(anchor.set, []).append(_comparable(anchor))
    if not anchor_set.anchors:
        raise RipcurrentError(
            f"{anchor_set.name} holds no anchors.",
            'Add lines with "set", "prompt" and "response", a set "harmful" first.',
        )
    if len(responses) < 2:
        raise RipcurrentError(
            f"The anchors of {anchor_set.name} have no safe set.", 'Add lines with "set": "safe_1" (refusals).'
        )
    for name, texts in responses.items():
        if len(texts) < MINIMUM:
            raise RipcurrentError(
                f"The set {name} of {anchor_set.name} has {len(texts)} anchors; at least {MINIMUM} are needed.",
                f"Add anchors to {name}.",
            )
        if len(set(texts)) < len(texts):
            raise RipcurrentError(
                f"The set {name} of {anchor_set.name} holds the same anchor more than once.", "Remove the repetitions."
            )
    for one, other in combinations(responses, 2):
        fewer, more = sorted((responses[one], responses[other]), key=len)
        part = sum(_is_among(anchor, more) for anchor in fewer) / len(fewer)
        if part > NEAR_IDENTICAL:
            raise RipcurrentError(
                f"The sets {one} and {other} of {anchor_set.name} are nearly identical ({part:.0%} of the smaller).",
                "Each set needs anchors of its own: compliant openings in harmful, refusals in the safe sets.",
            )


def _is_among(own: tuple[str, str], others: Sequence[tuple[str, str]]) -> bool:
    words = [word_set(text) for text in own]

    def alike(other: tuple[str, str]) -> bool:
        text, answer = (similarity(mine, word_set(text)) for mine, text in zip(words, other, strict=True))
        return own == other or (text >= SAME_WORDS and answer >= SAME_ANSWER)

    return any(map(alike, others))


def _read_line(line: str, where: str) -> Anchor:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise RipcurrentError(f"{where} is not JSON: {reason}.", "Each line must be one JSON object.") from None
    if not isinstance(record, Mapping):
        raise RipcurrentError(f"{where} is not a JSON object.", "Each line must be one JSON object.")
    name = record.get("set")
    if not isinstance(name, str) or not _SET_NAME.fullmatch(name):
        raise RipcurrentError(f'{where} has "set": {name!r}.', 'It must be "harmful", "safe_1", "safe_2" and so on.')
    pair = [{"role": "user", "content": record.get("prompt")}, {"role": "assistant", "content": record.get("response")}]
    messages = _messages(record.get("messages", pair), where)
    category = record.get("category")
    return Anchor(name, messages, category if isinstance(category, str) else None)


def _messages(value: Any, where: str) -> tuple[Message, ...]:
    messages = []
    for turn in value if isinstance(value, list) else []:
        role = turn.get("role") if isinstance(turn, Mapping) else None
        content = turn.get("content") if isinstance(turn, Mapping) else None
        if role not in _ROLES or not isinstance(content, str) or not content.strip():
            raise RipcurrentError(
                f"{where} has a turn without a known role or without text.",
                'Give "prompt" and "response", or "messages" with "role" and "content" in each.',
            )
        messages.append(Message(role, content))
    if not messages or messages[-1].role != "assistant":
        raise RipcurrentError(f"{where} does not end with an assistant turn.", "An anchor is a request and an answer.")
    return tuple(messages)


def _comparable(anchor: Anchor) -> tuple[str, str]:
    """The whole conversation and its answer, without case and white space."""
    turns = [" ".join(message.content.lower().split()) for message in anchor.messages]
    return " | ".join(turns), turns[-1]
