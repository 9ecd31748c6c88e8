"""Text that files and requests can carry."""

from __future__ import annotations


def writable(text: str) -> str:
    """The text with halves of surrogate pairs, which no file and no request can carry, as question marks."""
    return text.encode("utf-8", errors="replace").decode("utf-8")
