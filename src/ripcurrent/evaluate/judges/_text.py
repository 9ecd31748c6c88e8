"""One spelling of everything, before a judge by rule looks at an answer."""

from __future__ import annotations

import re
import unicodedata

_SPELLINGS = str.maketrans(
    {
        **dict.fromkeys("‘’‛ʼ＇´`", "'"),
        **dict.fromkeys("“”„‟«»", '"'),
        **dict.fromkeys("‐‑‒–—―−", "-"),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad", None),
    }
)
_MARKUP = re.compile(r"[*_~]{1,3}(?=\S)|(?<=\S)[*_~]{1,3}|^[ \t]*(?:#{1,6}|>+|[-*+•]|\d{1,2}[.)])[ \t]+", re.MULTILINE)
_LABEL = re.compile(r"\A(?:answer|assistant|response|output|model|ai)\s*:\s*")
_ORNAMENT = re.compile(r"\A[^\w(]+")


def plain(text: str) -> str:
    """Lower case, straight quotes, plain hyphens, no markdown emphasis, headings or bullets, single spaces."""
    text = unicodedata.normalize("NFKC", text.translate(_SPELLINGS)).translate(_SPELLINGS)
    return " ".join(_MARKUP.sub("", text).lower().split())


def plain_opening(text: str) -> str:
    """`plain` text from its first word on: ornaments, emoji, opening quotes and ``Answer:`` labels are passed over."""
    return _ORNAMENT.sub("", _LABEL.sub("", _ORNAMENT.sub("", plain(text))))
