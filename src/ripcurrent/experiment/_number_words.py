"""Numbers in English words."""

from __future__ import annotations

import re

_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES = ((10**9, "billion"), (10**6, "million"), (10**3, "thousand"))
LARGEST = 10**12
"""Numbers from here on are left as they are."""

_NUMBER = re.compile(
    r"""
    (?<![\w.])                                  # no part of a word, a version or a larger decimal
    (?P<currency>[$€£])?
    (?P<whole>\d{1,3}(?:,\d{3})+|\d+)
    (?:\.(?P<decimals>\d+))?
    (?P<percent>[ \t]?%)?
    (?!\w)(?!\.\d)
    """,
    re.VERBOSE,
)
_CURRENCIES = {"$": ("dollar", "dollars"), "€": ("euro", "euros"), "£": ("pound", "pounds")}


def spell_numbers(text: str) -> str:
    """A text with every number that stands alone in words; one inside a word (``H2O``, ``1st``) stays."""
    return _NUMBER.sub(_spelled, text)


def number_words(number: int, *, year: bool = False) -> str:
    """A whole number from 0 up in words, ``twenty-five``; as a year ``nineteen ninety-five``, ``nineteen hundred``."""
    if year:
        century, rest = divmod(number, 100)
        if rest == 0:
            return f"{number_words(century)} hundred"
        return f"{number_words(century)} {'oh ' if rest < 10 else ''}{number_words(rest)}"
    for scale, name in _SCALES:
        if number >= scale:
            above, below = divmod(number, scale)
            return f"{number_words(above)} {name}" + (f" {number_words(below)}" if below else "")
    if number >= 100:
        above, below = divmod(number, 100)
        return f"{_ONES[above]} hundred" + (f" {number_words(below)}" if below else "")
    if number >= 20:
        above, below = divmod(number, 10)
        return _TENS[above] + (f"-{_ONES[below]}" if below else "")
    return _ONES[number]


def _spelled(found: re.Match[str]) -> str:
    whole, decimals = found["whole"], found["decimals"]
    number = int(whole.replace(",", ""))
    if number >= LARGEST or (len(whole) > 1 and whole.startswith("0")):
        return found.group()
    # four digits without a comma are mostly years; the twenty hundreds are not said so
    is_year = len(whole) == 4 and not decimals and not found["currency"] and _said_as_year(number)
    words = number_words(number, year=is_year)
    if decimals:
        words += " point " + " ".join(_ONES[int(digit)] for digit in decimals)
    if found["currency"]:
        singular, plural = _CURRENCIES[found["currency"]]
        words += f" {singular if number == 1 and not decimals else plural}"
    return words + (" percent" if found["percent"] else "")


def _said_as_year(number: int) -> bool:
    return 1100 <= number < 2000 or 2010 <= number < 2100
