"""Rows as tokens with a loss mask, exactly as they will be trained (methods.md, section 1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ripcurrent.data._render import Span, TemplateMismatch, assistant_spans, chat_text, check_tokenizer
from ripcurrent.data._tokens import Tokens, tokenise
from ripcurrent.data._types import EncodedRow, LossOn, Message, Row, bearing_turns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHUNK_ROWS = 128
_CHUNK_CHARACTERS = 2_000_000


def encode(
    row: Row, tokenizer: PreTrainedTokenizerBase, *, max_tokens: int = 1024, loss_on: LossOn = "all"
) -> EncodedRow:
    """One row as tokens with its loss mask; see `encode_rows`."""
    return next(encode_rows([row], tokenizer, max_tokens=max_tokens, loss_on=loss_on))


def encode_rows(
    rows: Iterable[Row], tokenizer: PreTrainedTokenizerBase, *, max_tokens: int = 1024, loss_on: LossOn = "all"
) -> Iterator[EncodedRow]:
    """Rows as tokens with loss masks, one result per row, in order; tokenised in batches.

    The conversation is rendered once with the tokenizer's chat template, and that text is tokenised once, without
    special tokens of its own (the template writes them). Every token that *begins* inside an assistant turn's span
    bears loss. One that straddles the span's start bears none: in prompt-completion training it belongs to the prompt.
    An assistant turn without text, or with ``weight`` 0, bears none. A document bears loss on every token but the
    first. The sequence is cut after its last loss-bearing token; rows are truncated to ``max_tokens``.

    Raises:
        RipcurrentError: the tokenizer has no offsets or, at the first conversation, no chat template.
    """
    chunk: list[Row] = []
    characters = 0
    for row in rows:
        chunk.append(row)
        characters += len(row.text or "") + sum(len(message.content) for message in row.messages)
        if len(chunk) >= _CHUNK_ROWS or characters >= _CHUNK_CHARACTERS:
            yield from _encode_chunk(chunk, tokenizer, max_tokens, loss_on)
            chunk, characters = [], 0
    yield from _encode_chunk(chunk, tokenizer, max_tokens, loss_on)


def encode_anchor(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_tokens: int = 1024,
    first_tokens: int = 10,
    index: int = 0,
) -> EncodedRow:
    """An anchor as tokens for its gradient: loss on the first ``first_tokens`` tokens of its last assistant turn.

    Rendered as rows are, but the end-of-turn token and the template's tail never bear loss; an opening shorter than
    ``first_tokens`` uses what it has (methods.md, section 2). For representations encode the anchor as a `Row`.
    """
    check_tokenizer(tokenizer, chat=True)
    turns = bearing_turns(messages, "last")
    if not turns:
        return EncodedRow(index, "no_response")
    try:
        text = chat_text(messages, tokenizer)
        (span,) = assistant_spans(text, messages, turns, tokenizer)
    except TemplateMismatch:
        return EncodedRow(index, "template_mismatch")
    (tokens,) = tokenise([text], tokenizer, special=False, max_tokens=max_tokens)
    # A token that the tokenizer joins from the text's end and the template's tail is not the text's own.
    own = tokens.beginning_in(span.start, span.content_end) & (tokens.ends <= span.content_end)
    own &= tokens.ends > span.content_start
    own[np.flatnonzero(own)[first_tokens:]] = False
    cut = span.content_end > tokens.end and np.count_nonzero(own) < first_tokens
    return _finish(index, tokens, own, [span], truncated=bool(cut))


def why_mismatch(row: Row, tokenizer: PreTrainedTokenizerBase, loss_on: LossOn) -> str | None:
    """What the chat template says of a conversation that it refuses, or how it hides turns; None without either."""
    try:
        text = chat_text(row.messages, tokenizer)
        for _ in assistant_spans(text, row.messages, bearing_turns(row.messages, loss_on), tokenizer):
            pass
    except TemplateMismatch as mismatch:
        return str(mismatch)
    return None


def _encode_chunk(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_tokens: int, loss_on: LossOn
) -> Iterator[EncodedRow]:
    texts: dict[int, str] = {}
    done: dict[int, EncodedRow] = {}
    if rows:
        check_tokenizer(tokenizer, chat=any(row.messages and row.problem is None for row in rows))
    for place, row in enumerate(rows):
        if row.problem is not None:
            done[place] = EncodedRow(row.index, row.problem)
        elif row.text is not None:
            texts[place] = row.text
        else:
            try:
                texts[place] = chat_text(row.messages, tokenizer)
            except TemplateMismatch:
                done[place] = EncodedRow(row.index, "template_mismatch")
    for special in (False, True):
        places = [place for place in texts if (rows[place].text is not None) is special]
        heads = tokenise([texts[place] for place in places], tokenizer, special=special, max_tokens=max_tokens)
        for place, tokens in zip(places, heads, strict=True):
            row = rows[place]
            done[place] = (
                encode_document(row, tokens) if special else _encode_chat(row, texts[place], tokens, tokenizer, loss_on)
            )
    return (done[place] for place in range(len(rows)))


def encode_document(row: Row, tokens: Tokens) -> EncodedRow:
    """A tokenised document: every token but the first bears loss."""
    loss = np.ones(len(tokens.ids), dtype=np.bool_)
    end = int(tokens.ends.max(initial=0))
    return _finish(row.index, tokens, loss, [Span(0, end, 0, end)], truncated=not tokens.complete)


def _encode_chat(
    row: Row, text: str, tokens: Tokens, tokenizer: PreTrainedTokenizerBase, loss_on: LossOn
) -> EncodedRow:
    turns = bearing_turns(row.messages, loss_on)
    if not turns:
        last = next((message for message in reversed(row.messages) if message.role == "assistant"), None)
        return EncodedRow(row.index, "no_loss_tokens" if last is not None and last.content.strip() else "no_response")
    loss = np.zeros(len(tokens.ids), dtype=np.bool_)
    spans: list[Span] = []
    try:
        for span in assistant_spans(text, row.messages, turns, tokenizer):
            spans.append(span)
            loss |= tokens.beginning_in(span.start, span.end)
            if span.end > tokens.end:
                # Later turns lie further on still: of a very long row only the head is looked at.
                break
    except TemplateMismatch:
        return EncodedRow(row.index, "template_mismatch")
    return _finish(row.index, tokens, loss, spans, truncated=spans[-1].end > tokens.end or len(spans) < len(turns))


def _finish(
    index: int, tokens: Tokens, loss: npt.NDArray[np.bool_], spans: Sequence[Span], *, truncated: bool
) -> EncodedRow:
    """Cut after the last loss-bearing token and find the two positions in the last turn that bears loss."""
    # The first token has nothing to be predicted from.
    loss[:1] = False
    bearing = np.flatnonzero(loss)
    if len(bearing) == 0:
        return EncodedRow(index, "too_long" if spans[0].end > tokens.end else "no_loss_tokens")
    length = int(bearing[-1]) + 1
    span, first = spans[0], int(bearing[0])
    for turn in spans:
        in_turn = np.flatnonzero(loss & tokens.beginning_in(turn.start, turn.end))
        if len(in_turn):
            span, first = turn, int(in_turn[0])
    content = np.flatnonzero(tokens.beginning_in(span.start, span.content_end))
    last_content = min(int(content[-1]) if len(content) else length - 1, length - 1)
    ids, mask, bear = tokens.ids[:length], loss[:length], len(bearing)
    return EncodedRow(index, "ok", ids, mask, truncated, length - bear, bear, first - 1, last_content)
