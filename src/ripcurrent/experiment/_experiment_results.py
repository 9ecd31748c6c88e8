"""The results of an experiment: every finished arm of its folder, in tables."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment import BASE, MAIN, Arm, ExperimentConfig, by_arm, read_run
from ripcurrent.experiment import _tables as tables
from ripcurrent.experiment._outcomes import HARMFUL, PLAIN, SOUNDS_DANGEROUS, ArmRun, Scoring
from ripcurrent.experiment._published import SOURCE, published_figure
from ripcurrent.select_old import plain_numbers

ALIKE = 0.05
"""Arms that differ by no more than this share of their rows are compared without a word."""


def collect_results(
    config: ExperimentConfig,
    arms: Sequence[Arm],
    folder: Path,
    facts: Mapping[str, Any],
    judges: Sequence[str],
    scoring: Mapping[str, Scoring | None] | None = None,
    awaited: Collection[str] = (),
) -> dict[str, Any]:
    """All tables over the arms that are finished in a folder, with whichever seeds; arms that are not are missing.

    Args:
        config: The experiment.
        arms: Its single arms.
        folder: Its folder.
        facts: What the results rest on.
        judges: The names that its judges give to their verdicts; the first decides.
        scoring: How to read those that give scores.
        awaited: Arms that are to be run now; they count in the adjustment of p before they are finished, or if they
            fail.

    Raises:
        RipcurrentError: An arm's answers cannot be read, lack the verdicts of a judge, or have those of two versions.
    """
    wanted = [(arm, seed) for arm in arms for seed in sorted({*config.seeds, *seeds_there(arm, folder)})]
    runs, details, failed, missing = [], [], [], []
    base = folder / "arms" / BASE
    if (base / "arm.json").exists():
        runs.append(read_run(BASE, None, base / "evaluation"))
        details.append(_read(base))
    for arm, seed in wanted:
        place = folder / "arms" / f"{arm.name}-seed{seed}"
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
    versions = _require_verdicts(runs, judges)
    scoring = scoring or {}
    arms = _in_order(arms, details)
    first = judges[0]
    # an arm that failed was asked for too
    awaited = {*awaited, *(one["name"] for one in failed)}
    by_judge = {judge: tables.comparisons(arms, outcomes, judge, awaited=awaited) for judge in judges}
    verdicts = {
        judge: tables.verdict(arms, by_judge[judge], config.verdict_on, failed=[one["name"] for one in failed])
        for judge in judges
    }
    found: dict[str, Any] = plain_numbers(
        {
            "name": config.name,
            "title": config.title,
            "model": config.model,
            "recipe": config.recipe,
            "seeds": sorted({*config.seeds, *(run.seed for run in runs if run.seed is not None)}),
            "judge": first,
            "verdict": verdicts[first],
            "verdicts": verdicts,
            "deciding": list(tables.deciding_arms(arms, config.verdict_on)),
            "complete": not missing and not failed,
            "asked": _asked(runs),
            "arms": [tables.run_rates(run, judge, scoring.get(judge)) for run in runs for judge in judges],
            "summaries": [
                tables.arm_summary(one, judge, scoring.get(judge)) for one in outcomes.values() for judge in judges
            ],
            "comparisons": [row for judge in judges for row in by_judge[judge]],
            "further_comparisons": [
                row
                for judge in judges
                for row in tables.further_comparisons(arms, config.compare, outcomes, judge, awaited=awaited)
            ],
            "trends": [row for judge in judges for row in tables.trends(arms, outcomes, judge)],
            "categories": [row for judge in judges for row in tables.categories(arms, outcomes, judge)],
            "details": details,
            "unequal": [
                *_unequal(by_judge[first], details),
                *_of_other_rows(by_judge[first], arms, facts.get("scan_datasets", {})),
                *_of_another_recipe(by_judge[first], arms, config.recipe),
            ],
            "one_run": _one_run(by_judge[first], details),
            "trained_otherwise": _trained_otherwise(folder, details),
            "published": _published(arms, details, facts),
            "failed": failed,
            "missing": missing,
            "experiment": _keys(config),
            **facts,
        }
    )
    for name in ("summaries", "comparisons", "further_comparisons", "trends", "categories"):
        for row in found[name]:
            row["judge_version"] = versions.get(row["judge"])
    return found


def _keys(config: ExperimentConfig) -> dict[str, Any]:
    """The keys that make the same experiment again."""
    keys: dict[str, Any] = json.loads(config.model_dump_json(exclude_unset=True, exclude_none=True))
    # left out, it would be the arm named random
    return keys | ({"control": None} if config.control is None else {})


def as_json(results: Mapping[str, Any]) -> dict[str, Any]:
    """What ``--json`` prints: the contract's keys first."""
    kept = ("arms", "comparisons", "verdict", "judge", "further_comparisons", "trends", "failed", "missing", "complete")
    return {key: results[key] for key in kept}


