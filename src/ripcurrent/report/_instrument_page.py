"""The page of a probe, a mechanism table or format edits: from ``results.json`` to one file that fetches nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ripcurrent.errors import RipcurrentError
from ripcurrent.runs import written_whole

if TYPE_CHECKING:
    from ripcurrent.report._instrument_content import InstrumentContent

RESULTS = "results.json"
KINDS = ("probe", "mechanism", "edits")
"""The kinds that have such a page."""


def build_instrument_page(folder: Path) -> Path:
    """Write ``report.html`` into the folder of a probe, a mechanism table or format edits and return its path.

    Raises:
        RipcurrentError: The folder holds no results of one of these, or the page cannot be written.
    """
    path = folder / RESULTS
    hint = "Run the same `ripcurrent experiment` again; what is done is kept."
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RipcurrentError(f"{path} cannot be read: {error}.", hint) from error
    if not isinstance(results, dict) or results.get("kind") not in KINDS:
        raise RipcurrentError(f"{path} is no result of a probe, a mechanism table or format edits.", hint)
    if "experiment" not in results:
        raise RipcurrentError(f"{path} was made by a version that kept no keys for the page.", hint)
    target = folder / "report.html"
    with written_whole(target) as part:
        # a file name may be no UTF-8
        part.write_text(render_instrument(results), encoding="utf-8", errors="replace", newline="\n")
    return target


def render_instrument(results: Mapping[str, Any]) -> str:
    """The page as text. Names reach it escaped; the policy stops what might slip in, as on a scan's page."""
    import yaml

    from ripcurrent.report._offline_page import asset, plot_library, render_offline
    from ripcurrent.report._page import pretty

    content = _content(str(results["kind"]))(results)
    figures = [figure for section in content.sections for figure in section.figures]
    data = [
        {"id": figure.name, "spec": figure.spec, "points": list(figure.points), "choose": figure.choose}
        for figure in figures
    ]
    return render_offline(
        "_instrument.html.j2",
        style=asset("_page.css") + asset("_experiment.css"),
        scripts=[plot_library(), asset("_common.js"), asset("_instrument.js")],
        data=data,
        filters={"pretty": pretty},
        page=content,
        results=results,
        file=yaml.safe_dump(dict(results["experiment"]), sort_keys=False, allow_unicode=True, width=110),
    )


def _content(kind: str) -> Callable[[Mapping[str, Any]], InstrumentContent]:
    from ripcurrent.report._edits_content import edits_content
    from ripcurrent.report._mechanism_content import mechanism_content
    from ripcurrent.report._probe_content import probe_content

    return {"probe": probe_content, "mechanism": mechanism_content, "edits": edits_content}[kind]
