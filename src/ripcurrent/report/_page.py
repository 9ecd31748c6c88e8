"""What all pages are made with: one file of template, styles, scripts and data that may fetch nothing."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ripcurrent.report._format import FILTERS
from ripcurrent.runs import written_whole

Data = dict[str, Any]
"""What a page's script reads, as JSON values."""


def render_page(
    template: str,
    page: Mapping[str, object],
    data: Data,
    *,
    styles: Sequence[str],
    scripts: Sequence[str],
    plots: bool = True,
) -> str:
    """A page as text, from a template of this package and a record of what it shows.

    Texts of rows and answers reach it only as JSON in a data block and are set by ``textContent``; names are escaped.
    The content security policy names the hashes of the page's own style and scripts: anything else that might slip in
    neither runs nor loads, and nothing can be sent.
    """
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_asset),
    )
    environment.filters |= FILTERS
    style = "".join(map(_asset, styles))
    codes = [*([_plot_library()] if plots else []), *map(_asset, scripts)]
    policy = [
        "default-src 'none'",
        "script-src " + " ".join(map(_hash, codes)),
        "style-src " + _hash(style),
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    return environment.get_template(template).render(
        policy="; ".join(policy),
        style=Markup(style),
        scripts=[Markup(code) for code in codes],
        data=Markup(embed_json(data)),
        page=page,
    )


def write_page(path: Path, text: str) -> Path:
    """Write a page whole: an interrupted call leaves an earlier one as it was.

    Raises:
        RipcurrentError: It cannot be written.
    """
    with written_whole(path) as part:
        # a path that is no UTF-8 is shown with question marks
        part.write_text(text, encoding="utf-8", errors="replace", newline="\n")
    return path


def embed_json(value: Data) -> str:
    """JSON that cannot end the script element it stands in, nor open a comment there: no ``<`` is left in it."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _asset(name: str) -> str:
    return resources.files("ripcurrent.report").joinpath(name).read_text(encoding="utf-8")


def _plot_library() -> str:
    """Vega, Vega-Lite and vega-embed in one script, of the version that Altair writes for."""
    import altair as alt
    import vl_convert

    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    library: str = vl_convert.javascript_bundle(vl_version=version)  # type: ignore[call-arg]  # its stub lacks a default
    return library.replace("</script", "<\\/script")


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
