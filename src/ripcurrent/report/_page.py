"""What all pages are made with: one file of template, styles, scripts and data that fetches nothing; values as text."""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ripcurrent.report import without_plots
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
    connect: bool = False,
) -> str:
    """A page as text, from a template of this package and a record of what it shows.

    Texts of rows and answers reach it only as JSON in a data block and are set by ``textContent``; names are escaped.
    The content security policy names the hashes of the page's own style and scripts: nothing else runs, loads or is
    sent. With ``connect`` it may ask the server that it came from, and no other.
    """
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_asset),
    )
    environment.filters |= FILTERS
    environment.globals["without_plots"] = note = without_plots()
    style = "".join(map(_asset, styles))
    codes = [*([_plot_library()] if plots and not note else []), *map(_asset, scripts)]
    own = f"script-src {' '.join(map(_hash, codes))}; style-src {_hash(style)}"
    own += "; connect-src 'self'" if connect else ""
    return environment.get_template(template).render(
        policy=f"default-src 'none'; {own}; img-src data:; base-uri 'none'; form-action 'none'",
        style=Markup(style),
        scripts=[Markup(code) for code in codes],
        data=Markup(embed_json(data)),
        page=page,
    )


def write_page(path: Path, text: str) -> Path:
    """Write a page whole: an interrupted call leaves an earlier one as it was."""
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


def number(value: float | None) -> str:
    """A measure: three significant digits below a tenth, then three decimals; a true minus sign."""
    size = 0.0 if value is None else abs(value)
    if size != 0 and (size < 0.0005 or size >= 100_000):
        return _signed(value, ".2e")
    return _signed(value, "#.3g" if 0 < size < 0.1 else ".3f" if size < 10 else ",.1f")


def _signed(value: float | None, form: str) -> str:
    return "–" if value is None or value != value else f"{value:{form}}".replace("-", "\N{MINUS SIGN}")


def _pretty(value: object) -> str:
    """A value of a manifest."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_pretty(part)}" for key, part in value.items()) or "–"
    if isinstance(value, list | tuple):
        return ", ".join(map(_pretty, value)) or "–"
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value)


def _date(value: object) -> str:
    """A time of a manifest; as it stands if it is none."""
    try:
        return datetime.fromisoformat(str(value)).strftime("%d %B %Y, %H:%M %Z").lstrip("0").strip()
    except ValueError:
        return str(value)


FILTERS: dict[str, Callable[..., str]] = {
    "number": number,
    "count": lambda value: _signed(value, ","),
    "percent": lambda share: _signed(share and 100 * share, ".1f"),
    "whole_percent": lambda share: f"{100 * share:.0f}\N{NO-BREAK SPACE}%",
    "points": lambda share: _signed(share and 100 * share, "+.1f"),
    # a change of a loss: what rounds to nothing has no sign
    "change": lambda value: _signed(value, "+.3f" if value is None or abs(value) >= 0.0005 else "z.3f"),
    "p_value": lambda p: "< 0.001" if p is not None and p < 0.001 else _signed(p, ".3f"),
    "pretty": _pretty,
    "date": _date,
}
"""How the templates show values."""
