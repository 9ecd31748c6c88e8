"""Where a row's tokens lie in its prompt and response, and what kind of text each is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ripcurrent.data._encode import tokenise
from ripcurrent.data._render import PROBE, TemplateMismatch, chat_text
from ripcurrent.data._traits import BULLET_LINE, NUMBERED_LINE
from ripcurrent.data._types import EncodedRow, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TokenPart = Literal["prompt", "response", "template"]
"""``prompt``: a user turn's text; ``response``: an assistant turn's; ``template``: all else, such as headers,
end-of-turn tokens, system and tool turns."""

TokenKind = Literal["special", "list_marker", "line_break", "space", "word", "digit", "punctuation"]
"""What a token is: the first of these that fits; a line break or space is white space alone, a word has a letter."""

_BETWEEN_TURNS = 2
"""Characters between the turns of one part in :class:`Row`'s ``prompt`` and ``response``: a blank line."""


@dataclass(frozen=True, slots=True)
class TokenPlace:
    """One token of a row."""

    part: TokenPart
    start: int
    """Character of the row's ``prompt`` or ``response`` at which it begins; -1 in the template."""
    end: int
    kind: TokenKind


@dataclass(frozen=True, slots=True)
class _Turn:
    part: TokenPart
    start: int
    end: int
    offset: int


def token_places(row: Row, encoded: EncodedRow, tokenizer: PreTrainedTokenizerBase) -> list[TokenPlace]:
    """The place of every token of an encoded row, in order.

    A token that lies in two texts counts to the one that it begins in, and one that begins in the template before a
    turn's text and reaches into it to that text. Where a template rewrites a turn, its tokens count as ``template``.
    """
    text = row.text if row.text is not None else chat_text(row.messages, tokenizer, tools=row.tools)
    length = len(encoded.tokens)
    (tokens,) = tokenise([text], tokenizer, special=row.text is not None, max_tokens=length)
    turns = [_Turn("response", 0, len(text), 0)] if row.text is not None else list(_turns(row, text, tokenizer))
    markers = {
        turn.start + place
        for turn in turns
        for pattern in (BULLET_LINE, NUMBERED_LINE)
        for found in pattern.finditer(text[turn.start : turn.end])
        for place in range(*found.span())
    }
    special = set(tokenizer.all_special_ids)
    places: list[TokenPlace] = []
    for token, start, end in zip(encoded.tokens.tolist(), tokens.starts.tolist(), tokens.ends.tolist(), strict=True):
        piece = text[start:end]
        turn = next((turn for turn in turns if start < turn.end and end > turn.start), None)
        kind = "special" if token in special else _kind(piece, start, markers)
        if turn is None:
            places.append(TokenPlace("template", -1, -1, kind))
            continue
        first, last = max(start, turn.start), min(end, turn.end)
        places.append(TokenPlace(turn.part, first - turn.start + turn.offset, last - turn.start + turn.offset, kind))
    return places


def _turns(row: Row, text: str, tokenizer: PreTrainedTokenizerBase) -> Iterator[_Turn]:
    """Texts of the user and assistant turns that stand in the rendering as they are, or stripped."""
    offsets: dict[TokenPart, int] = {"prompt": 0, "response": 0}
    for number, message in enumerate(row.messages):
        if message.role not in ("user", "assistant"):
            continue
        part: TokenPart = "prompt" if message.role == "user" else "response"
        offset = offsets[part]
        offsets[part] += len(message.shown) + _BETWEEN_TURNS
        try:
            probe = chat_text([*row.messages[:number], type(message)(message.role, PROBE)], tokenizer, tools=row.tools)
        except TemplateMismatch:
            continue
        start = probe.rfind(PROBE)
        if start < 0 or not text.startswith(probe[:start]):
            continue
        stripped = message.content.strip()
        for form, skipped in ((message.content, 0), (stripped, message.content.find(stripped))):
            if form and text.startswith(form, start):
                yield _Turn(part, start, start + len(form), offset + skipped)
                break


def _kind(piece: str, start: int, markers: set[int]) -> TokenKind:
    inked = [start + place for place, character in enumerate(piece) if not character.isspace()]
    if inked and all(place in markers for place in inked):
        return "list_marker"
    if not inked:
        return "line_break" if "\n" in piece or "\r" in piece else "space"
    if any(character.isalpha() for character in piece):
        return "word"
    return "digit" if any(character.isdigit() for character in piece) else "punctuation"
