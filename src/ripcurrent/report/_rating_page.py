"""The page on which people rate answers: one offline file, blind to arm and judge."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version

from ripcurrent.evaluate import CANNOT_SAY, GUIDANCE, RUBRIC_VERSION, SCALE
from ripcurrent.report._page import render_page


@dataclass(frozen=True, slots=True)
class PageItem:
    """One answer as a rater meets it."""

    id: str
    """Its opaque id."""
    prompt: str
    answer: str
    truncated: bool
    """Whether the answer stops at the token limit."""


@dataclass(frozen=True, slots=True)
class RatingTexts:
    """What the template shows beside the answers."""

    count: int
    version: str
    rubric: str = RUBRIC_VERSION
    scale: Sequence[tuple[str, str]] = SCALE
    guidance: str = GUIDANCE


def rating_page_hash(items: Sequence[PageItem]) -> str:
    """Hash of what a rater sees: the items in their order and the rubric."""
    content = {"rubric": RUBRIC_VERSION, "items": [asdict(item) for item in items]}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def render_rating_page(items: Sequence[PageItem]) -> str:
    """The whole page as text."""
    data = {
        "page": rating_page_hash(items),
        "rubric": RUBRIC_VERSION,
        "cannotSay": CANNOT_SAY,
        "items": [asdict(item) for item in items],
    }
    page = RatingTexts(len(items), version("ripcurrent"))
    styles, scripts = ["_base.css", "_rating.css"], ["_common.js", "_rating.js"]
    return render_page("_rating.html.j2", page, data, styles=styles, scripts=scripts, plots=False)
