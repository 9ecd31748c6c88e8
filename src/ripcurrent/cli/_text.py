"""Texts of datasets and models, made safe for a terminal."""

from __future__ import annotations

import unicodedata


def one_line(text: str) -> str:
    """A dataset's text as one line that cannot command the terminal: no line ends, no control characters."""
    return " ".join("".join(" " if _commands(c) else c for c in text).split())


def harmless(text: str) -> str:
    """A text as it is, lines and all, in which nothing can command the terminal."""
    return "".join("�" if _commands(c) and c not in "\n\t" else c for c in text)


def _commands(character: str) -> bool:
    """Whether a character can command a terminal: control characters, lone surrogates, marks that turn text around.

    Spaces and joiners of any language are text.
    """
    turns_around = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in turns_around


def shorten(text: str, room: int) -> str:
    """One line of at most ``room`` characters, an ellipsis at the end of what was cut."""
    line = one_line(text)
    return line if len(line) <= room else line[: room - 1] + "…"
