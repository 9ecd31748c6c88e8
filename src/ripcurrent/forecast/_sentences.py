"""A scan's forecast as its run folder keeps it, and in sentences."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ripcurrent.errors import RipcurrentError

FORECAST = "forecast.json"
"""Where a scan's forecast is kept in its run folder."""


def read_forecast(folder: Path) -> dict[str, Any] | None:
    """The forecast in a scan's run folder; None where there is none."""
    try:
        found: dict[str, Any] = json.loads((folder / FORECAST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RipcurrentError(
            f"{folder / FORECAST} is damaged.", "Remove it, or run the same scan again: nothing is scored anew."
        ) from error
    return found


def forecast_lines(forecast: Mapping[str, Any]) -> list[str]:
    """A forecast in sentences, the same for the terminal and the page."""
    if "reason" in forecast:
        return [f"No forecast. {forecast['reason']}"]
    judge, prompts = forecast["judge"], forecast["prompts"]
    model = forecast["model"] + (f" with {forecast['adapter']}" if forecast["adapter"] else "")
    kappas = judge.get("kappas")
    agreement = f", κ {kappas[0]:.2f} to {kappas[1]:.2f} with people" if kappas else ""
    lines = [
        f"Forecast with the model {model} and the recipe {forecast['recipe']}, of {prompts['count']} harmful requests "
        f"({prompts['name']}; judge {judge['name']} {judge['version']}{agreement}):"
    ]
    for one in forecast["sets"]:
        if "reason" in one:
            lines.append(f"{one['words']}: no forecast, {one['reason']}")
            continue
        beside = one["reference"]
        lines.append(
            f"{one['words']}: answered {_share(one['answered'])} (90 % interval {_range(one)}), "
            f"against {_share(beside['answered'])} ({_range(beside)}) for a random set of {beside['name']}"
        )
    lines.append(_error_line(forecast))
    return [*lines, *forecast["notes"]]


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def _range(one: Mapping[str, float]) -> str:
    return f"{100 * one['low']:.0f}–{100 * one['high']:.0f} %"


def _error_line(forecast: Mapping[str, Any]) -> str:
    # of a calibration that knows which sets share rows, the error without any of these
    rows, sources = forecast.get("error_by_rows"), forecast["error_by_source"]
    arms = rows or forecast["error_by_arm"]
    which = "sets left out with all that share their rows" if rows else "sets left out"
    line = (
        f"Its error on {which}: {100 * arms['mean_absolute_error']:.0f} points on average, "
        f"{arms['coverage']:.0%} of runs inside the interval"
    )
    if sources is None:
        return f"{line}; on datasets left out: not measured."
    which = f"{sources['groups']} whole datasets" if sources["groups"] > 1 else "one whole dataset"
    line += (
        f"; on {which} left out: {100 * sources['mean_absolute_error']:.0f} points, {sources['coverage']:.0%} inside"
    )
    rank = sources["rank_correlation"]
    return line + ("." if rank is None else f", rank correlation with what was observed {rank:+.2f}.")
