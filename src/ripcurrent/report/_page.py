"""The page's markup: template, style, scripts and data in one file that may fetch nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from datetime import datetime
from importlib import resources
from typing import Any

import altair as alt
import jinja2
import vl_convert
from markupsafe import Markup

from ripcurrent.report._content import PageContent
from ripcurrent.report._summary import QUANTILES

MINUS = "\N{MINUS SIGN}"


def render_page(content: PageContent) -> str:
    """The whole page as text.

    Row texts reach it only as JSON in a data block and are set by ``textContent``. The content security policy names
    the hashes of the page's own style and scripts: anything else that might slip in neither runs nor loads.
    """
    style = _asset("_page.css")
    scripts = [_plot_library(), _asset("_page_tokens.js"), _asset("_page.js")]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": format_number, "count": lambda n: f"{n:,}", "pretty": _pretty, "date": _date}
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
    run = content.run
    return environment.from_string(_asset("_page.html.j2")).render(
        policy=policy,
        style=Markup(style),
        scripts=[Markup(script) for script in scripts],
        data=Markup(embed_json(content.data)),
        page=content,
        manifest=run.manifest,
        metadata=run.metadata,
        scored=content.status_counts.get("ok", 0),
        unscored={status: n for status, n in content.status_counts.items() if status != "ok"},
        quantiles=[f"{round(q * 100)} %" for q in QUANTILES],
        provenance=_provenance(content),
    )


def embed_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in, nor open a comment there: no ``<`` is left in it."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def format_number(value: float | None, *, whole: bool = False) -> str:
    """A measure for reading: three decimals below ten, three significant digits above, a true minus sign."""
    if value is None or math.isnan(value):
        return "–"
    if whole:
        text = f"{value:,.0f}"
    elif value != 0 and (abs(value) < 0.0005 or abs(value) >= 100_000):
        text = f"{value:.2e}"
    elif abs(value) < 10:
        text = f"{value:.3f}"
    else:
        text = f"{value:,.1f}"
    return text.replace("-", MINUS)


def _asset(name: str) -> str:
    return resources.files("ripcurrent.report").joinpath(name).read_text(encoding="utf-8")


def _plot_library() -> str:
    """Vega, Vega-Lite and vega-embed in one script, of the version that Altair writes for."""
    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    library: str = vl_convert.javascript_bundle(vl_version=version)  # type: ignore[call-arg]  # its stub lacks a default
    return library.replace("</script", "<\\/script")


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def _pretty(value: Any) -> str:
    """A manifest's value for reading."""
    if value is None:
        return "–"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_pretty(part)}" for key, part in value.items()) or "–"
    if isinstance(value, list):
        return ", ".join(map(_pretty, value)) or "–"
    return value if isinstance(value, str) else json.dumps(value)


def _date(value: Any) -> str:
    """A manifest's time for reading; as it stands if it is not one."""
    try:
        return datetime.fromisoformat(str(value)).strftime("%d %B %Y, %H:%M %Z").lstrip("0").strip()
    except ValueError:
        return str(value)


def _provenance(content: PageContent) -> list[tuple[str, list[tuple[str, Any]]]]:
    """The manifest's facts in groups, for the footer; all of them but the anchors' long lists."""
    manifest = content.run.manifest
    groups = []
    loose: list[tuple[str, Any]] = []
    for key, value in manifest.items():
        if isinstance(value, dict):
            groups.append(
                (key.replace("_", " "), [(k, v) for k, v in value.items() if k not in ("order", "measurements")])
            )
        else:
            loose.append((key.replace("_", " "), value))
    return [("run", loose), *groups]
