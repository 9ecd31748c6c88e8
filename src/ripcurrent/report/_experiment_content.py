"""Everything an experiment's page says, gathered from its results before any markup."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from ripcurrent.evaluate import MeasuredAgreement, agreement_of
from ripcurrent.experiment._in_words import broken_in_words, prompt_notes, training_notes, verdict_in_words

Entry = Mapping[str, Any]
"""One row of a table in ``results.json``."""


@dataclass(frozen=True, slots=True)
class JudgeColumn:
    """A judge, beside the others in every table."""

    name: str
    """Its name."""
    version: str
    """Its version; of several, all."""
    decides: bool
    """Whether the verdict is by it."""
    verdict: str
    """What the experiment's verdict is by it."""
    in_words: str
    """The same, with the control's name."""


@dataclass(frozen=True, slots=True)
class Usefulness:
    """What an arm is still good for, and what it was trained on."""

    rows: int | None
    """How many rows; None for the untrained model."""
    tokens: float | None
    """Mean response tokens of its rows."""
    heldout_loss: float | None
    """Mean over its runs."""
    heldout_change: float | None
    """Its difference from that of the untrained model."""
    accuracy: float | None
    """Share of sums solved, mean over its runs; None where it was not measured."""


@dataclass(frozen=True, slots=True)
class ArmLine:
    """One arm in the tables."""

    name: str
    """Its name."""
    rule: str
    """Its rows in words."""
    notes: tuple[str, ...]
    """What to know of its rows."""
    seeds: int
    """Runs."""
    by_judge: Mapping[str, Entry]
    """Summary by judge."""
    control: str | None
    """What it is compared with."""
    judgement_change: float | None
    """Harmful refused minus dangerous-sounding refused, less the same of its control; by the deciding judge."""
    caution_change: float | None
    """Dangerous-sounding requests refused, less those of its control; by the deciding judge."""
    usefulness: Usefulness
    """What it is still good for."""
    published: float | None
    """The paper's figure in percent."""


@dataclass(frozen=True, slots=True)
class ComparedLine:
    """One pair of arms in the tables."""

    arm: str
    """The first."""
    control: str
    """The second."""
    decides: bool
    """Whether the verdict rests on it."""
    by_judge: Mapping[str, Entry]
    """The comparison by judge."""


@dataclass(frozen=True, slots=True)
class ExperimentContent:
    """What the template shows."""

    judges: tuple[JudgeColumn, ...]
    """Judges, the deciding one first."""
    reasons: tuple[Entry, ...]
    """The comparisons that the verdict rests on, by the deciding judge, the greatest difference first."""
    arms: tuple[ArmLine, ...]
    """The arms, in the order of the file."""
    comparisons: tuple[ComparedLine, ...]
    """Arms against their control."""
    further: tuple[ComparedLine, ...]
    """Further pairs."""
    broken: str | None
    """What is to be said of arms of which many answers are broken."""
    decided: bool
    """Whether anything that decides was compared."""
    silent_on_benign: tuple[str, ...]
    """Judges whose low scores are no refusals, so that they say nothing of benign requests."""
    prompt_notes: tuple[str, ...]
    """What is to be known of the prompts."""
    unjudged: tuple[str, ...]
    """Judges that gave no verdict on some answers, with the greatest share of an arm."""
    has_accuracy: bool
    """Whether sums were asked."""
    agreement: tuple[MeasuredAgreement, ...]
    """Of these judges with people."""
    unmeasured: tuple[JudgeColumn, ...]
    """Judges without a figure of the version used."""
    categories: tuple[str, ...]
    """Categories that have enough requests."""
    category_rates: Mapping[str, Mapping[str, Entry]]
    """By arm, then category: the entry of the deciding judge."""
    points: tuple[Entry, ...]
    """Of the charts: an interval of each arm and judge, and a point of each run."""
    refusals: tuple[Entry, ...]
    """Of the chart of judgement: harmful and dangerous-sounding requests refused of each arm and judge."""
    file: str
    """The experiment's keys as YAML: the same experiment again."""
    commands: tuple[str, ...]
    """The command lines that made it."""

    @property
    def shows_judgement(self) -> bool:
        """Whether both kinds of requests were asked."""
        return bool(self.refusals)


def experiment_content(results: Mapping[str, Any]) -> ExperimentContent:
    """Gather everything for the page of an experiment's results."""
    judges = tuple(_judges(results))
    names = list(dict.fromkeys(one["name"] for one in results["summaries"]))
    lines = tuple(_line(name, results) for name in names)
    agreement = tuple(found for judge in judges for found in agreement_of(judge.name))
    measured = {(one.judge, one.version) for one in agreement}
    first = [one for one in results["categories"] if one["judge"] == results["judge"]]
    rates: dict[str, dict[str, Any]] = {}
    for one in first:
        rates.setdefault(one["arm"], {})[one["category"]] = one
    return ExperimentContent(
        judges=judges,
        reasons=tuple(_reasons(results)),
        arms=lines,
        comparisons=_compared(results["comparisons"], results["deciding"]),
        further=_compared(results["further_comparisons"], ()),
        broken=broken_in_words(results),
        decided=any(
            one["judge"] == results["judge"] and one["arm"] in results["deciding"] for one in results["comparisons"]
        ),
        silent_on_benign=tuple(
            dict.fromkeys(
                one["judge"]
                for one in results["summaries"]
                if one.get("score") and not one["score"].get("tells_refusals", False)
            )
        ),
        prompt_notes=(*training_notes(results), *prompt_notes(results)),
        unjudged=tuple(_unjudged(results, judges)),
        has_accuracy=any(line.usefulness.accuracy is not None for line in lines),
        agreement=agreement,
        unmeasured=tuple(judge for judge in judges if (judge.name, judge.version) not in measured),
        categories=tuple(dict.fromkeys(one["category"] for one in first)),
        category_rates=rates,
        points=tuple(_points(results)),
        refusals=tuple(_refusals(results)),
        file=yaml.safe_dump(results["experiment"], sort_keys=False, allow_unicode=True, width=110),
        commands=tuple(results.get("commands", ())),
    )


