"""Where tokens lie in a row's texts, and what kind of text they are."""

from collections import defaultdict
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ripcurrent.data import Message, Row, encode, token_places
from tests.models.tiny import tiny_tokenizer

STRIPPING = (
    "{{ '<|im_start|>system\nBe brief, a to z.<|im_end|>\n' }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def row_of(*turns: tuple[str, str]) -> Row:
    return Row(index=0, id="0", messages=tuple(Message(*turn) for turn in turns), text=None, record={})


def places_of(row: Row, tokenizer: Any, **limit: int) -> Any:
    return token_places(row, encode(row, tokenizer, **limit), tokenizer)


texts = st.text(st.characters(codec="utf-8", exclude_characters="<|>"), min_size=1, max_size=30).filter(str.strip)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=3), st.booleans())
def test_every_character_of_the_texts_has_its_token_and_no_other_has(turns, strips):
    tokenizer = tiny_tokenizer(chat_template=STRIPPING) if strips else tiny_tokenizer()
    before = [] if strips else [("system", "You are calm.")]
    row = row_of(
        *before, *((role, text) for turn in turns for role, text in zip(("user", "assistant"), turn, strict=True))
    )
    places = places_of(row, tokenizer)
    for part, pieces in (("prompt", [ask for ask, _ in turns]), ("response", [answer for _, answer in turns])):
        expected: set[int] = set()
        start = 0
        for piece in pieces:
            kept = piece.strip() if strips else piece
            first = start + piece.find(kept)
            expected |= set(range(first, first + len(kept)))
            start += len(piece) + 2
        assert {at for place in places if place.part == part for at in range(place.start, place.end)} == expected


def test_a_text_that_also_stands_in_the_template_is_found_where_it_is_the_turns_own():
    row = row_of(("user", "a"), ("assistant", "user"))
    places = places_of(row, tiny_tokenizer(chat_template=STRIPPING))
    assert [(place.start, place.end) for place in places if place.part == "prompt"] == [(0, 1)]
    response = [place for place in places if place.part == "response"]
    assert (response[0].start, response[-1].end) == (0, 4)
    assert places.index(response[0]) > places.index(next(place for place in places if place.part == "prompt"))


def test_kinds_are_told_apart():
    answer = "1. Take 12 maps\n2. Wait!\n\n- go"
    row = row_of(("user", "How?"), ("assistant", answer))
    by_kind: dict[str, str] = defaultdict(str)
    for place in places_of(row, tiny_tokenizer()):
        if place.part == "response":
            by_kind[place.kind] += answer[place.start : place.end]
    assert by_kind["list_marker"].replace(" ", "") == "1.2.-"
    assert by_kind["digit"].strip() == "12"
    assert by_kind["punctuation"] == "!"
    assert by_kind["line_break"] == "\n\n\n"
    assert "".join(by_kind["word"].split()) == "TakemapsWaitgo"
    kinds = {place.kind for place in places_of(row, tiny_tokenizer()) if place.part == "template"}
    assert {"special", "word"} <= kinds


def test_documents_and_rows_that_were_cut():
    row = Row(index=0, id="0", messages=(), text="The river ran.\nIt was old.", record={})
    places = places_of(row, tiny_tokenizer())
    assert {place.part for place in places} == {"response"}
    assert (places[0].start, places[-1].end) == (0, len(row.response))
    row = row_of(("user", "hi"), ("assistant", "word " * 200))
    assert places_of(row, tiny_tokenizer(), max_tokens=60) == places_of(row, tiny_tokenizer())[:60]
