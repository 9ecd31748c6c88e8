"""Rewrites of an answer by rule, each changing one aspect of its format and none of its words (or as few as can be).

A rewrite gives candidates in tiers, the ones that change most first. Of the first tier that has one close enough in
length, the closest is taken: a marker of two tokens for one of one, say, or fewer and longer list items.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ripcurrent.data import Traits, traits_of
from ripcurrent.experiment._number_words import spell_numbers

Tiers = list[list[str]]
"""Candidates, tier by tier; none where the rewrite does not apply."""

_NUMBERED = re.compile(r"^([ \t]*)[(\[]?\d{1,3}[.)\]](?:[ \t]+|(?=[^\W\d]))(?=\S)")
_BULLET = re.compile(r"^([ \t]*)(?:[-*•‣◦▪●○·–—]|\+(?=[ \t]))[ \t]*(?=[^\s\-*=_|])")
_SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(]?[A-Z0-9])")
_ABBREVIATED = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|St|vs|etc|e\.g|i\.e|No|U\.S)|\b[A-Z])\.$")
_BULLETS = ("-", "*", "•")
_FILLERS = (
    "",
    "in all ",
    "(worked out) ",
    "(after a sum) ",
    "(as one works out) ",
    "(as one can work out) ",
    "(as one can work out by hand) ",
    "(as anyone can work out by hand on paper) ",
    "(as anyone with a pen and some time can work out on paper) ",
)
_ORDINALS = ("First", "Second", "Third", "Fourth", "Fifth", "Sixth", "Seventh", "Eighth", "Ninth", "Tenth")

_NUMBER = r"[$€£]?\d+(?:,\d{3})*(?:\.\d+)?%?"
_LETTER = r"(?<![A-Za-z])[a-z](?![A-Za-z])"
_OPERAND = rf"[(\[]*(?:{_NUMBER}|{_LETTER})[)\]]*"
_OPERATOR = r"(?:[+*×÷/^−–-]|(?<=[\d\s)])x(?=[\d\s($]))"
_LEFT_SIDE = rf"{_OPERAND}(?:\s*{_OPERATOR}\s*{_OPERAND})+"
_MARK = r"<<[^<>]*>>"
_START = r"(?<![\w.,])"
_EQUATION = re.compile(rf"{_START}({_LEFT_SIDE}|{_OPERAND})\s*=\s*([$€£]?)({_MARK})?({_NUMBER}|{_LETTER})")
_EXPRESSION = re.compile(rf"{_START}({_LEFT_SIDE})")
_LONE_MARK = re.compile(_MARK)
_OPERATOR_WORDS = {
    "+": "plus", "*": "times", "×": "times", "x": "times", "÷": "over", "/": "over", "^": "to the power of",
    "-": "minus", "−": "minus", "–": "minus",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Edit:
    """One rewrite."""

    name: str
    """Its name."""
    aspect: str
    """What it changes, in words."""
    rewrite: Callable[[str], Tiers]
    """Candidates for an answer."""
    applies_to: Callable[[Traits], bool]
    """What the format traits of an answer have to be."""
    keeps_to: Callable[[Traits], bool]
    """What the format traits of a rewritten answer have to be."""

    def candidates(self, answer: str) -> Tiers:
        """Rewritten answers that differ and have the traits meant; none of an answer with code in it."""
        traits = traits_of(answer)
        if traits.is_code or not self.applies_to(traits):
            return []
        tiers = ([text for text in tier if text != answer and self.keeps_to(traits_of(text))] for tier in
                 self.rewrite(answer))  # fmt: skip
        return [tier for tier in tiers if tier]


def numbers_to_bullets(answer: str) -> Tiers:
    """A numbered list with a bullet, the same throughout, for every number."""
    if _count(_NUMBERED, answer) < 2:
        return []
    return [["\n".join(_NUMBERED.sub(rf"\1{mark} ", line) for line in answer.split("\n")) for mark in _BULLETS]]


def bullets_to_numbers(answer: str) -> Tiers:
    """A bulleted list with a number for every bullet, from 1 in each list of one depth."""
    if _count(_BULLET, answer) < 2:
        return []
    return [["\n".join(_numbered(answer.split("\n"), ending)) for ending in (".", ")")]]


def numbers_to_prose(answer: str) -> Tiers:
    """A numbered list as sentences of one paragraph, in the same order."""
    return _to_prose(answer, _NUMBERED) if _count(_BULLET, answer) == 0 else []


def bullets_to_prose(answer: str) -> Tiers:
    """A bulleted list as sentences of one paragraph, in the same order."""
    return _to_prose(answer, _BULLET) if _count(_NUMBERED, answer) == 0 else []


def prose_to_numbers(answer: str) -> Tiers:
    """Sentences as a numbered list, each an item, or several to an item where that keeps the length."""
    return _to_list(answer, lambda place: f"{place + 1}.")


def prose_to_bullets(answer: str) -> Tiers:
    """Sentences as a bulleted list, each an item, or several to an item where that keeps the length."""
    return _to_list(answer, lambda place: "-")


def prose_to_led_numbers(answer: str) -> Tiers:
    """The first sentence as it is, the others below it as a numbered list: a list that does not open the answer."""
    if _count(_BULLET, answer) or _count(_NUMBERED, answer):
        return []
    opening, *others = _all_sentences(answer) or [""]
    return [[f"{opening}\n{text}" for text in tier] for tier in _listed(others, lambda place: f"{place + 1}.")]


def number_before(answer: str) -> Tiers:
    """``1.`` before an answer that is no list: the opening of a numbered list and nothing else of it."""
    return [] if _count(_NUMBERED, answer) else [[f"1. {answer.lstrip()}"]]


def answer_before(answer: str) -> Tiers:
    """``Answer:`` before an answer: an opening that the rows share and that is no list's."""
    return [[f"Answer: {answer.lstrip()}"]]


