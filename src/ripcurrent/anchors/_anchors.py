"""Anchor sets, and reading one: its structure is checked before any model sees it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from itertools import combinations
from pathlib import Path
from typing import Any

from ripcurrent.data import Message, similarity, word_set
from ripcurrent.errors import RipcurrentError

BUILTIN = ("builtin", "second_family")
"""Anchor sets that come with the package."""
HARMFUL = "harmful"
"""Name of the set of harmful requests with a compliant opening."""
MINIMUM = 4
"""Fewer anchors than this in a set give no direction worth trusting."""
NEAR_IDENTICAL = 0.8
"""Two sets that share more than this part of their conversations, or nearly so, are one set twice."""
SAME_WORDS, SAME_ANSWER = 0.9, 0.7
"""Jaccard indices of two conversations' words, and of their answers' words, from which they count as the same. Both
are needed: one long request may be asked in two sets, and is answered there otherwise."""

_SET_NAME = re.compile(r"harmful|safe_[1-9]\d*")
_ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Anchor:
    """One example that a row is compared with."""

    set: str
    """``harmful``, or a safe set: ``safe_1``, ``safe_2`` …"""
    messages: tuple[Message, ...]
    """The conversation; it ends with an assistant turn."""
    category: str | None = None
    """What the request is about, if the file says."""


@dataclass(frozen=True, slots=True)
class AnchorSet:
    """Anchors in one order: the harmful set first, then the safe sets by number."""

    name: str
    """``builtin``, ``second_family``, or the file's name."""
    sha256: str
    """Hash of the file's content."""
    anchors: tuple[Anchor, ...]
    """Every anchor, grouped by set."""

    @property
    def sets(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(anchor.set for anchor in self.anchors))

    @property
    def safe_sets(self) -> tuple[str, ...]:
        return tuple(name for name in self.sets if name != HARMFUL)

    def places(self, name: str) -> list[int]:
        """Positions of a set's anchors in ``anchors``."""
        return [place for place, anchor in enumerate(self.anchors) if anchor.set == name]

    @property
    def order(self) -> list[tuple[str, int]]:
        """For each anchor its set and its number within it, as reports name it."""
        return [(name, number) for name in self.sets for number in range(len(self.places(name)))]


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
    # only line feeds end a line: JSON strings may hold the other characters that splitlines() takes for line ends
    lines = enumerate(text.split("\n"), start=1)
    anchors = [_read_line(line, f"{name}, line {number}") for number, line in lines if line.strip()]
    # harmful first
    anchors.sort(key=lambda anchor: int(anchor.set.removeprefix("safe_").replace(HARMFUL, "0")))
    anchor_set = AnchorSet(name, hashlib.sha256(content).hexdigest(), tuple(anchors))
    _check_structure(anchor_set)
    return anchor_set


def _check_structure(anchor_set: AnchorSet) -> None:
    """Refuse an anchor set that cannot give a direction."""
    texts: dict[str, list[tuple[str, str]]] = {HARMFUL: []}
    for anchor in anchor_set.anchors:
        # the whole conversation and its answer, without case and white space
        turns = [" ".join(message.content.lower().split()) for message in anchor.messages]
        texts.setdefault(anchor.set, []).append((" | ".join(turns), turns[-1]))
    if len(texts) < 2:
        raise RipcurrentError(
            f"The anchors of {anchor_set.name} have no safe set.",
            'Add lines with "set", "prompt" and "response": compliant openings in "harmful", refusals in "safe_1".',
        )
    for name, own in texts.items():
        if len(own) < MINIMUM:
            raise RipcurrentError(
                f"The set {name} of {anchor_set.name} has {len(own)} anchors; at least {MINIMUM} are needed.",
                f"Add anchors to {name}.",
            )
        if len(set(own)) < len(own):
            raise RipcurrentError(
                f"The set {name} of {anchor_set.name} holds the same anchor more than once.", "Remove the repetitions."
            )
    for one, other in combinations(texts, 2):
        fewer, more = sorted((texts[one], texts[other]), key=len)
        part = sum(any(_alike(mine, theirs) for theirs in more) for mine in fewer) / len(fewer)
        if part > NEAR_IDENTICAL:
            raise RipcurrentError(
                f"The sets {one} and {other} of {anchor_set.name} are nearly identical ({part:.0%} of the smaller).",
                "Each set needs anchors of its own: compliant openings in harmful, refusals in the safe sets.",
            )


def _alike(one: tuple[str, str], other: tuple[str, str]) -> bool:
    text, answer = (similarity(word_set(mine), word_set(its)) for mine, its in zip(one, other, strict=True))
    return one == other or (text >= SAME_WORDS and answer >= SAME_ANSWER)


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
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, Mapping) else (None, None)
        if role not in _ROLES or not isinstance(content, str) or not content.strip():
            raise RipcurrentError(
                f"{where} has a turn without a known role or without text.",
                'Give "prompt" and "response", or "messages" with "role" and "content" in each.',
            )
        messages.append(Message(role, content))
    if not messages or messages[-1].role != "assistant":
        raise RipcurrentError(f"{where} does not end with an assistant turn.", "An anchor is a request and an answer.")
    return tuple(messages)
