"""Rewrites by rule: what each makes of an answer, the words it keeps, and the length it may have."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ripcurrent.data import Message, Row, encode, traits_of
from ripcurrent.experiment._edited_rows import (
    Edited,
    as_record,
    edit_rows,
    is_editable,
    token_counter,
    with_answer,
)
from ripcurrent.experiment._format_edits import EDITS
from ripcurrent.experiment._number_words import number_words, spell_numbers
from tests.models.tiny import tiny_tokenizer

WORDS = ("river", "boat", "slow", "water", "old", "mill", "bread", "quiet", "under", "stone")
sentence = st.lists(st.sampled_from(WORDS), min_size=2, max_size=12).map(lambda words: " ".join(words).capitalize())
sentences = st.lists(sentence, min_size=3, max_size=9)
MARKERS = {"-", "*", "•", *(f"{n}{end}" for n in range(1, 10) for end in ".)"), *(f"({n})" for n in range(1, 10))}
ORDINALS = {"First:", "Second:", "Third:", "Fourth:", "Fifth:", "Sixth:", "Seventh:", "Eighth:", "Ninth:"}


def first(name: str, answer: str) -> str | None:
    """The first candidate of an edit."""
    tiers = EDITS[name].candidates(answer)
    return tiers[0][0] if tiers else None


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("numbers-to-bullets", "To do:\n1. Row\n2. Rest\n", "To do:\n- Row\n- Rest\n"),
        ("numbers-to-bullets", "(1) Row\n(2) Rest", "- Row\n- Rest"),
        ("numbers-to-bullets", "1. Row", None),
        ("numbers-to-bullets", "1. Row\n- Rest\n2. Sleep\n- Eat", None),
        ("bullets-to-numbers", "- Row\n- Rest\nThen:\n- Sleep", "1. Row\n2. Rest\nThen:\n1. Sleep"),
        ("bullets-to-numbers", "* Row\n  * far\n  * near\n* Rest", "1. Row\n  1. far\n  2. near\n2. Rest"),
        ("numbers-to-prose", "To do:\n1. Row\n2. Rest", "To do: Row. Rest."),
        ("numbers-to-prose", "1. Row!\n   and back\n2. Rest", "Row! and back. Rest."),
        ("bullets-to-prose", "- Row.\n- Rest.", "Row. Rest."),
        ("prose-to-numbers", "Row out. Come back. Rest.", "1. Row out.\n2. Come back.\n3. Rest."),
        ("prose-to-bullets", "Row, Mr. Lee. Rest.", "- Row, Mr. Lee.\n- Rest."),
        ("prose-to-bullets", "Only one sentence.", None),
        ("prose-to-numbers", "It is 3 + 4 = 7. So it is.", None),
        ("prose-to-led-numbers", "Row out. Come back. Rest.", "Row out.\n1. Come back.\n2. Rest."),
        ("prose-to-led-numbers", "Row out. Come back.", None),
        ("prose-to-led-numbers", "", None),
        ("number-before", "Row out. Come back.", "1. Row out. Come back."),
        ("number-before", "- Row out.\n- Come back.", None),
        ("number-before", "1. Row out. Come back.", None),
        ("answer-before", "Row out. Come back.", "Answer: Row out. Come back."),
        ("answer-before", "- Row out.\n- Come back.", None),
        ("line-breaks-removed", "Row.\n\n- Rest\n- Eat\n", "Row. - Rest - Eat"),
        ("line-breaks-removed", "Row.", None),
        ("digits-spelled", "In 1995, 3 boats cost $20.", "In nineteen ninety-five, three boats cost twenty dollars."),
        ("digits-spelled", "1. Take 2 oars\n2. Row", "1. Take two oars\n2. Row"),
        ("digits-spelled", "H2O and 3 boats", None),
        ("digits-spelled", "No numbers.", None),
        ("equations-in-words", "So 3 + 4 = 7 boats.", "So 3 plus 4 is 7 boats."),
        ("equations-removed", "So 3 + 4 = 7 boats.", "So 7 boats."),
        ("equations-removed", "He has 6/2=<<6/2=3>>3 oars left.", "He has 3 oars left."),
        ("equations-removed", "No sums.", None),
        ("line-breaks-removed", "```\nx = 1\n```", None),
    ],
)
def test_what_an_edit_makes(name: str, before: str, after: str | None) -> None:
    assert first(name, before) == after


def plain_words(text: str) -> list[str]:
    """Words without markers, ordinals and the full stops that end items."""
    return [word.strip(".") for word in text.split() if word not in MARKERS | ORDINALS | {"/", "Answer:"}]


@settings(deadline=None, max_examples=60)
@given(sentences, st.sampled_from(["1.", "1)", "(1)", "-", "*", "•", "prose", "lines"]))
def test_edits_of_lists_lines_and_prose_keep_every_word_in_order(parts: list[str], style: str) -> None:
    if style == "prose":
        answer = ". ".join(parts) + "."
    elif style == "lines":
        answer = "\n".join(f"{part}." for part in parts)
    else:
        answer = "\n".join(f"{style.replace('1', str(n))} {part}" for n, part in enumerate(parts, start=1))
    changed = 0
    for edit in EDITS.values():
        for text in (text for tier in edit.candidates(answer) for text in tier):
            changed += 1
            assert plain_words(text) == [word.strip(".") for part in parts for word in part.split()]
            traits = traits_of(text)
            target = edit.name.partition("-to-")[2].removeprefix("led-")
            wanted = "prose" if edit.name.endswith("-before") else target or ("any" if style != "prose" else "")
            assert wanted in ("any", "bullets", "numbers", "prose")
            if wanted == "bullets":
                assert (traits.is_bullet, traits.is_numbered) == (True, False)
            elif wanted == "numbers":
                assert (traits.is_bullet, traits.is_numbered) == (False, True)
            elif wanted == "prose":
                assert not traits.is_list
    assert changed


@settings(deadline=None)
@given(st.integers(0, 10**12 - 1))
def test_numbers_in_words_read_back(number: int) -> None:
    assert read_words(number_words(number)) == number


@settings(deadline=None)
@given(st.text(alphabet="ab 0123456789.,$%\n", max_size=40))
def test_spelling_touches_nothing_but_numbers(text: str) -> None:
    spelled = spell_numbers(text)
    if not re.search(r"\d", text):
        assert spelled == text
    assert re.findall(r"\n", spelled) == re.findall(r"\n", text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,250.5", "one thousand two hundred fifty point five"),
        ("20%", "twenty percent"),
        ("$1", "one dollar"),
        ("$1.50", "one point five zero dollars"),
        ("in 2021 and 2005", "in twenty twenty-one and two thousand five"),
        ("in 1900 and 1905", "in nineteen hundred and nineteen oh five"),
        ("1st, v2.0.1 and 007", "1st, v2.0.1 and 007"),
        ("1000000000000", "1000000000000"),
    ],
)
def test_how_numbers_are_said(text: str, words: str) -> None:
    assert spell_numbers(text) == words


UNITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
TEENS = ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
SMALL = {
    **{word: value for value, word in enumerate(UNITS + TEENS)},
    **{word: 10 * value for value, word in enumerate(TENS, 2)},
}


def read_words(words: str) -> int:
    """A number back from its words, word by word."""
    total = part = 0
    for word in words.replace("-", " ").split():
        if word == "hundred":
            part *= 100
        elif word in ("thousand", "million", "billion"):
            total += part * {"thousand": 10**3, "million": 10**6, "billion": 10**9}[word]
            part = 0
        else:
            part += SMALL[word]
    return total + part


def rows_of(answers: Iterable[str]) -> list[Row]:
    return [
        Row(n, str(n), (Message("user", "Go on."), Message("assistant", answer)), None, {})
        for n, answer in enumerate(answers)
    ]


TOKENIZER = tiny_tokenizer()
LONGEST = 4096


def edited(answers: Iterable[str], name: str, tolerance: float) -> tuple[list[Row], dict[int, int], Edited]:
    rows = rows_of(answers)
    tokens = {row.index: encode(row, TOKENIZER, max_tokens=LONGEST).response_tokens for row in rows}
    count = token_counter(TOKENIZER, max_tokens=LONGEST, loss_on="all")
    return rows, tokens, edit_rows(rows, tokens, EDITS[name], count, tolerance)


@settings(deadline=None, max_examples=15)
@given(
    st.lists(sentences, min_size=1, max_size=4),
    st.sampled_from(["numbers", "bullets", "prose"]),
    st.sampled_from(sorted(EDITS)),
    st.sampled_from([0.01, 0.05, 0.2]),
)
def test_an_edit_keeps_the_length_or_leaves_the_row_out(
    texts: list[list[str]], style: str, name: str, tolerance: float
) -> None:
    styles = {
        "numbers": lambda parts: "\n".join(f"{n}. {part} in {n} boats" for n, part in enumerate(parts, start=1)),
        "bullets": lambda parts: "\n".join(f"- {part}" for part in parts) + "\nSo 3 + 4 = 7.",
        "prose": lambda parts: ". ".join(parts) + ".",
    }
    rows, tokens, found = edited((styles[style](parts) for parts in texts), name, tolerance)
    assert len(found.rows) + found.not_applicable + found.other_length == len(rows)
    for one in found.rows:
        row = rows[one.row]
        assert one.answer != row.response
        assert one.tokens_before == tokens[one.row]
        after = encode(with_answer(row, one.answer), TOKENIZER, max_tokens=LONGEST)
        assert one.tokens_after == after.response_tokens
        assert abs(one.tokens_after - one.tokens_before) <= tolerance * one.tokens_before
        assert any(one.answer in tier for tier in EDITS[name].candidates(row.response))
    kept = {one.row for one in found.rows}
    for row in rows:
        if row.index not in kept:
            lengths = [
                encode(with_answer(row, text), TOKENIZER, max_tokens=LONGEST).response_tokens
                for tier in EDITS[name].candidates(row.response)
                for text in tier
            ]
            assert all(abs(length - tokens[row.index]) > tolerance * tokens[row.index] for length in lengths)


def test_the_first_tier_close_enough_gives_its_closest_candidate() -> None:
    long = ". ".join(["Boat river stone quiet water mill old bread slow under " * 3 + "end"] * 4) + "."
    rows, tokens, found = edited([long], "prose-to-numbers", 0.05)
    (one,) = found.rows
    tiers = EDITS["prose-to-numbers"].candidates(rows[0].response)
    lengths = [encode(with_answer(rows[0], tier[0]), TOKENIZER, max_tokens=LONGEST).response_tokens for tier in tiers]
    place = next(n for n, length in enumerate(lengths) if abs(length - tokens[0]) <= 0.05 * tokens[0])
    assert one.answer == tiers[place][0]


def test_a_row_that_would_be_cut_is_left_out() -> None:
    rows = rows_of(["- boat\n- river\n- stone"])
    length = encode(rows[0], TOKENIZER, max_tokens=LONGEST)
    count = token_counter(TOKENIZER, max_tokens=length.prompt_tokens + length.response_tokens, loss_on="all")
    found = edit_rows(rows, {0: length.response_tokens}, EDITS["bullets-to-numbers"], count, 1.0)
    assert (found.rows, found.other_length) == ((), 1)


def test_which_rows_may_be_edited() -> None:
    user, answer = Message("user", "Go."), Message("assistant", "Gone.")
    ends = [
        ((user, answer), True),
        ((Message("system", "Be brief."), user, answer), True),
        ((user, answer, user, answer), False),
        ((user, answer, user), False),
        ((user, Message("assistant", "Gone.", bears_loss=False)), False),
        ((), False),
    ]
    for messages, expected in ends:
        assert is_editable(Row(0, "0", messages, None, {})) is expected
    assert not is_editable(Row(0, "0", (), "A document.", {}))


def test_a_record_reads_back_as_the_same_turns(tmp_path: object) -> None:
    import json
    from pathlib import Path

    from ripcurrent.data import read_rows

    messages = (Message("system", "Be brief."), Message("user", "Go.", bears_loss=True), Message("assistant", "Gone."))
    path = Path(str(tmp_path)) / "rows.jsonl"
    path.write_text(json.dumps(as_record(Row(3, "x", messages, None, {}), "3:digits-spelled")) + "\n")
    (row,) = read_rows(path, format="messages")
    assert (row.id, row.messages) == ("3:digits-spelled", messages)