def _judges(results: Mapping[str, Any]) -> Iterator[JudgeColumn]:
    versions: dict[str, list[str]] = {}
    for one in results["arms"]:
        known = versions.setdefault(one["judge"], [])
        if one["judge_version"] not in known:
            known.append(one["judge_version"])
    for name, found in versions.items():
        words = verdict_in_words(results, name)
        yield JudgeColumn(name, ", ".join(found), name == results["judge"], results["verdicts"][name], words)


def _reasons(results: Mapping[str, Any]) -> Iterator[Entry]:
    """The deciding arms whose finding is the verdict's."""
    found = [
        one
        for one in results["comparisons"]
        if one["judge"] == results["judge"]
        and one["arm"] in results["deciding"]
        and one["finding"] == results["verdict"]
    ]
    yield from sorted(found, key=lambda one: -one["difference"])


def _unjudged(results: Mapping[str, Any], judges: Sequence[JudgeColumn]) -> Iterator[str]:
    for judge in judges:
        most = max((one["unjudged"] or 0.0 for one in results["summaries"] if one["judge"] == judge.name), default=0.0)
        if most > 0:
            yield f"{judge.name} gave no verdict on up to {100 * most:.1f} % of an arm’s answers"


def _compared(found: Sequence[Entry], deciding: Sequence[str]) -> tuple[ComparedLine, ...]:
    pairs: dict[tuple[str, str], dict[str, Entry]] = {}
    for one in found:
        pairs.setdefault((one["arm"], one["control"]), {})[one["judge"]] = one
    return tuple(ComparedLine(arm, control, arm in deciding, by) for (arm, control), by in pairs.items())


def _line(name: str, results: Mapping[str, Any]) -> ArmLine:
    details = [one for one in results["details"] if one["arm"] == name]
    rows = [one["rows"] for one in details if one.get("rows")]
    published = next((one for one in results["published"] if one["arm"] == name), None)
    by_judge = {one["judge"]: one for one in results["summaries"] if one["name"] == name}
    control = next((one["control"] for one in results["comparisons"] if one["arm"] == name), None)
    own = by_judge.get(results["judge"], {}).get("discrimination")
    other = next(
        (
            one["discrimination"]
            for one in results["summaries"]
            if one["name"] == control and one["judge"] == results["judge"]
        ),
        None,
    )
    return ArmLine(
        name=name,
        rule=rows[0]["rule"] if rows else "the model as it is",
        notes=tuple(dict.fromkeys(note for one in details for note in one.get("notes", ()))),
        seeds=len(details),
        by_judge=by_judge,
        control=control,
        judgement_change=own["difference"] - other["difference"] if own and other else None,
        caution_change=own["benign_refused"] - other["benign_refused"] if own and other else None,
        usefulness=_usefulness(details, rows, results),
        published=published["attack_success_rate_percent"] if published else None,
    )


def _usefulness(details: Sequence[Entry], rows: Sequence[Entry], results: Mapping[str, Any]) -> Usefulness:
    loss = _mean(details, "heldout_loss")
    base = _mean([one for one in results["details"] if one["seed"] is None], "heldout_loss")
    trained = any(one["seed"] is not None for one in details)
    return Usefulness(
        rows=rows[0]["count"] if rows else None,
        tokens=_mean(rows, "mean_response_tokens"),
        heldout_loss=loss,
        heldout_change=loss - base if trained and loss is not None and base is not None else None,
        accuracy=_mean(details, "accuracy"),
    )


def _points(results: Mapping[str, Any]) -> Iterator[Entry]:
    for one in results["summaries"]:
        if one["attack_success_rate"] is not None:
            kept = {key: one[key] for key in ("judge", "low", "high")}
            yield {"arm": one["name"], "rate": one["attack_success_rate"], "what": "mean", **kept}
    for one in results["arms"]:
        if one["attack_success_rate"] is not None and one["seed"] is not None:
            point = {"arm": one["name"], "judge": one["judge"], "rate": one["attack_success_rate"], "what": "run"}
            yield {**point, "seed": one["seed"]}


def _refusals(results: Mapping[str, Any]) -> Iterator[Entry]:
    for one in results["summaries"]:
        told = one["discrimination"]
        if told is not None:
            yield {
                "arm": one["name"],
                "judge": one["judge"],
                "harmful": told["harmful_refused"],
                "benign": told["benign_refused"],
                "difference": told["difference"],
            }


def _mean(entries: Sequence[Entry], key: str) -> float | None:
    values = [one[key] for one in entries if one.get(key) is not None]
    return sum(values) / len(values) if values else None
