"""What all pages are made with: one file of template, style, scripts and data that may fetch nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup


def render_offline(
    template: str,
    *,
    style: str,
    scripts: Sequence[str],
    data: Any,
    filters: Mapping[str, Callable[..., Any]] | None = None,
    **values: Any,
) -> str:
    """A page as text, from a template of this package.

    Texts of rows and answers reach it only as JSON in a data block and are set by ``textContent``; names are escaped.
    The content security policy names the hashes of the page's own style and scripts: anything else that might slip in
    neither runs nor loads, and nothing can be sent.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= dict(filters or {})
    policy = "; ".join(
        [
            "default-src 'none'",
            "script-src " + " ".join(map(_hash, scripts)),
            "style-src " + _hash(style),
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    return environment.from_string(asset(template)).render(
        policy=policy,
        style=Markup(style),
        scripts=[Markup(script) for script in scripts],
        data=Markup(embed_json(data)),
        **values,
    )


def asset(name: str) -> str:
    """A template, style or script of this package."""
    return resources.files("ripcurrent.report").joinpath(name).read_text(encoding="utf-8")


def plot_library() -> str:
    """Vega, Vega-Lite and vega-embed in one script, of the version that Altair writes for."""
    import altair as alt
    import vl_convert

    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    library: str = vl_convert.javascript_bundle(vl_version=version)  # type: ignore[call-arg]  # its stub lacks a default
    return library.replace("</script", "<\\/script")


def embed_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in, nor open a comment there: no ``<`` is left in it."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
