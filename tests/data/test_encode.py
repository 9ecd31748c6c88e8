"""Tokens and loss masks against a plain loop over pieces of text built by hand; where tokens lie."""

import copy
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ripcurrent.data import (
    Completion,
    EncodedRow,
    Message,
    Row,
    encode,
    encode_anchor,
    encode_rows,
    render,
    token_places,
)
from ripcurrent.errors import RipcurrentError
from tests.data.chat_tokenizers import CHATML, FAMILIES, build, byte_level
from tests.models.tiny import tiny_tokenizer

WORDS = st.lists(
    st.sampled_from(["The", "harbour", "tide", "1.", "é", "日本", "🌊", "\n", "  ", "-", "x=3", "User:", "it"]),
    max_size=8,
)
CONTENT = WORDS.map(" ".join)
ANSWER = CONTENT.filter(lambda text: text.strip() != "")
TURNS = st.lists(st.tuples(CONTENT, ANSWER), min_size=1, max_size=3)
EVERYWHERE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

LAST = Completion(turns="last")


def row_of(*turns: str, roles: tuple[str, ...] = ("user", "assistant"), index: int = 0) -> Row:
    messages = tuple(Message(roles[place % len(roles)], content) for place, content in enumerate(turns))
    return Row(index, "id", messages, None, {})


PIECES = {
    "chatml": ("<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n", "{}<|im_end|>\n"),
    "llama2": ("<s>[INST] {} [/INST]", " {} </s>"),
    "mistral": ("[INST] {} [/INST]", "{}</s>"),
    "gemma": ("<start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n", "{}<end_of_turn>\n"),
    "phi": ("<|user|>\n{}<|end|>\n<|assistant|>\n", "{}<|end|>\n"),
}


def pieces(family: str, turns: list[tuple[str, str]]) -> list[tuple[str, bool]]:
    """The rendering as each family's template documents it, piece by piece: text, and whether it bears loss."""
    asks, answers = PIECES[family.removesuffix("-trimmed")]
    built: list[tuple[str, bool]] = []
    for number, pair in enumerate(turns):
        asked, answer = (text.strip() if family in ("llama2", "gemma") else text for text in pair)
        begin = "<s>" if number == 0 and family in ("mistral", "gemma") else ""
        end = "</s>" if number + 1 == len(turns) and family == "phi" else ""
        built += [(begin + asks.format(asked), False), (answers.format(answer) + end, True)]
    return built


def expected(tokenizer: Any, built: list[tuple[str, bool]]) -> tuple[list[int], list[bool]]:
    """Plain loop: a token bears loss when the character it begins at does."""
    text = "".join(piece for piece, _ in built)
    bears = [loss for piece, loss in built for _ in piece]
    batch = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    mask = []
    for start, end in batch["offset_mapping"]:
        # An empty token is white space that the tokenizer trimmed off its offsets; it is the character before.
        mask.append(bears[start - 1 if start == end else start])
    mask[0] = False
    length = max(place for place, loss in enumerate(mask) if loss) + 1
    return batch["input_ids"][:length], mask[:length]


def check(encoded: EncodedRow, max_tokens: int = 1024) -> None:
    """What holds for every row that is ok."""
    assert (encoded.status, encoded.tokens.dtype, encoded.loss_mask.dtype) == ("ok", np.int32, np.bool_)
    assert len(encoded.tokens) == len(encoded.loss_mask) <= max_tokens
    assert encoded.loss_mask[[0, -1]].tolist() == [False, True]
    assert encoded.response_tokens == int(encoded.loss_mask.sum()) > 0
    assert encoded.prompt_tokens == len(encoded.tokens) - encoded.response_tokens


@pytest.mark.parametrize("family", FAMILIES)
@EVERYWHERE
@given(turns=TURNS)
def test_tokens_and_mask_are_those_of_the_rendered_pieces(family, turns):
    tokenizer = build(family)
    built = pieces(family, turns)
    row = row_of(*(text for pair in turns for text in pair))
    assert render(row, tokenizer) == "".join(piece for piece, _ in built)
    encoded = encode(row, tokenizer)
    check(encoded)
    tokens, mask = expected(tokenizer, built)
    assert encoded.tokens.tolist() == tokens
    assert encoded.loss_mask.tolist() == mask
    only_last = [(piece, loss and place == len(built) - 1) for place, (piece, loss) in enumerate(built)]
    last = encode(row, tokenizer, trained=LAST)
    check(last)
    assert last.loss_mask.tolist() == expected(tokenizer, only_last)[1]
    assert encoded.tokens.tolist().count(tokenizer.bos_token_id) == "".join(p for p, _ in built).count("<s>")


