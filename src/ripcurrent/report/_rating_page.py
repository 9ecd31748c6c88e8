"""The page on which people rate answers: one offline file, blind to arm and judge."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version

from ripcurrent.evaluate import CANNOT_SAY, GUIDANCE, RUBRIC_VERSION, SCALE
from ripcurrent.report._offline_page import asset, render_offline


@dataclass(frozen=True, slots=True)
class PageItem:
    """One answer as a rater meets it."""

    id: str
    """Its opaque id."""
    prompt: str
    """The request."""
    answer: str
    """The answer."""
    truncated: bool
    """Whether the answer stops at the token limit."""


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
    return render_offline(
        "_rating.html.j2",
        style=asset("_rating.css"),
        scripts=[asset("_rating.js")],
        data=data,
        count=len(items),
        scale=SCALE,
        guidance=GUIDANCE,
        rubric=RUBRIC_VERSION,
        version=version("ripcurrent"),
    )
