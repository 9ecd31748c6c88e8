"""An experiment's page: from its ``results.json`` to one file that fetches nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ripcurrent.errors import RipcurrentError
from ripcurrent.run import written_whole

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
        part.write_text(render_experiment(results), encoding="utf-8", newline="\n")
    return target


def render_experiment(results: Mapping[str, Any]) -> str:
    """The page as text. Names reach it escaped; the policy stops what might slip in, as on a scan's page."""
    import jinja2
    from markupsafe import Markup

    from ripcurrent.report._experiment_charts import intervals_spec, judgement_spec, sweep_spec
    from ripcurrent.report._experiment_content import experiment_content
    from ripcurrent.report._page import MINUS, _asset, _date, _hash, _plot_library, _pretty, embed_json, format_number

    content = experiment_content(results)
    style = _asset("_page.css") + _asset("_experiment.css")
    scripts = [_plot_library(), _asset("_experiment.js")]
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
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": format_number,
        "count": lambda n: f"{n:,}",
        "pretty": _pretty,
        "date": _date,
        "percent": percent,
        "points": points,
        "p": p_value,
        "change": change,
        "minus": lambda text: text.replace("-", MINUS),
    }
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
    return environment.from_string(_asset("_experiment.html.j2")).render(
        policy=policy,
        style=Markup(style),
        scripts=[Markup(script) for script in scripts],
        data=Markup(embed_json(data)),
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