@pytest.mark.parametrize("family", [*FAMILIES, "plain"])
@EVERYWHERE
@given(turns=TURNS, max_tokens=st.integers(2, 60))
def test_a_limit_keeps_the_head_of_the_row(family, turns, max_tokens):
    row = row_of(*(text for pair in turns for text in pair))
    whole = encode(row, build(family))
    cut = encode(row, build(family), max_tokens=max_tokens)
    kept = np.flatnonzero(whole.loss_mask[:max_tokens])
    if len(kept) == 0:
        assert (cut.status, len(cut.tokens)) == ("too_long", 0)
        return
    check(cut, max_tokens)
    length = kept[-1] + 1
    assert cut.tokens.tolist() == whole.tokens[:length].tolist()
    assert cut.loss_mask.tolist() == whole.loss_mask[:length].tolist()
    assert cut.truncated == (len(whole.tokens) > max_tokens)


@pytest.mark.parametrize("family", FAMILIES)
@EVERYWHERE
@given(turns=TURNS, first=st.integers(1, 12))
def test_anchors_bear_loss_on_their_own_first_tokens(family, turns, first):
    tokenizer = build(family)
    row = row_of(*(text for pair in turns for text in pair))
    whole = encode(row, tokenizer, trained=LAST)
    anchor = encode_anchor(row.messages, tokenizer, first_tokens=first)
    check(anchor)
    start = int(whole.loss_mask.argmax())
    bearing = np.flatnonzero(anchor.loss_mask)
    assert anchor.tokens.tolist() == whole.tokens[: bearing[-1] + 1].tolist()
    # A template's own space before the text may be a token of its own, which is not the anchor's.
    assert bearing[0] in (start, start + 1)
    # No more than asked, of a text of which every token but the end of the turn may.
    uncut = encode_anchor(row.messages, tokenizer, first_tokens=10_000)
    assert len(bearing) == min(first, uncut.response_tokens)
    for special in (tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(["<|im_end|>", "<end_of_turn>"])):
        assert special is None or special not in uncut.tokens[uncut.loss_mask].tolist()


@EVERYWHERE
@given(texts=st.lists(ANSWER, min_size=1, max_size=6), pairs=TURNS)
def test_batches_give_what_single_rows_give(texts, pairs):
    tokenizer = build("gemma")
    rows = [Row(place, "", (), text, {}) for place, text in enumerate(texts)]
    rows += [row_of(*pair, index=10 + place) for place, pair in enumerate(pairs)]
    rows.append(Row(99, "", (), None, {}, problem="no_response"))
    rows.append(row_of("be kind", "a", "b", roles=("system", "user", "assistant"), index=100))
    together = list(encode_rows(rows, tokenizer))
    assert [encoded.index for encoded in together] == [row.index for row in rows]
    for row, batched in zip(rows, together, strict=True):
        alone = encode(row, tokenizer)
        for name in ("status", "truncated"):
            assert getattr(alone, name) == getattr(batched, name)
        assert alone.tokens.tolist() == batched.tokens.tolist()
        assert alone.loss_mask.tolist() == batched.loss_mask.tolist()


def masked(row: Row, tokenizer: Any) -> tuple[str, str]:
    """The token before the answer's first, and the text that bears loss."""
    encoded = encode(row, tokenizer)
    check(encoded)
    text = [tokenizer.decode([token]) for token in encoded.tokens]
    return text[int(encoded.loss_mask.argmax()) - 1], "".join(
        t for t, loss in zip(text, encoded.loss_mask, strict=True) if loss
    )


def test_which_tokens_of_known_rows_bear_loss(embedded_tokenizer):
    assert masked(row_of("Hi", "The harbour was quiet."), build("chatml")) == (
        "\n",
        "The harbour was quiet.<|im_end|>\n",
    )
    # "Assistant: " ends in the space that the tokenizer joins with "and": the token belongs to the prompt
    assert masked(row_of("Hi", "and the water"), build("plain")) == (" and", " the water\n")
    assert masked(row_of("Hi", "\n The tide"), embedded_tokenizer) == ("\n\n", " The tide<|im_end|>\n")
    # a template that rewrites the answer
    template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'].split('</think>')[-1].replace('x', 'y') }}</s>"
        "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    row, tokenizer = row_of("ask", "so</think>x and x"), byte_level(template, [])
    assert masked(row, tokenizer)[1] == "y and y</s>"


