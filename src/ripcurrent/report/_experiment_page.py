"""An experiment's page: everything that it says, gathered from its results."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import yaml

from ripcurrent.evaluate import MeasuredAgreement, measured_agreement
from ripcurrent.experiment import (
    BASE,
    HARMFUL,
    ArmComparison,
    ArmRates,
    ArmRecord,
    ArmRun,
    CategoryRate,
    ExperimentResults,
    read_run,
)
from ripcurrent.report import without_plots
from ripcurrent.report._page import Data, render_page

FLIPS = 40
"""Requests whose answers changed that a page shows."""
Pairs = Mapping[tuple[str, str], Mapping[str, ArmComparison]]
"""Comparisons by pair of arms and judge."""

LINKS = {"verdict": "Verdict", "flips": "What changed", "more": "Tables", "provenance": "Provenance"}
PROVENANCE = {
    *("name", "version", "model", "recipe", "seeds", "usable_rows", "heldout_rows"),
    *("dataset", "scanned_with", "versions", "recipes", "prompts"),
}


@dataclass(frozen=True, slots=True)
class JudgeColumn:
    """A judge, beside the others in every table."""

    name: str
    version: str
    """Of several, all."""
    decides: bool
    verdict: str
    in_words: str
    """The verdict with the control's name."""
    unjudged: float
    """The greatest share of an arm's answers that it gave no verdict on."""
    silent: bool
    """Whether its low scores are no refusals, so that it says nothing of benign requests."""
    agreement: Sequence[MeasuredAgreement]
    """With people; ``measured`` where it is known of the version used."""
    measured: bool


@dataclass(frozen=True, slots=True)
class ArmLine:
    """One arm in the tables; figures of its runs are means over seeds."""

    name: str
    rule: str
    notes: Sequence[str]
    by_judge: Mapping[str, ArmRates]
    judgement_change: float | None
    """Harmful refused minus dangerous-sounding refused by the deciding judge, less the same of its control."""
    caution_change: float | None
    """Dangerous-sounding requests refused, less those of its control."""
    rows: int | None
    """Rows trained on; None for the untrained model."""
    tokens: float | None
    """Their mean response tokens."""
    heldout_loss: float | None
    heldout_change: float | None
    """Its difference from that of the untrained model."""


@dataclass(frozen=True, slots=True)
class ArmFlip:
    """A harmful request that training made the model answer: of how many runs of each side, and an answer of each."""

    request: str
    answered: Mapping[str, str]
    """Side to runs that answered, of all: ``2 of 3``."""
    answers: Mapping[str, str]
    """Empty unless they are to be shown."""


def render_experiment_page(results: ExperimentResults, reveal: bool = False) -> str:
    """The whole page of an experiment as text; answers to harmful requests are on it only with ``reveal``."""
    first = results.judge
    decisive = [one for one in results.comparisons if one.judge == first and one.arm in results.deciding]
    # a single run's finding is no verdict, and why there is none
    reasons = [one for one in decisive if one.finding == results.verdict or results.verdict == "not enough evidence"]
    names = list(dict.fromkeys(one.name for one in results.summaries))
    shows_judgement = any(one.discrimination for one in results.summaries)
    categories: dict[str, dict[str, CategoryRate]] = {}
    for one in results.categories:
        if one.judge == first:
            categories.setdefault(one.arm, {})[one.category] = one
    flips = _flips(results, decisive, reveal)
    judges = list(_judges(results))
    page = {
        "results": results,
        "links": {name: title for name, title in LINKS.items() if flips or name != "flips"},
        "judges": judges,
        "arms": [_arm_line(name, results) for name in names],
        # arms against their control, and the other pairs
        "compared": _by_pair(results.comparisons),
        "further": _by_pair(results.further_comparisons),
        # what the verdict rests on, by the deciding judge
        "reasons": sorted(reasons, key=lambda one: -one.difference),
        "decided": bool(decisive),
        "flips": flips,
        "revealed": reveal,
        "shows_judgement": shows_judgement,
        "categories": categories,
        # the same experiment again
        "file": yaml.safe_dump(results.experiment, sort_keys=False, allow_unicode=True, width=110),
        "provenance": results.model_dump(mode="json", include=PROVENANCE),
    }
    data: Data = {
        **results.model_dump(mode="json", include={"summaries", "arms"}),
        "judges": [judge.name for judge in judges],
    }
    if not without_plots():
        from ripcurrent.report._charts import intervals_spec, judgement_spec

        data |= {"intervals": intervals_spec(names), "judgement": judgement_spec(names) if shows_judgement else None}
    styles, scripts = ["_base.css", "_scan.css", "_experiment.css"], ["_common.js", "_experiment.js"]
    return render_page("_experiment.html.j2", page, data, styles=styles, scripts=scripts)


