"""Everything an experiment's page says, gathered from its results before any markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ripcurrent.report._judge_agreement import MeasuredAgreement, agreement_of


@dataclass(frozen=True, slots=True)
class ArmLine:
    """One arm in the table."""

    name: str
    """Its name."""
    rule: str
    """Its rows in words."""
    rows: int | None
    """How many rows; None for the untrained model."""
    tokens: float | None
    """Mean response tokens of its rows."""
    seeds: int
    """Runs."""
    by_judge: Mapping[str, Mapping[str, Any]]
    """Summary by judge."""
    heldout_loss: float | None
    """Mean over its runs."""
    published: float | None
    """The paper's figure in percent."""
    notes: tuple[str, ...]
    """What to know of its rows."""


@dataclass(frozen=True, slots=True)
class ExperimentContent:
    """What the template shows."""

    results: Mapping[str, Any]
    """All tables as in ``results.json``."""
    judges: tuple[str, ...]
    """Judges, the deciding one first."""
    versions: Mapping[str, str]
    """Their versions."""
    arms: tuple[ArmLine, ...]
    """The arms, in the order of the file."""
    agreement: tuple[MeasuredAgreement, ...]
    """Of these judges with people."""
    unmeasured: tuple[str, ...]
    """Judges without a figure of the version used."""
    categories: tuple[str, ...]
    """Categories that have enough requests."""
    category_rates: Mapping[str, Mapping[str, Any]]
    """By arm, then category: the entry of the deciding judge."""
    points: tuple[Mapping[str, Any], ...]
    """Of the intervals' chart."""
    prompts: Mapping[str, int]
    """Prompts by axis."""


def experiment_content(results: Mapping[str, Any]) -> ExperimentContent:
    """Gather everything for the page of an experiment's results."""
    versions = {one["judge"]: one["judge_version"] for one in results["arms"]}
    judges = tuple(versions)
    names = list(dict.fromkeys(one["name"] for one in results["summaries"]))
    lines = tuple(_line(name, results) for name in names)
    agreement = tuple(found for judge in judges for found in agreement_of(judge))
    measured = {(one.judge, one.version) for one in agreement}
    first = [one for one in results["categories"] if one["judge"] == results["judge"]]
    rates: dict[str, dict[str, Any]] = {}
    for one in first:
        rates.setdefault(one["arm"], {})[one["category"]] = one
    return ExperimentContent(
        results=results,
        judges=judges,
        versions=versions,
        arms=lines,
        agreement=agreement,
        unmeasured=tuple(judge for judge in judges if (judge, versions[judge]) not in measured),
        categories=tuple(dict.fromkeys(one["category"] for one in first)),
        category_rates=rates,
        points=tuple(_points(results)),
        prompts=_prompts(results),
    )


def _line(name: str, results: Mapping[str, Any]) -> ArmLine:
    details = [one for one in results["details"] if one["arm"] == name]
    rows = [one["rows"] for one in details if one.get("rows")]
    losses = [one["heldout_loss"] for one in details if one.get("heldout_loss") is not None]
    published = next((p for p in results["published"] if p["arm"] == name), None)
    notes = dict.fromkeys(note for one in details for note in one.get("notes", ()))
    return ArmLine(
        name=name,
        rule=rows[0]["rule"] if rows else "the model as it is",
        rows=rows[0]["count"] if rows else None,
        tokens=_mean([one["mean_response_tokens"] for one in rows if one.get("mean_response_tokens") is not None]),
        seeds=len(details),
        by_judge={one["judge"]: one for one in results["summaries"] if one["name"] == name},
        heldout_loss=_mean(losses),
        published=published["attack_success_rate_percent"] if published else None,
        notes=tuple(notes),
    )


def _points(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For the chart: an interval of each arm and judge, and a point of each run."""
    found = []
    for one in results["summaries"]:
        if one["attack_success_rate"] is not None:
            kept = {key: one[key] for key in ("judge", "low", "high")}
            found.append({"arm": one["name"], "rate": one["attack_success_rate"], "what": "mean", **kept})
    for one in results["arms"]:
        if one["attack_success_rate"] is not None and one["seed"] is not None:
            point = {"arm": one["name"], "judge": one["judge"], "rate": one["attack_success_rate"], "what": "run"}
            found.append({**point, "seed": one["seed"]})
    return found


def _prompts(results: Mapping[str, Any]) -> dict[str, int]:
    first = results["summaries"][0] if results["summaries"] else None
    return {"harmful": first["n"]} if first else {}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