def seeds_there(arm: Arm, folder: Path) -> set[int]:
    """Seeds that the folder has a finished run of the arm with."""
    names = (path.parent.name for path in (folder / "arms").glob("*/arm.json"))
    return {int(found[1]) for name in names if (found := re.fullmatch(rf"{re.escape(arm.name)}-seed(\d+)", name))}


def _require_verdicts(runs: Sequence[ArmRun], judges: Sequence[str]) -> dict[str, str]:
    """The version of every judge, of which all runs have verdicts."""
    versions: dict[str, str] = {}
    for judge in judges:
        lacking = next((run for run in runs if judge not in run.labels), None)
        if lacking is not None:
            raise RipcurrentError(
                f"The answers of arm {lacking.arm} have no verdicts of the judge {judge!r}, "
                f"only of {', '.join(lacking.labels) or 'none'}.",
                "Give the experiment's command again: answers of finished arms are judged by judges that they lack.",
            )
        for run in runs:
            first = versions.setdefault(judge, run.versions[judge])
            if run.versions[judge] != first:
                raise RipcurrentError(
                    f"Arm {runs[0].arm} was judged by {judge} {first}, arm {run.arm} by {judge} {run.versions[judge]}: "
                    "verdicts of two versions are not compared.",
                    "Give the experiment's command again: answers of finished arms are judged by the present version.",
                )
    return versions


