"""The results of an experiment: every finished arm of its folder, in tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TypeVar

from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment._arms import BASE, Arm
from ripcurrent.experiment._config import ExperimentConfig
from ripcurrent.experiment._notes import note_on_devices, notes_on_answers, notes_on_runs
from ripcurrent.experiment._outcomes import HARMFUL, PLAIN, SOUNDS_DANGEROUS, ArmRun, Outcomes, by_arm, read_run
from ripcurrent.experiment._results import (
    MARKER,
    ArmComparison,
    ArmRecord,
    ExperimentManifest,
    ExperimentResults,
    Finding,
    UnfinishedRun,
)
from ripcurrent.experiment._tables import (
    Scoring,
    category_rates,
    compare_pairs,
    deciding_arms,
    rates_of,
    sweeps,
    verdict_of,
)

Row = TypeVar("Row")


def collect_results(
    config: ExperimentConfig,
    every: Mapping[str, Arm],
    folder: Path,
    facts: ExperimentManifest,
    judges: Sequence[str],
    scoring: Scoring,
    wanted: Collection[str] = (),
) -> ExperimentResults:
    """All tables over the arms that are finished in a folder, with whichever seeds; arms that are not are missing.

    Args:
        config: The experiment.
        every: Its single arms by name.
        folder: Its folder.
        facts: What the results rest on.
        judges: The names that its judges give to their verdicts; the first decides.
        scoring: How to read those that give scores.
        wanted: Arms to be run now; they count in the adjustment of p before they are finished, or if they fail.

    Raises:
        RipcurrentError: An arm's answers cannot be read, lack the verdicts of a judge, or have those of two versions.
    """
    places = {path.parent: ArmRecord.read(path.parent) for path in (folder / "arms").glob(f"*/{MARKER}")}
    order = {name: place for place, name in enumerate((BASE, *every))}
    records = sorted(
        (one for one in places.values() if one.arm in order), key=lambda one: (order[one.arm], one.seed or 0)
    )
    details = [one for one in records if one.status == "finished"]
    failed, missing = _unfinished(records, every, config.seeds)
    seeds = sorted({*config.seeds, *(one.seed for one in records if one.seed is not None)})
    folders = {(one.arm, one.seed): place / "evaluation" for place, one in places.items()}
    runs = [read_run(one.arm, one.seed, folders[one.arm, one.seed]) for one in details]
    _require_verdicts(runs, judges)
    outcomes, arms = by_arm(runs), _in_order(every.values(), details)
    # an arm that failed was asked for too
    awaited = {*wanted, *(one.name for one in failed)}
    controls = [(arm.name, arm.control) for arm in arms if arm.control is not None]
    # each arm with those matched to it; a family of its own for Holm
    further = dict.fromkeys((*config.compare, *((arm.of, arm.name) for arm in arms if arm.of is not None)))
    compared = {judge: compare_pairs(controls, outcomes, judge, awaited) for judge in judges}
    deciding = deciding_arms(arms, config.verdict_on)
    verdicts = {judge: verdict_of(found, deciding, {one.name for one in failed}) for judge, found in compared.items()}
    by_judge = {judge: [rates_of(one, judge, scoring) for one in outcomes.values()] for judge in judges}
    asked = {axis: len(runs[0].places(axis)) if runs else 0 for axis in (HARMFUL, SOUNDS_DANGEROUS, PLAIN)}
    first = judges[0]
    keys = json.loads(config.model_dump_json(exclude_unset=True, exclude_none=True))
    notes = chain(
        notes_on_answers(config, by_judge[first], asked),
        notes_on_runs(every, facts, details, compared[first]),
        note_on_devices(folder, details),
    )
    return ExperimentResults(
        **facts.model_dump(exclude={"seeds"}),
        folder=folder,
        name=config.name,
        title=config.title,
        model=config.model,
        recipe=config.recipe,
        seeds=tuple(seeds),
        judge=first,
        verdict=verdicts[first],
        verdicts=verdicts,
        verdicts_in_words={judge: _in_words(verdicts[judge], compared[judge], deciding) for judge in judges},
        deciding=deciding,
        complete=not missing and not failed,
        asked=asked,
        arms=tuple(rates_of(Outcomes(run.arm, (run,)), judge, scoring) for run in runs for judge in judges),
        summaries=tuple(chain.from_iterable(zip(*by_judge.values(), strict=True))),
        comparisons=tuple(chain.from_iterable(compared.values())),
        further_comparisons=_by_every(judges, lambda judge: compare_pairs(list(further), outcomes, judge, awaited)),
        trends=_by_every(judges, lambda judge: sweeps(arms, outcomes, judge)),
        categories=_by_every(judges, lambda judge: category_rates(arms, outcomes, judge)),
        details=tuple(details),
        failed=tuple(failed),
        missing=tuple(missing),
        notes=tuple(notes),
        # left out, it would be the arm named random
        experiment=keys | ({"control": None} if config.control is None else {}),
    )


def _by_every(judges: Sequence[str], table: Callable[[str], Iterable[Row]]) -> tuple[Row, ...]:
    """The rows of a table by every judge."""
    return tuple(chain.from_iterable(map(table, judges)))


def _unfinished(
    records: Sequence[ArmRecord], every: Collection[str], seeds: Sequence[int]
) -> tuple[list[UnfinishedRun], list[UnfinishedRun]]:
    """The runs that failed, and those that are still to be made."""
    failed = [UnfinishedRun(name=one.arm, seed=one.seed or 0, reason=one.reason) for one in records if one.reason]
    there = {(one.arm, one.seed) for one in records}
    wanted = ((name, seed) for name in every for seed in seeds)
    return failed, [UnfinishedRun(name=name, seed=seed) for name, seed in wanted if (name, seed) not in there]


def _require_verdicts(runs: Sequence[ArmRun], judges: Sequence[str]) -> None:
    """Refuse runs that a judge has not judged, or has judged in two versions."""
    again = "Give the experiment's command again: answers of finished arms are judged by every judge's present version."
    for judge, run in ((judge, run) for judge in judges for run in runs):
        if judge not in run.labels:
            raise RipcurrentError(
                f"The answers of arm {run.arm} have no verdicts of the judge {judge!r}, "
                f"only of {', '.join(run.labels) or 'none'}.",
                again,
            )
        then, now = runs[0].versions[judge], run.versions[judge]
        if then != now:
            raise RipcurrentError(
                f"Arm {runs[0].arm} was judged by {judge} {then}, arm {run.arm} by {judge} {now}: verdicts of two "
                "versions are not compared.",
                again,
            )


def _in_order(arms: Collection[Arm], details: Sequence[ArmRecord]) -> list[Arm]:
    """The arms, those of a sweep of sizes ordered by the rows that they took."""
    counts = {one.arm: float(one.rows.count) for one in details if one.rows}
    return [
        replace(arm, order=counts.get(arm.name)) if arm.group is not None and arm.order is None else arm for arm in arms
    ]


def _in_words(verdict: Finding, compared: Sequence[ArmComparison], deciding: Sequence[str]) -> str:
    """The verdict, the control named of the deciding arm that is the most above its own."""
    if not deciding:
        return "none, as no arm is compared with a control"
    worse = [one for one in compared if one.arm in deciding and one.finding == verdict == "worse than random"]
    return f"worse than {max(worse, key=lambda one: one.difference).control}" if worse else verdict
