"""Texts as tokens with character offsets, no further than asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHARACTERS_PER_TOKEN = 16
"""A head of so many characters a token nearly always holds enough tokens; where it does not, more is taken."""
_MARGIN = 64
"""Tokens beyond the head. A cut in the text changes the tokens next to it; these keep it away from the head."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The head of a tokenised text."""

    ids: npt.NDArray[np.int32]
    """Token ids, at most the number asked for."""
    starts: npt.NDArray[np.int64]
    """Character at which each token begins."""
    ends: npt.NDArray[np.int64]
    """Character after each token."""
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
    if not texts:
        return []
    reach = _CHARACTERS_PER_TOKEN * (max_tokens + _MARGIN)
    encodings = _batch([text[:reach] for text in texts], tokenizer, special)
    result = []
    for text, first in zip(texts, encodings, strict=True):
        encoding, taken = first, reach
        while taken < len(text) and len(encoding.ids) < max_tokens + _MARGIN:
            taken *= 4
            (encoding,) = _batch([text[:taken]], tokenizer, special)
        result.append(_head(encoding, len(text), max_tokens))
    return result


def _batch(texts: list[str], tokenizer: PreTrainedTokenizerBase, special: bool) -> Sequence[Any]:
    batch = tokenizer(
        texts, add_special_tokens=special, return_offsets_mapping=False, return_attention_mask=False, verbose=False
    )
    encodings: Sequence[Any] = batch.encodings
    return encodings


def _head(encoding: Any, characters: int, max_tokens: int) -> Tokens:
    ids = np.asarray(encoding.ids[:max_tokens], dtype=np.int32)
    offsets = np.asarray(encoding.offsets[: max_tokens + 1], dtype=np.int64).reshape(-1, 2)
    starts, ends = offsets[:, 0], offsets[:, 1]
    # Tokenizers that trim offsets report a token of white space as empty, at its end: it begins before that.
    starts = np.where(starts == ends, starts - 1, starts)
    complete = len(encoding.ids) <= max_tokens
    return Tokens(
        ids=ids,
        starts=starts[:max_tokens],
        ends=ends[:max_tokens],
        complete=complete,
        end=characters if complete else int(starts[max_tokens]),
    )
