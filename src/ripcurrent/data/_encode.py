"""Rows as tokens with a loss mask, exactly as they will be trained (methods.md, section 1)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ripcurrent.data._formats import FORMATS, Unusable, require_text, tool_definitions
from ripcurrent.data._render import (
    Span,
    TemplateMismatch,
    answer_head,
    assistant_spans,
    chat_text,
    check_tokenizer,
    hides_thoughts,
    hides_tools,
)
from ripcurrent.data._trained_tokens import Completion, LabelledTokens, Tokenized, TrainedTokens, unread
from ripcurrent.data._types import EncodedRow, Fields, Message, Row, Turns, bearing_turns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NO_TOOLS: tuple[object, ...] = (None, "", "[]", [])
_CHUNK_ROWS = 128
_CHUNK_CHARACTERS = 2_000_000
_CHARACTERS_PER_TOKEN = 16
"""A head of so many characters a token nearly always holds enough tokens; where it does not, more is taken."""
_MARGIN = 64
"""Tokens beyond the head. A cut in the text changes the tokens next to it; these keep it away from the head."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The head of a tokenised text: ids, and the characters from which and up to which each token goes."""

    ids: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    complete: bool
    """The text has no further tokens."""
    end: int
    """Character at which the first token that is left out begins; the text's length when ``complete``."""

    def beginning_in(self, start: int, end: int) -> npt.NDArray[np.bool_]:
        """Which tokens begin at a character of ``[start, end)``."""
        return (self.starts >= start) & (self.starts < end)


def tokenise(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, special: bool, max_tokens: int
) -> list[Tokens]:
    """The first ``max_tokens`` tokens of each text; of a long text only a part is tokenised.

    ``special`` adds the special tokens that the tokenizer puts around plain text.
    """

    def encodings(texts: list[str]) -> Sequence[Any]:
        how = {"return_offsets_mapping": False, "return_attention_mask": False, "verbose": False}
        batch: Sequence[Any] = tokenizer(texts, add_special_tokens=special, **how).encodings
        return batch

    reach = _CHARACTERS_PER_TOKEN * (max_tokens + _MARGIN)
    result = []
    for text, encoding in zip(texts, encodings([text[:reach] for text in texts]) if texts else [], strict=True):
        taken = reach
        while taken < len(text) and len(encoding.ids) < max_tokens + _MARGIN:
            taken *= 4
            (encoding,) = encodings([text[:taken]])
        result.append(_head(encoding, len(text), max_tokens))
    return result


def _head(encoding: Any, characters: int, max_tokens: int) -> Tokens:
    ids = np.asarray(encoding.ids[:max_tokens], dtype=np.int32)
    offsets = np.asarray(encoding.offsets[: max_tokens + 1], dtype=np.int64).reshape(-1, 2)
    starts, ends = offsets[:, 0], offsets[:, 1]
    # Tokenizers that trim offsets report a token of white space as empty, at its end: it begins before that.
    starts = np.where(starts == ends, starts - 1, starts)
    complete = len(encoding.ids) <= max_tokens
    end = characters if complete else int(starts[max_tokens])
    return Tokens(ids, starts[:max_tokens], ends[:max_tokens], complete, end)


COMPLETION = Completion()


def encode(
    row: Row, tokenizer: PreTrainedTokenizerBase, *, max_tokens: int = 1024, trained: TrainedTokens = COMPLETION
) -> EncodedRow:
    """One row as tokens with its loss mask; see `encode_rows`."""
    return next(encode_rows([row], tokenizer, max_tokens=max_tokens, trained=trained))


