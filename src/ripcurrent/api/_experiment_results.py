"""The results of an experiment: every finished arm of its folder, in tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ripcurrent.experiment import BASE, Arm, ExperimentConfig, by_arm, read_run
from ripcurrent.experiment import _tables as tables
from ripcurrent.experiment._outcomes import HARMFUL, PLAIN, SOUNDS_DANGEROUS, ArmRun
from ripcurrent.experiment._published import SOURCE, published_figure
from ripcurrent.selection import plain_numbers


def collect_results(
    config: ExperimentConfig, arms: Sequence[Arm], folder: Path, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """All tables over the arms that are finished in a folder; arms that are not are listed as missing."""
    markers = [(arm, seed, folder / "arms" / f"{arm.name}-seed{seed}") for arm in arms for seed in config.seeds]
    runs, details, failed, missing = [], [], [], []
    base = folder / "arms" / BASE
    if (base / "arm.json").exists():
        runs.append(read_run(BASE, None, base / "evaluation"))
        details.append(_read(base))
    for arm, seed, place in markers:
        if not (place / "arm.json").exists():
            missing.append({"name": arm.name, "seed": seed})
            continue
        marker = _read(place)
        if marker["status"] == "failed":
            failed.append({"name": arm.name, "seed": seed, "reason": marker["reason"]})
            continue
        runs.append(read_run(arm.name, seed, place / "evaluation"))
        details.append(marker)
    outcomes = by_arm(runs)
    judges = [judge for judge in config.judges if all(judge in run.labels for run in runs)]
    first = judges[0] if judges else None
    by_judge = {judge: tables.comparisons(arms, outcomes, judge) for judge in judges}
    found: dict[str, Any] = plain_numbers(
        {
            "name": config.name,
            "title": config.title,
            "model": config.model,
            "recipe": config.recipe,
            "seeds": list(config.seeds),
            "judge": first,
            "verdict": tables.verdict(arms, by_judge[first], config.verdict_on) if first else "not enough evidence",
            "verdicts": {judge: tables.verdict(arms, by_judge[judge], config.verdict_on) for judge in judges},
            "deciding": list(tables.deciding_arms(arms, by_judge[first], config.verdict_on)) if first else [],
            "complete": not missing,
            "asked": _asked(runs),
            "arms": [tables.run_rates(run, judge) for run in runs for judge in judges],
            "summaries": [tables.arm_summary(one, judge) for one in outcomes.values() for judge in judges],
            "comparisons": [row for judge in judges for row in by_judge[judge]],
            "further_comparisons": [
                row for judge in judges for row in tables.further_comparisons(arms, config.compare, outcomes, judge)
            ],
            "trends": [row for judge in judges for row in tables.trends(arms, outcomes, judge)],
            "categories": [row for judge in judges for row in tables.categories(arms, outcomes, judge)],
            "details": details,
            "published": _published(arms, details, facts),
            "failed": failed,
            "missing": missing,
            "experiment": json.loads(config.model_dump_json(exclude_unset=True, exclude_none=True)),
            **facts,
        }
    )
    return found


def as_json(results: Mapping[str, Any]) -> dict[str, Any]:
    """What ``--json`` prints: the contract's keys first."""
    kept = ("arms", "comparisons", "verdict", "judge", "further_comparisons", "trends", "failed", "missing", "complete")
    return {key: results[key] for key in kept}


def _asked(runs: Sequence[ArmRun]) -> dict[str, int]:
    """Prompts by axis; every run answers the same ones."""
    return {axis: len(runs[0].places(axis)) if runs else 0 for axis in (HARMFUL, SOUNDS_DANGEROUS, PLAIN)}


def _published(
    arms: Sequence[Arm], details: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The paper's figure for each arm that has one."""
    counts = {one["arm"]: (one.get("rows") or {}).get("count") for one in details}
    found = []
    for arm in arms:
        figure = published_figure(
            Path(str(facts["dataset"]["path"])).name,
            arm.kind,
            arm.rule.by or str(facts["default_ranking"]),
            counts.get(arm.name),
        )
        if figure is not None and arm.name in counts:
            found.append({"arm": arm.name, "attack_success_rate_percent": figure, "measured_on": SOURCE})
    return found


def _read(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "arm.json").read_text(encoding="utf-8")))