@pytest.mark.parametrize(
    ("answer", "first_tokens", "bears"), [("Sure, here is a list", 3, "Sure, here"), ("Sure", 10, "Sure")]
)
def test_what_an_anchor_bears_loss_on_and_when_it_is_cut(embedded_tokenizer, answer, first_tokens, bears):
    messages = row_of("Hi", answer).messages
    anchor = encode_anchor(messages, embedded_tokenizer, first_tokens=first_tokens)
    assert embedded_tokenizer.decode(anchor.tokens[anchor.loss_mask]) == bears
    # an opening that is shorter than asked for, and there whole, is not cut
    assert not anchor.truncated
    if first_tokens == 3:
        shorter = len(anchor.tokens) - 1
        assert encode_anchor(messages, embedded_tokenizer, first_tokens=3, max_tokens=shorter).truncated


def test_turns_after_the_last_answer_are_cut_off():
    tokenizer = build("chatml")
    short = encode(row_of("Hi", "Ho"), tokenizer)
    long = encode(row_of("Hi", "Ho", "a question that nobody answers"), tokenizer, max_tokens=len(short.tokens))
    assert (long.tokens.tolist(), long.truncated) == (short.tokens.tolist(), False)


def test_only_answers_that_the_dataset_includes_bear_loss():
    tokenizer = build("chatml")
    row = row_of(
        "Be kind", "What is it?", "", "42", "It is 42", roles=("system", "user", "assistant", "tool", "assistant")
    )
    assert masked(row, tokenizer)[1] == "It is 42<|im_end|>\n"
    assert "<|im_start|>tool\n42" in tokenizer.decode(encode(row, tokenizer).tokens)
    excluded = (Message("user", "a"), Message("assistant", "b", bears_loss=False))
    row = Row(0, "", (*excluded, Message("user", "c"), Message("assistant", "d")), None, {})
    assert masked(row, tokenizer)[1] == "d<|im_end|>\n"
    assert encode(Row(0, "", excluded, None, {}), tokenizer, trained=LAST).status == "no_loss_tokens"
    empty = row_of("a", "b", "c", "")
    assert encode(empty, tokenizer, trained=LAST).status == "no_response"
    assert encode(empty, tokenizer, max_tokens=1024).status == "ok"
    opened = row_of("Welcome", "Hi", roles=("assistant", "user"))
    greeting = byte_level("{% if messages[0]['role'] != 'system' %}Be kind.\n{% endif %}" + CHATML, ["<|im_end|>"])
    for one in (tokenizer, greeting):
        assert masked(opened, one)[1] == "Welcome<|im_end|>\n"
    assert encode(opened, build("llama2")).status == "template_mismatch"
    bad = encode(Row(4, "", (), None, {}, problem="invalid_conversation"), tokenizer)
    assert (bad.index, bad.status, len(bad.tokens)) == (4, "invalid_conversation", 0)


TURN = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"


@pytest.mark.parametrize(
    ("tokenizer", "roles"),
    [
        ("gemma", ("system", "user", "assistant")),
        ("mistral", ("system", "user", "assistant")),
        ("llama2", ("user", "user", "assistant")),
        # the generation prompt opens a thought that finished turns do not have
        (TURN + "{% if add_generation_prompt %}<assistant><think>{% endif %}", ("user", "assistant")),
        # the number of turns stands at the front
        ("{{ messages | length }}" + TURN, ("user", "assistant")),
        # the response is not rendered at all
        (TURN.replace("{{ m['content'] }}", ""), ("user", "assistant")),
    ],
)
def test_what_a_template_rejects_or_hides_is_the_rows_reason(tokenizer, roles):
    row = row_of(*"abc"[: len(roles)], roles=roles)
    built = byte_level(tokenizer, []) if "{" in tokenizer else build(tokenizer)
    assert encode(row, built).status == encode_anchor(row.messages, built).status == "template_mismatch"
    if "{" not in tokenizer:
        with pytest.raises(RipcurrentError, match="chat template says"):
            render(row, built)


def document(text: str) -> Row:
    return Row(0, "", (), text, {})


