"""The page on which people rate answers: one offline file, blind to arm and judge."""

from dataclasses import asdict
from importlib.metadata import version

from ripcurrent.evaluate import CANNOT_SAY, GUIDANCE, RUBRIC_VERSION, SCALE, RatingDraw
from ripcurrent.report._page import render_page


def render_rating_page(draw: RatingDraw) -> str:
    """The whole page as text."""
    data = {
        "page": draw.key.page,
        "rubric": RUBRIC_VERSION,
        "cannotSay": CANNOT_SAY,
        "items": [asdict(item) for item in draw.items],
    }
    page = {
        "count": len(draw.items),
        "version": version("ripcurrent"),
        "rubric": RUBRIC_VERSION,
        "scale": SCALE,
        "guidance": GUIDANCE,
    }
    styles, scripts = ["_base.css", "_rating.css"], ["_common.js", "_rating.js"]
    return render_page("_rating.html.j2", page, data, styles=styles, scripts=scripts, plots=False)
