"""Long plain documents as windows: pieces short enough for the model, each a sequence of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ripcurrent.data._encode import encode, encode_document
from ripcurrent.data._render import check_tokenizer
from ripcurrent.data._tokens import tokenise
from ripcurrent.data._types import EncodedRow, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WHOLE = 2**40
"""More tokens than a document has."""


def encode_windows(
    rows: Iterable[Row], tokenizer: PreTrainedTokenizerBase, *, max_tokens: int = 1024
) -> Iterator[list[EncodedRow]]:
    """Each document as one or more windows of at most ``max_tokens`` tokens, in order.

    A window begins with the last token of the one before, so that every token of the document but its first bears loss
    in exactly one window. Windows are as few as they can be and of nearly equal length. Each is a sequence of its own:
    only the first one begins with the tokenizer's own start token, if it has one. A row that is no document, or that
    cannot be scored, is one `EncodedRow` as `encode_rows` gives it.
    """
    for row in rows:
        if row.text is None or row.problem is not None:
            yield [encode(row, tokenizer, max_tokens=max_tokens)]
            continue
        check_tokenizer(tokenizer, chat=False)
        (tokens,) = tokenise([row.text], tokenizer, special=True, max_tokens=WHOLE)
        if len(tokens.ids) <= max_tokens:
            yield [encode_document(row, tokens)]
            continue
        # each window predicts all its tokens but the first
        count = -(-(len(tokens.ids) - 1) // (max_tokens - 1))
        edges = np.linspace(0, len(tokens.ids) - 1, count + 1).round().astype(int)
        yield [_window(row.index, tokens.ids[first : last + 1]) for first, last in pairwise(edges)]


def window_starts(windows: Iterable[EncodedRow]) -> list[int]:
    """The place in the document of each window's first token."""
    starts, at = [], 0
    for window in windows:
        starts.append(at)
        at += max(0, len(window.tokens) - 1)
    return starts


def _window(index: int, tokens: npt.NDArray[np.int32]) -> EncodedRow:
    last = len(tokens) - 1
    bearing = np.arange(len(tokens)) > 0
    return EncodedRow(index, "ok", tokens, bearing, prompt_tokens=1, response_tokens=last, last_content=last)
