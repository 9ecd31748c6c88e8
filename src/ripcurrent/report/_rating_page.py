"""The page on which people rate answers: one offline file, blind to arm and judge."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version

import jinja2
from markupsafe import Markup

from ripcurrent.evaluation._ratings import CANNOT_SAY, GUIDANCE, RUBRIC_VERSION, SCALE
from ripcurrent.report._page import _asset, _hash, embed_json


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
    """The whole page as text.

    Texts reach it only as JSON in a data block and are set by ``textContent``. The content security policy names the
    hashes of the page's own style and script: nothing else runs or loads, and nothing can be sent.
    """
    style, script = _asset("_rating.css"), _asset("_rating.js")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    data = {
        "page": rating_page_hash(items),
        "rubric": RUBRIC_VERSION,
        "cannotSay": CANNOT_SAY,
        "items": [asdict(item) for item in items],
    }
    return environment.from_string(_asset("_rating.html.j2")).render(
        policy=policy,
        style=Markup(style),
        script=Markup(script),
        data=Markup(embed_json(data)),
        count=len(items),
        scale=SCALE,
        guidance=GUIDANCE,
        rubric=RUBRIC_VERSION,
        version=version("ripcurrent"),
    )