def encode_rows(
    rows: Iterable[Row],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_tokens: int = 1024,
    trained: TrainedTokens = COMPLETION,
) -> Iterator[EncodedRow]:
    """Rows as tokens with loss masks, one result per row, in order; tokenised in batches.

    ``trained`` says which tokens bear loss: those that a trainer trains or, by :class:`Completion`, these. The
    conversation is rendered once with the tokenizer's chat template, and that text is tokenised once, without special
    tokens of its own (the template writes them). Every token that *begins* inside an assistant turn's span bears loss.
    One that straddles the span's start bears none: in prompt-completion training it belongs to the prompt. An assistant
    turn without text and tool calls, or with ``weight`` 0, bears none. Tools, calls and reasoning are rendered as the
    template does; a row whose tools or calls it hides is ``tools_not_held``. A document bears loss on every token but
    the first. The sequence is cut after its last loss-bearing token; rows are truncated to ``max_tokens``.

    Raises:
        RipcurrentError: the tokenizer has no offsets or, at the first conversation, no chat template; or the trainer
            does not read such rows.
    """
    if not isinstance(trained, Completion):
        yield from (_encode_as_trained(row, tokenizer, max_tokens, trained) for row in rows)
        return
    chunk: list[Row] = []
    characters = 0
    for row in rows:
        chunk.append(row)
        characters += len(row.text or "") + sum(len(message.shown) for message in row.messages)
        if len(chunk) >= _CHUNK_ROWS or characters >= _CHUNK_CHARACTERS:
            yield from _encode_chunk(chunk, tokenizer, max_tokens, trained.turns)
            chunk, characters = [], 0
    yield from _encode_chunk(chunk, tokenizer, max_tokens, trained.turns)


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


def why_mismatch(row: Row, tokenizer: PreTrainedTokenizerBase, trained: TrainedTokens) -> str | None:
    """What the chat template says of a conversation that it refuses, or how it hides turns; None without either."""
    try:
        if not isinstance(trained, Completion):
            trained.label(row.fields, tokenizer, 8)
            return None
        text = chat_text(row.messages, tokenizer, tools=row.tools)
        for _ in assistant_spans(text, row.messages, bearing_turns(row.messages, trained.turns), tokenizer, row.tools):
            pass
    except (TemplateMismatch, Unusable) as mismatch:
        return str(mismatch)
    return None


def trained_text(
    row: Row, encoded: EncodedRow, tokenizer: PreTrainedTokenizerBase, trained: TrainedTokens = COMPLETION
) -> str:
    """The text of a row's trained answers; of a row of tokens what follows the head of an assistant turn in them."""
    if row.messages or row.text is not None or encoded.status != "ok":
        return row.trained(trained.turns if isinstance(trained, Completion) else "all")
    head = answer_head(tokenizer)
    _, *answers = str(tokenizer.decode(encoded.tokens)).split(head) if head else [""]
    if not answers:
        return str(tokenizer.decode(encoded.tokens[encoded.loss_mask], skip_special_tokens=True))
    ends = "|".join(map(re.escape, tokenizer.all_special_tokens)) or r"\Z"
    return "\n\n".join(re.split(ends, answer, maxsplit=1)[0] for answer in answers)