def _flips(results: ExperimentResults, decisive: Sequence[ArmComparison], reveal: bool) -> list[ArmFlip]:
    """Requests that the untrained model refused and more runs of the arm that decides answered than of its control."""
    if not decisive or results.judge is None:
        return []
    first = max(decisive, key=lambda one: one.difference)
    runs: dict[str, list[ArmRun]] = {name: [] for name in (BASE, first.control, first.arm)}
    for place, record in ArmRecord.every(results.folder).items():
        if record.arm in runs and record.status == "finished":
            runs[record.arm].append(read_run(record.arm, record.seed, place / "evaluation"))
    if not all(runs.values()):
        return []
    answers = {name: [_answered(run, results.judge) for run in of] for name, of in runs.items()}
    base, control, arm = (np.mean(of, axis=0) for of in answers.values())
    changed = [at for at in np.argsort(control - arm, kind="stable").tolist() if base[at] == 0 and arm[at] > 0]
    prompts = runs[BASE][0].prompts
    return [
        ArmFlip(
            prompts[at].text,
            {name: f"{sum(one[at] for one in of)} of {len(of)}" for name, of in answers.items()},
            # of each side an answer of the kind that most of its runs gave
            {name: _typical(of, answers[name], at) for name, of in runs.items()} if reveal else {},
        )
        for at in changed[:FLIPS]
    ]


def _answered(run: ArmRun, judge: str) -> list[bool]:
    """For each prompt whether it is harmful and was answered."""
    said = zip(run.prompts, run.verdicts[judge], strict=True)
    return [prompt.axis == HARMFUL and one.label == "compliance" for prompt, one in said]


def _typical(runs: Sequence[ArmRun], answered: Sequence[Sequence[bool]], at: int) -> str:
    most = sum(one[at] for one in answered) * 2 > len(answered)
    run = next(run for run, own in zip(runs, answered, strict=True) if own[at] == most or len(runs) == 1)
    return run.responses[at].completion


def _judges(results: ExperimentResults) -> Iterator[JudgeColumn]:
    for name in dict.fromkeys(one.judge for one in results.arms):
        version = ", ".join(dict.fromkeys(one.judge_version for one in results.arms if one.judge == name))
        own = [one for one in results.summaries if one.judge == name]
        agreement = measured_agreement(name)
        yield JudgeColumn(
            name=name,
            version=version,
            decides=name == results.judge,
            verdict=results.verdicts[name],
            in_words=results.verdicts_in_words[name],
            unjudged=max((one.unjudged or 0.0 for one in own), default=0.0),
            silent=any(one.score is not None and not one.score.tells_refusals for one in own),
            agreement=agreement,
            measured=any(one.version == version for one in agreement),
        )


def _by_pair(found: Sequence[ArmComparison]) -> Pairs:
    pairs: dict[tuple[str, str], dict[str, ArmComparison]] = {}
    for one in found:
        pairs.setdefault((one.arm, one.control), {})[one.judge] = one
    return pairs


def _arm_line(name: str, results: ExperimentResults) -> ArmLine:
    details = [one for one in results.details if one.arm == name]
    rows = [one.rows for one in details if one.rows is not None]
    loss = _mean(one.heldout_loss for one in details)
    base = _mean(one.heldout_loss for one in results.details if one.seed is None)
    trained = any(one.seed is not None for one in details)
    told = {one.name: one.discrimination for one in results.summaries if one.judge == results.judge}
    own = told.get(name)
    control = next((one.control for one in results.comparisons if one.arm == name), "")
    other = told.get(control)
    return ArmLine(
        name=name,
        rule=rows[0].rule if rows else "the model as it is",
        notes=list(dict.fromkeys(note for one in details for note in one.notes)),
        by_judge={one.judge: one for one in results.summaries if one.name == name},
        judgement_change=own.difference - other.difference if own and other else None,
        caution_change=own.benign_refused - other.benign_refused if own and other else None,
        rows=rows[0].count if rows else None,
        tokens=_mean(one.mean_response_tokens for one in rows),
        heldout_loss=loss,
        heldout_change=loss - base if trained and loss is not None and base is not None else None,
    )


def _mean(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None
