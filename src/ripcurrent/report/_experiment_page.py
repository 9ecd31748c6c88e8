"""An experiment's page: from its ``results.json`` to one file that fetches nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ripcurrent.errors import RipcurrentError
from ripcurrent.runs import written_whole

RESULTS = "results.json"


def build_experiment_page(folder: Path) -> Path:
    """Write ``report.html`` into an experiment's folder and return its path.

    Raises:
        RipcurrentError: The folder holds no results, or the page cannot be written.
    """
    path = folder / RESULTS
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RipcurrentError(
            f"{path} cannot be read: {error}.", "Run the same `ripcurrent experiment` again; finished arms are kept."
        ) from error
    target = folder / "report.html"
    with written_whole(target) as part:
        # a file name may be no UTF-8
        part.write_text(render_experiment(results), encoding="utf-8", errors="replace", newline="\n")
    return target


def render_experiment(results: Mapping[str, Any]) -> str:
    """The page as text. Names reach it escaped; the policy stops what might slip in, as on a scan's page."""
    from ripcurrent.report._experiment_charts import intervals_spec, judgement_spec, sweep_spec
    from ripcurrent.report._experiment_content import experiment_content
    from ripcurrent.report._offline_page import asset, plot_library, render_offline
    from ripcurrent.report._page import MINUS, date, format_number, pretty

    content = experiment_content(results)
    arms = [line.name for line in content.arms]
    data = {
        "judges": [judge.name for judge in content.judges],
        "points": list(content.points),
        "intervals": intervals_spec(arms),
        "refusals": list(content.refusals),
        "judgement": judgement_spec(arms) if content.shows_judgement else None,
        "sweep": sweep_spec() if results["trends"] else None,
        "trends": results["trends"],
    }
    return render_offline(
        "_experiment.html.j2",
        style=asset("_page.css") + asset("_experiment.css"),
        scripts=[plot_library(), asset("_common.js"), asset("_experiment.js")],
        data=data,
        filters={
            "number": format_number,
            "count": lambda n: f"{n:,}",
            "pretty": pretty,
            "date": date,
            "percent": percent,
            "points": points,
            "p": p_value,
            "change": change,
            "minus": lambda text: text.replace("-", MINUS),
        },
        page=content,
        results=results,
        provenance=_provenance(results),
    )


def percent(value: float | None) -> str:
    """A share in percent with one decimal, or a dash."""
    return "–" if value is None else f"{100 * value:.1f}"


def points(value: float | None) -> str:
    """A difference of shares in points, signed, or a dash."""
    return "–" if value is None else f"{100 * value:+.1f}".replace("-", "−")


def change(value: float) -> str:
    """A signed change of a loss; what rounds to nothing has no sign."""
    return "0.000" if abs(value) < 0.0005 else f"{value:+.3f}".replace("-", "−")


def p_value(value: float | None) -> str:
    """A p for reading."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _provenance(results: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, Any]]]]:
    groups: list[tuple[str, list[tuple[str, Any]]]] = [
        (
            "experiment",
            [
                (key.replace("_", " "), results[key])
                for key in ("name", "version", "model", "recipe", "seeds", "usable_rows", "heldout_rows")
            ],
        ),
        ("dataset", list(results["dataset"].items())),
        ("scanned with", list(results["scanned_with"].items())),
        ("versions", list(results["versions"].items())),
    ]
    groups += [(f"recipe {name}", list(recipe.items())) for name, recipe in results["recipes"].items()]
    groups += [(f"prompts {one['name']}", list(one.items())) for one in results["prompts"]]
    return groups
