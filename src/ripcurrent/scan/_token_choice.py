"""Which rows ``--tokens`` asks for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ripcurrent.errors import RipcurrentError

_ENTRY = re.compile(r"(top|bottom):(\d{1,9})")


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """So many rows of either end of the ranking."""

    top: int
    """Riskiest rows."""
    bottom: int
    """Most protective rows."""

    def within(self, ranked: int) -> TokenChoice:
        """No row at both ends: of too few rows each end gets its half, or what the other leaves."""
        if self.top + self.bottom <= ranked:
            return self
        top = min(self.top, max(ranked - self.bottom, (ranked + 1) // 2))
        return TokenChoice(top, ranked - top)


def parse_token_choice(text: str) -> TokenChoice:
    """``top:500`` for as many of both ends, ``top:500,bottom:100`` for each its own, ``bottom:100`` for that end alone.

    Raises:
        RipcurrentError: Anything else, or no row at all.
    """
    entries = [_ENTRY.fullmatch(entry.strip()) for entry in text.split(",")]
    found = {entry[1]: int(entry[2]) for entry in entries if entry is not None}
    if None in entries or len(found) < len(entries) or not any(found.values()):
        raise RipcurrentError(
            f"--tokens {text!r} names no rows.",
            "Write top:500 for the 500 riskiest and the 500 most protective rows, top:500,bottom:100 for each its own "
            "number, or bottom:100 for the protective ones alone.",
        )
    top = found.get("top", 0)
    return TokenChoice(top, found.get("bottom", top))
