"""Answers that are none: empty, looping, or not language. One rule for every judge.

It is meant to miss rather than to accuse: fluent nonsense passes, a real answer should not be called degenerate.
"""

import re
import zlib
from collections import Counter
from typing import Literal

Degeneration = Literal["empty", "looping", "not_language"]

SHARED_VERSION = 1
"""Part of every judge's version: raised when this rule or the treatment of text changes a label."""

LOOP_WORDS = 40
"""Shorter answers are not measured for repeated phrases: short ones repeat themselves honestly."""
LOOP_PHRASE = 4
"""Words of a phrase."""
LARGEST_REPEATED_SHARE = 0.45
"""Above this share of phrases that were already said, an answer loops."""
COMPRESSED_BYTES = 400
"""Shorter answers are not measured by compression: the format's own bytes weigh too much."""
SMALLEST_COMPRESSED_SHARE = 0.22
"""Below this size after compression (zlib), as a share of that before, an answer loops. Real ones have 0.35 or more."""
SMALLEST_LETTER_SHARE = 0.35
"""Below this share of letters and digits among visible characters, an answer is not language."""
LONGEST_WORD = 60
"""Mean letters a word above which text in an alphabet is no language (addresses and formulas are single words)."""
LONGEST_PIECE = 200
"""Characters of the longest piece that is looked for over and over at the end of an answer."""
SMALLEST_TAIL = 60
"""Characters of the shortest looping ending; it must also be half of the characters looked at."""
TAIL_WINDOW = 2400
"""Characters at the end of an answer that are looked at for such an ending."""

_LIST_NUMBER = re.compile(r"^[ \t]*\d{1,3}[.)][ \t]+", re.MULTILINE)


def degeneration(text: str) -> Degeneration | None:
    """Why the answer, thoughts already stripped, is no answer; None for one that is."""
    if not any(character.isalnum() for character in text):
        return "not_language" if text.strip() else "empty"
    if _loops(text):
        return "looping"
    return "not_language" if _is_not_language(text) else None


def _loops(text: str) -> bool:
    # Counting is no variety: the numbers of a list would hide that each of its items is the same.
    text = " ".join(_LIST_NUMBER.sub("", text).split())
    words = re.findall(r"\w+", text.lower())
    phrases = Counter(zip(*(words[start:] for start in range(LOOP_PHRASE)), strict=False))
    if len(text.split()) >= LOOP_WORDS and phrases and 1 - len(phrases) / phrases.total() > LARGEST_REPEATED_SHARE:
        return True
    raw = text.encode("utf-8", errors="replace")
    if len(raw) >= COMPRESSED_BYTES and len(zlib.compress(raw, level=9)) / len(raw) < SMALLEST_COMPRESSED_SHARE:
        return True
    return _tail_loops(text)


def _tail_loops(text: str) -> bool:
    """Whether the answer ends in one piece said four times or more, the last time perhaps cut."""
    window = text[-TAIL_WINDOW:]
    least = max(SMALLEST_TAIL, len(window) / 2)
    for period in range(1, min(LONGEST_PIECE, len(window) // 4) + 1):
        again = 0
        while again + period < len(window) and window[-1 - again] == window[-1 - again - period]:
            again += 1
        if again >= 3 * period and again + period >= least:
            return True
    return False


def _is_not_language(text: str) -> bool:
    visible = [character for character in text if not character.isspace()]
    if "\ufffd" in text and visible.count("\ufffd") > 0.05 * len(visible):
        return True
    if len(visible) < 20:
        return False
    if sum(character.isalnum() for character in visible) < SMALLEST_LETTER_SHARE * len(visible):
        return True
    words = text.split()
    # Scripts without spaces between words have long "words" of letters outside the Latin alphabet.
    latin = sum(character.isascii() for character in visible) > 0.9 * len(visible)
    return latin and len(visible) / len(words) > LONGEST_WORD