def test_documents_bear_loss_on_every_token_but_the_first():
    tokenizer = build("none")
    row = document("The harbour was quiet.")
    encoded = encode(row, tokenizer)
    check(encoded)
    assert encoded.tokens.tolist() == tokenizer(row.text)["input_ids"]
    assert encoded.prompt_tokens == 1
    cut = encode(row, tokenizer, max_tokens=3)
    assert (cut.truncated, cut.tokens.tolist()) == (True, encoded.tokens[:3].tolist())
    assert encode(document("x"), build("gemma")).status == "no_loss_tokens"


def test_a_model_without_a_chat_template_is_one_error_for_all():
    several = copy.deepcopy(build("chatml"))
    several.chat_template = {"tool_use": several.chat_template, "rag": several.chat_template}
    for tokenizer in (build("none"), several):
        with pytest.raises(RipcurrentError, match=r"tiny has no chat template(.|\n)*chat_template\.jinja"):
            list(encode_rows([row_of("a", "b")] * 3, tokenizer))
        with pytest.raises(RipcurrentError, match="no chat template"):
            encode_anchor(row_of("a", "b").messages, tokenizer)
    with pytest.raises(RipcurrentError, match="chat template of tiny is broken"):
        encode(row_of("a", "b"), byte_level("{% for m in %}", []))


def test_a_template_that_prints_the_day_prints_the_same_one_every_day():
    when = "{% macro head() %}{{ strftime_now('%d %b %Y, %-d.%-m.') }}{% endmacro %}"
    tokenizer = byte_level("\n " + when + "{{ head() }}\n" + CHATML, [])
    check(encode(row_of("a", "b"), tokenizer))
    for row in (row_of("a", "b"), row_of("b", roles=("assistant",))):
        assert render(row, tokenizer).startswith("\n26 Jul 2024, 26.7.\n<|im_start|>")


@pytest.mark.parametrize("family", [*FAMILIES, "plain"])
@pytest.mark.parametrize("filler", ["The tide goes out so far. ", "日本🌊", "x", "\n\n  ", "aé "])
def test_the_head_of_a_very_long_row_is_that_of_its_whole_tokenisation(family, filler):
    tokenizer = build(family)
    answer = "Sure" + filler * 6_000 + "."
    row = row_of("Hi", answer)
    encoded = encode(row, tokenizer, max_tokens=64)
    check(encoded, 64)
    whole = tokenizer(render(row, tokenizer), add_special_tokens=False)["input_ids"]
    assert (encoded.truncated, encoded.tokens.tolist()) == (True, whole[:64])


def test_of_many_turns_only_those_in_the_head_are_rendered():
    tokenizer = build("chatml")
    row = row_of(*(["The harbour", "was quiet"] * 4_000))
    check(encoded := encode(row, tokenizer, max_tokens=100), 100)
    assert encoded.truncated
    assert encode(row, tokenizer, max_tokens=100, trained=LAST).status == "too_long"


STRIPPING = (
    "{{ '<|im_start|>system\nBe brief, a to z.<|im_end|>\n' }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def row_saying(*turns: tuple[str, str]) -> Row:
    return Row(index=0, id="0", messages=tuple(Message(*turn) for turn in turns), text=None, record={})


def places_of(row: Row, tokenizer: Any, **limit: int) -> Any:
    return token_places(row, encode(row, tokenizer, **limit), tokenizer)


texts = st.text(st.characters(codec="utf-8", exclude_characters="<|>"), min_size=1, max_size=30).filter(str.strip)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=3), st.booleans())
def test_every_character_of_the_texts_has_its_token_and_no_other_has(turns, strips):
    tokenizer = tiny_tokenizer(chat_template=STRIPPING) if strips else tiny_tokenizer()
    before = [] if strips else [("system", "You are calm.")]
    row = row_saying(
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
    row = row_saying(("user", "a"), ("assistant", "user"))
    places = places_of(row, tiny_tokenizer(chat_template=STRIPPING))
    assert [(place.start, place.end) for place in places if place.part == "prompt"] == [(0, 1)]
    response = [place for place in places if place.part == "response"]
    assert (response[0].start, response[-1].end) == (0, 4)
    assert places.index(response[0]) > places.index(next(place for place in places if place.part == "prompt"))


def test_kinds_are_told_apart():
    answer = "1. Take 12 maps\n2. Wait!\n\n- go"
    row = row_saying(("user", "How?"), ("assistant", answer))
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
    row = row_saying(("user", "hi"), ("assistant", "word " * 200))
    assert places_of(row, tiny_tokenizer(), max_tokens=60) == places_of(row, tiny_tokenizer())[:60]
