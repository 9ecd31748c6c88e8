"""The page on which people rate answers: one offline file, blind to arm and judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version

from ripcurrent.evaluate import CANNOT_SAY, GUIDANCE, RUBRIC_VERSION, SCALE, RatingDraw
from ripcurrent.report._page import render_page


@dataclass(frozen=True, slots=True)
class RatingTexts:
    """What the template shows beside the answers."""

    count: int
    version: str
    rubric: str = RUBRIC_VERSION
    scale: Sequence[tuple[str, str]] = SCALE
    guidance: str = GUIDANCE


def render_rating_page(draw: RatingDraw) -> str:
    """The whole page as text."""
    data = {
        "page": draw.key.page,
        "rubric": RUBRIC_VERSION,
        "cannotSay": CANNOT_SAY,
        "items": [asdict(item) for item in draw.items],
    }
    page = RatingTexts(len(draw.items), version("ripcurrent"))
    styles, scripts = ["_base.css", "_rating.css"], ["_common.js", "_rating.js"]
    return render_page("_rating.html.j2", page, data, styles=styles, scripts=scripts, plots=False)