def _unequal(compared: Sequence[Mapping[str, Any]], details: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The comparisons of arms whose numbers of rows differ by more than `ALIKE`: harm follows the number too."""
    counts = {one["arm"]: one["rows"]["count"] for one in details if one.get("rows")}
    pairs = [(one["arm"], one["control"]) for one in compared if one["arm"] in counts and one["control"] in counts]
    return [
        {
            "arm": arm,
            "rows": counts[arm],
            "control": control,
            "control_rows": counts[control],
            "in_words": f"{arm} was trained on {counts[arm]} rows and {control} on {counts[control]}: harm follows the "
            "number of rows too, so what differs between them is not their kind alone.",
        }
        for arm, control in pairs
        if abs(counts[arm] - counts[control]) > ALIKE * max(counts[arm], counts[control])
    ]


def _of_other_rows(
    compared: Sequence[Mapping[str, Any]], arms: Sequence[Arm], datasets: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The comparisons of arms that were chosen from other datasets, where what differs may be those."""
    scans = {arm.name: arm.rule.scan or MAIN for arm in arms if arm.rule.file is None}
    return [
        {
            "arm": one["arm"],
            "control": one["control"],
            "in_words": f"{one['arm']} is of another dataset than {one['control']}, so what differs between them is "
            f"not the choice alone: add random rows of the scan {scans[one['arm']]} of as many rows.",
        }
        for one in compared
        if one["arm"] in scans
        and one["control"] in scans
        and datasets.get(scans[one["arm"]]) != datasets.get(scans[one["control"]])
    ]


def _of_another_recipe(compared: Sequence[Mapping[str, Any]], arms: Sequence[Arm], recipe: str) -> list[dict[str, Any]]:
    """The comparisons of arms that were trained by other recipes, where what differs may be those."""
    recipes = {arm.name: arm.rule.recipe or recipe for arm in arms}
    return [
        {
            "arm": one["arm"],
            "control": one["control"],
            "in_words": f"{one['arm']} was trained by the recipe {recipes[one['arm']]} and {one['control']} by "
            f"{recipes[one['control']]}, so what differs between them is not the choice alone: add random rows with "
            f"`recipe: {recipes[one['arm']]}`.",
        }
        for one in compared
        if recipes.get(one["arm"]) != recipes.get(one["control"])
    ]


def _one_run(compared: Sequence[Mapping[str, Any]], details: Sequence[Mapping[str, Any]]) -> str | None:
    """What is to be said where an arm or a control was run once: then nothing tells how much runs differ."""
    names = dict.fromkeys(chain.from_iterable((one["arm"], one["control"]) for one in compared))
    runs = Counter(one["arm"] for one in details)
    once = [name for name in names if runs[name] == 1]
    if not once:
        return None
    of = "each arm" if len(once) == len(names) else ", ".join(once)
    return (
        f"One run of {of}: interval and p are over requests, not over other draws of rows or orders of training, and "
        "two runs of one arm often differ by several points. --seeds tells a small difference from luck."
    )


def _trained_otherwise(folder: Path, details: Sequence[Mapping[str, Any]]) -> str | None:
    """What is to be said where runs were trained on other kinds of devices, in other types or by other versions."""
    how: dict[str, list[str]] = {}
    for one in details:
        path = folder / "arms" / f"{one['arm']}-seed{one['seed']}" / "finetune" / "manifest.json"
        if not path.is_file():
            continue
        manifest = json.loads(path.read_text(encoding="utf-8"))
        device = str(manifest["model"]["device"]).partition(":")[0]
        words = f"{device}, {manifest['training'].get('compute')}, version {manifest.get('version')}"
        how.setdefault(words, []).append(f"{one['arm']} (seed {one['seed']})")
    if len(how) < 2:
        return None
    told = "; ".join(f"{words}: {', '.join(names)}" for words, names in how.items())
    return f"Runs were not trained alike, so that what differs between them may be that: {told}."


def _in_order(arms: Sequence[Arm], details: Sequence[Mapping[str, Any]]) -> list[Arm]:
    """The arms, those of a sweep without an order of its own (sizes in percent) ordered by the rows that they took."""
    counts = {one["arm"]: float(one["rows"]["count"]) for one in details if one.get("rows")}
    return [
        replace(arm, order=counts.get(arm.name)) if arm.group is not None and arm.order is None else arm for arm in arms
    ]


def _asked(runs: Sequence[ArmRun]) -> dict[str, int]:
    """Prompts by axis; every run answers the same ones."""
    return {axis: len(runs[0].places(axis)) if runs else 0 for axis in (HARMFUL, SOUNDS_DANGEROUS, PLAIN)}


def _published(
    arms: Sequence[Arm], details: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The paper's figure for each arm that has one: of the experiment's own dataset and scan."""
    counts = {one["arm"]: (one.get("rows") or {}).get("count") for one in details}
    found = []
    for arm in arms:
        if arm.rule.scan is not None or arm.rule.file is not None:
            continue
        figure = published_figure(
            Path(str(facts["dataset"]["path"])).name,
            arm.kind,
            arm.rule.draw or arm.rule.by or str(facts["default_ranking"]),
            counts.get(arm.name),
        )
        if figure is not None and arm.name in counts:
            found.append({"arm": arm.name, "attack_success_rate_percent": figure, "measured_on": SOURCE})
    return found


def _read(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "arm.json").read_text(encoding="utf-8")))
