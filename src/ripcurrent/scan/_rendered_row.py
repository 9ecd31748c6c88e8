"""One row as it is tokenised, with what bears loss marked, for a person to look at."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from pydantic import JsonValue

from ripcurrent.data import EncodedRow, Row, render

SHOWN_CHARACTERS = 600
"""Longer parts of the shown row are clipped in the middle."""

SHOWN_PARTS = 12
"""Number of parts of the shown row; a conversation may have hundreds of turns."""


class RowPart(NamedTuple):
    """A stretch of a rendered row, clipped in the middle, whose tokens all bear loss, or none."""

    text: str
    bears_loss: bool


@dataclass(frozen=True, slots=True)
class RenderedRow:
    """One row exactly as it is tokenised."""

    row: int
    """0-based position in the input."""
    tokens: int
    """Tokens, up to the last one that bears loss."""
    response_tokens: int
    """Tokens that bear loss."""
    truncated: bool
    """Cut at ``--max-tokens``."""
    parts: tuple[RowPart, ...]
    """Its text in order, up to the last token."""
    parts_left_out: int
    """Further parts that are not shown."""

    def to_json(self) -> dict[str, JsonValue]:
        """The text with the spans that bear loss, in characters of that text."""
        spans: list[JsonValue] = []
        text = ""
        for part in self.parts:
            if part.bears_loss:
                spans.append([len(text), len(text) + len(part.text)])
            text += part.text
        fields = {key: value for key, value in asdict(self).items() if key != "parts"}
        return {**fields, "text": text, "loss_spans": spans}


def rendered_row(row: Row, encoded: EncodedRow, tokenizer: Any) -> RenderedRow:
    """An encoded row's text, parted where its loss mask changes."""
    text = render(row, tokenizer)
    offsets = tokenizer(text, add_special_tokens=row.text is not None, return_offsets_mapping=True, verbose=False)[
        "offset_mapping"
    ]
    offsets = offsets[: len(encoded.tokens)]
    mask = encoded.loss_mask
    edges = [place for place in range(1, len(mask)) if mask[place] != mask[place - 1]]
    parts, start = [], 0
    for first, after in zip([0, *edges], [*edges, len(mask)], strict=True):
        # up to where the next part begins, as offsets may leave out the white space between tokens
        # a token that is not in the text, such as an appended end, has the offset 0
        end = offsets[after][0] if after < len(mask) else max(end for _, end in offsets)
        parts.append(RowPart(_clipped(text[start:end]), bool(mask[first])))
        start = end
    return RenderedRow(
        row=row.index,
        tokens=len(encoded.tokens),
        response_tokens=encoded.response_tokens,
        truncated=encoded.truncated,
        parts=tuple(parts[:SHOWN_PARTS]),
        parts_left_out=max(0, len(parts) - SHOWN_PARTS),
    )


def _clipped(text: str) -> str:
    if len(text) <= SHOWN_CHARACTERS:
        return text
    tail = SHOWN_CHARACTERS // 3
    return f"{text[: SHOWN_CHARACTERS - tail]} […] {text[-tail:]}"