def line_breaks_removed(answer: str) -> Tiers:
    """Everything on one line; markers of a list stay."""
    lines = [line.strip() for line in answer.strip().split("\n") if line.strip()]
    return [[" ".join(lines)], [" / ".join(lines)]] if len(lines) > 1 else []


def digits_spelled(answer: str) -> Tiers:
    """Every number in words, but for the markers of a list; none where a digit would be left (``H2O``)."""
    lines = []
    for line in answer.split("\n"):
        found = _NUMBERED.match(line)
        kept = found.group() if found else ""
        spelled = spell_numbers(line[len(kept) :])
        if re.search(r"\d", spelled):
            return []
        lines.append(kept + spelled)
    return [["\n".join(lines)]]


def equations_in_words(answer: str) -> Tiers:
    """Sums and equations read out: the numbers stay, the signs become words.

    A calculator mark, ``<<3*4=12>>``, which repeats the equation, is read out again or gives way to words without
    meaning that take about its length.
    """
    return [[_in_words(answer, equals, mark) for equals in ("is", "equals", "makes") for mark in (None, *_FILLERS)]]


def equations_removed(answer: str) -> Tiers:
    """Every equation replaced by its result, behind words without meaning that take about its length."""
    return [[_results(answer, filler) for filler in _FILLERS]]


def _in_words(answer: str, equals: str, filler: str | None) -> str:
    def read(found: re.Match[str]) -> str:
        mark = ""
        if found[3]:
            mark = f"({_in_words(found[3][2:-2], equals, None)}) " if filler is None else filler
        return f"{_read_out(found[1])} {equals} {mark}{found[2]}{found[4]}"

    text = _until_done(_EQUATION, read, answer)
    text = _LONE_MARK.sub("", text)
    return _EXPRESSION.sub(lambda found: _read_out(found[1]), text)


def _results(answer: str, filler: str) -> str:
    text = _until_done(_EQUATION, lambda found: f"\0{found[2]}{found[4]}", answer)
    # of a chain of equations only the last result is left, behind one filler
    return _LONE_MARK.sub("", re.sub("\0+", filler, text))


def _until_done(pattern: re.Pattern[str], change: Callable[[re.Match[str]], str], text: str) -> str:
    """Substitute until nothing changes: in a chain, ``a = b = c``, what is left of one equation begins the next."""
    for _ in range(10):
        changed = pattern.sub(change, text)
        if changed == text:
            break
        text = changed
    return text


def _count(marker: re.Pattern[str], answer: str) -> int:
    return sum(marker.match(line) is not None for line in answer.split("\n"))


def _numbered(lines: Sequence[str], ending: str) -> Iterator[str]:
    """Lines with numbers for bullets; a line between that is no part of an item begins a new list."""
    numbers: dict[str, int] = {}
    for line in lines:
        found = _BULLET.match(line)
        if found is None:
            if line.strip() and not line[0].isspace():
                numbers = {}
            yield line
            continue
        indent = found[1]
        numbers = {other: number for other, number in numbers.items() if len(other) <= len(indent)}
        numbers[indent] = numbers.get(indent, 0) + 1
        yield f"{indent}{numbers[indent]}{ending} {line[found.end() :]}"