def _encode_chunk(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_tokens: int, which: Turns
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
        elif not row.messages:
            done[place] = _encode_as_trained(row, tokenizer, max_tokens, Tokenized())
        else:
            try:
                texts[place] = chat_text(row.messages, tokenizer, tools=row.tools)
            except TemplateMismatch:
                done[place] = EncodedRow(row.index, "template_mismatch")
    for special in (False, True):
        places = [place for place in texts if (rows[place].text is not None) is special]
        heads = tokenise([texts[place] for place in places], tokenizer, special=special, max_tokens=max_tokens)
        for place, tokens in zip(places, heads, strict=True):
            row = rows[place]
            done[place] = (
                _encode_document(row, tokens) if special else _encode_chat(row, texts[place], tokens, tokenizer, which)
            )
    return (done[place] for place in range(len(rows)))


def _encode_as_trained(
    row: Row, tokenizer: PreTrainedTokenizerBase, max_tokens: int, trained: TrainedTokens
) -> EncodedRow:
    """The row as a trainer labels it."""
    try:
        require_text(row.fields)
        ids, weights = trained.label(row.fields, tokenizer, max_tokens)
        # a row of just this length may be whole
        cut = len(ids) >= max_tokens and len(trained.label(row.fields, tokenizer, max_tokens + 1).ids) > max_tokens
    except Unusable as unusable:
        return EncodedRow(row.index, unusable.reason)
    except TemplateMismatch:
        return EncodedRow(row.index, "template_mismatch")
    given = np.asarray(weights, dtype=np.float32)
    # the first token has nothing to be predicted from
    given[:1] = 0.0
    bearing = np.flatnonzero(given)
    if len(bearing) == 0:
        return EncodedRow(row.index, "no_loss_tokens")
    length, bear = int(bearing[-1]) + 1, len(bearing)
    tokens, own = np.asarray(ids[:length], dtype=np.int32), given[:length]
    weighed = own if np.unique(own[own > 0]).size > 1 else None
    return EncodedRow(row.index, "ok", tokens, own > 0, weighed, cut, length - bear, bear)


def _encode_document(row: Row, tokens: Tokens) -> EncodedRow:
    """A tokenised document: every token but the first bears loss."""
    loss = np.ones(len(tokens.ids), dtype=np.bool_)
    end = int(tokens.ends.max(initial=0))
    return _finish(row.index, tokens, loss, [Span(0, end, 0, end)], truncated=not tokens.complete)


def _encode_chat(row: Row, text: str, tokens: Tokens, tokenizer: PreTrainedTokenizerBase, which: Turns) -> EncodedRow:
    turns = bearing_turns(row.messages, which)
    if not turns:
        last = next((message for message in reversed(row.messages) if message.role == "assistant"), None)
        return EncodedRow(row.index, "no_loss_tokens" if last is not None and last.shown.strip() else "no_response")
    if hides_tools(text, row, tokenizer):
        return EncodedRow(row.index, "tools_not_held")
    loss = np.zeros(len(tokens.ids), dtype=np.bool_)
    spans: list[Span] = []
    try:
        for span in assistant_spans(text, row.messages, turns, tokenizer, row.tools):
            spans.append(span)
            loss |= tokens.beginning_in(span.start, span.end)
            if span.end > tokens.end:
                # Later turns lie further on still: of a very long row only the head is looked at.
                break
    except TemplateMismatch:
        return EncodedRow(row.index, "template_mismatch")
    except Unusable as unusable:
        return EncodedRow(row.index, unusable.reason)
    cut = spans[-1].end > tokens.end or len(spans) < len(turns)
    encoded = _finish(row.index, tokens, loss, spans, truncated=cut)
    unread = hides_thoughts(text, row.messages) or (row.tools is None and row.fields.get("tools") not in _NO_TOOLS)
    return replace(encoded, unread=True) if unread else encoded


def _finish(
    index: int, tokens: Tokens, loss: npt.NDArray[np.bool_], spans: Sequence[Span], *, truncated: bool
) -> EncodedRow:
    """Cut after the last loss-bearing token."""
    # The first token has nothing to be predicted from.
    loss[:1] = False
    bearing = np.flatnonzero(loss)
    if len(bearing) == 0:
        return EncodedRow(index, "too_long" if spans[0].end > tokens.end else "no_loss_tokens")
    length, bear = int(bearing[-1]) + 1, len(bearing)
    return EncodedRow(index, "ok", tokens.ids[:length], loss[:length], None, truncated, length - bear, bear)


class OpenAI(TrainedTokens):
    """OpenAI's supervised fine-tuning. Its tokens are not known: these are the local model's, of the same turns."""

    def label(self, fields: Fields, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> LabelledTokens:
        if "messages" not in fields:
            hint = "Write them as for the fine-tuning, or score them as they are: --trainer completion"
            raise unread("OpenAI", "messages", fields, hint)
        given = fields["messages"]
        turns = [turn for turn in given if isinstance(turn, Mapping)] if isinstance(given, list) else []
        allowed = all(
            turn.get("weight") in (None, 0, 1) and not {"loss", "train", "training"} & set(turn) for turn in turns
        )
        if not turns or not allowed or turns[-1].get("role") != "assistant":
            # OpenAI refuses the file
            raise Unusable("invalid_conversation")
        messages = FORMATS["openai"].parse({"messages": given})
        assert not isinstance(messages, str)
        row = Row(0, "", messages, None, fields, tools=tool_definitions(fields))
        encoded = encode(row, tokenizer, max_tokens=max_tokens)
        if encoded.status != "ok":
            raise Unusable(encoded.status)
        return LabelledTokens(encoded.tokens.tolist(), encoded.loss_mask.astype(float).tolist())
