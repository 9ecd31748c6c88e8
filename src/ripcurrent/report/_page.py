"""A scan's page from its content, and how its values read."""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import Any

from ripcurrent.report._content import PageContent
from ripcurrent.report._offline_page import asset, plot_library, render_offline
from ripcurrent.report._summary import QUANTILES
from ripcurrent.scan._separation import weakly_separated

MINUS = "\N{MINUS SIGN}"


def render_page(content: PageContent) -> str:
    """The whole page as text."""
    run = content.run
    return render_offline(
        "_page.html.j2",
        style=asset("_page.css"),
        scripts=[plot_library(), asset("_common.js"), asset("_page_tokens.js"), asset("_page.js")],
        data=content.data,
        filters={"number": format_number, "count": lambda n: f"{n:,}", "pretty": pretty, "date": date},
        page=content,
        manifest=run.manifest,
        metadata=run.metadata,
        scored=content.status_counts.get("ok", 0),
        truncated=int((content.run.flags("truncated") & content.run.scored()).sum()),
        unscored={status: n for status, n in content.status_counts.items() if status != "ok"},
        weak_anchors=list(weakly_separated(run.manifest["anchors"].get("separation") or {})),
        quantiles=[f"{round(q * 100)} %" for q in QUANTILES],
        provenance=_provenance(content),
    )


def format_number(value: float | None, *, whole: bool = False) -> str:
    """A measure for reading: three significant digits below a tenth, then three decimals; a true minus sign."""
    if value is None or math.isnan(value):
        return "–"
    if whole:
        text = f"{value:,.0f}"
    elif value != 0 and (abs(value) < 0.0005 or abs(value) >= 100_000):
        text = f"{value:.2e}"
    elif value != 0 and abs(value) < 0.1:
        text = f"{value:#.3g}"
    elif abs(value) < 10:
        text = f"{value:.3f}"
    else:
        text = f"{value:,.1f}"
    return text.replace("-", MINUS)


def pretty(value: Any) -> str:
    """A manifest's value for reading."""
    if value is None:
        return "–"
    if isinstance(value, dict):
        return ", ".join(f"{key} {pretty(part)}" for key, part in value.items()) or "–"
    if isinstance(value, list):
        return ", ".join(map(pretty, value)) or "–"
    return value if isinstance(value, str) else json.dumps(value)


def date(value: Any) -> str:
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