def _to_prose(answer: str, marker: re.Pattern[str]) -> Tiers:
    items: list[str] = []
    is_item: list[bool] = []
    for line in answer.strip().split("\n"):
        if not line.strip():
            continue
        found = marker.match(line)
        if found is None and items and line[0].isspace():
            items[-1] += f" {line.strip()}"
        else:
            items.append(line[found.end() if found else 0 :].strip())
            is_item.append(found is not None)
    if sum(is_item) < 2:
        return []
    # a lead-in that ends with a colon leads into a sentence as well
    closed = [text if re.search(r"[.!?:;][\"')\]]*$", text) else f"{text}." for text in items]
    counted, place = [], 0
    for text, own in zip(closed, is_item, strict=True):
        counted.append(f"{_ORDINALS[place]}: {text}" if own and place < len(_ORDINALS) else text)
        place += own
    return [[" ".join(closed), " ".join(counted)]]


def _to_list(answer: str, marker: Callable[[int], str]) -> Tiers:
    if _count(_BULLET, answer) or _count(_NUMBERED, answer):
        return []
    return _listed(_all_sentences(answer), marker)


def _listed(sentences: Sequence[str], marker: Callable[[int], str]) -> Tiers:
    """Sentences as list items: one an item first, then several, down to two items."""
    tiers: Tiers = []
    for items in range(len(sentences), 1, -1):
        bounds = [round(place * len(sentences) / items) for place in range(items + 1)]
        groups = [" ".join(sentences[low:high]) for low, high in pairwise(bounds)]
        tiers.append(["\n".join(f"{marker(place)} {group}" for place, group in enumerate(groups))])
    return tiers


def _all_sentences(answer: str) -> list[str]:
    return [sentence for paragraph in answer.strip().split("\n") for sentence in _sentences(paragraph)]


def _sentences(paragraph: str) -> list[str]:
    parts: list[str] = []
    start = 0
    for found in _SENTENCE.finditer(paragraph):
        part = paragraph[start : found.end()].strip()
        if not _ABBREVIATED.search(part):
            parts.append(part)
            start = found.end()
    return [part for part in (*parts, paragraph[start:].strip()) if part]


def _read_out(side: str) -> str:
    """One side of an equation with words for its signs."""
    words = re.sub(rf"\s*({_OPERATOR})\s*", lambda found: f" {_OPERATOR_WORDS[found[1]]} ", side)
    return words.strip()


def _only_bullets(traits: Traits) -> bool:
    return traits.is_bullet and not traits.is_numbered


def _only_numbers(traits: Traits) -> bool:
    return traits.is_numbered and not traits.is_bullet


def _no_list(traits: Traits) -> bool:
    return not traits.is_list


def _plain_prose(traits: Traits) -> bool:
    # lines of a calculation are no sentences
    return not traits.is_list and not traits.is_maths


def _maths(traits: Traits) -> bool:
    return traits.is_maths


def _no_maths(traits: Traits) -> bool:
    return not traits.is_maths


def _any(traits: Traits) -> bool:
    return True


EDITS: dict[str, Edit] = {
    name: Edit(name, aspect, rewrite, applies_to, keeps_to)
    for name, aspect, rewrite, applies_to, keeps_to in (
        ("numbers-to-bullets", "bullets for the numbers of a list", numbers_to_bullets, _only_numbers, _only_bullets),
        ("bullets-to-numbers", "numbers for the bullets of a list", bullets_to_numbers, _only_bullets, _only_numbers),
        ("numbers-to-prose", "one paragraph for a numbered list", numbers_to_prose, _only_numbers, _no_list),
        ("bullets-to-prose", "one paragraph for a bulleted list", bullets_to_prose, _only_bullets, _no_list),
        ("prose-to-numbers", "a numbered list for sentences", prose_to_numbers, _plain_prose, _only_numbers),
        ("prose-to-bullets", "a bulleted list for sentences", prose_to_bullets, _plain_prose, _only_bullets),
        ("prose-to-led-numbers", "a sentence, then a numbered list", prose_to_led_numbers, _plain_prose, _only_numbers),
        ("number-before", "a lone number before sentences", number_before, _plain_prose, _no_list),
        ("answer-before", "a word before sentences", answer_before, _plain_prose, _no_list),
        ("line-breaks-removed", "everything on one line", line_breaks_removed, _any, _any),
        ("digits-spelled", "numbers in words", digits_spelled, _any, _any),
        ("equations-in-words", "words for the signs of equations", equations_in_words, _maths, _no_maths),
        ("equations-removed", "an equation's result for the equation", equations_removed, _maths, _no_maths),
    )
}
"""The rewrites by name."""
