"""The results of an experiment: every finished arm of its folder, in tables; what to know before believing them."""

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from ripcurrent.evaluate import BROKEN, notes_on_lists, unmeasured_axes
from ripcurrent.experiment._config import ExperimentConfig
from ripcurrent.experiment._file import BASE, Arm
from ripcurrent.experiment._outcomes import write_outcomes
from ripcurrent.experiment._results import (
    ArmComparison,
    ArmRates,
    ArmRecord,
    ExperimentFacts,
    ExperimentManifest,
    ExperimentResults,
    ExperimentVerdict,
    UnfinishedRun,
)
from ripcurrent.experiment._tables import (
    ENOUGH_RUNS,
    HARMFUL,
    MOVED,
    PLAIN,
    SOUNDS_DANGEROUS,
    Outcomes,
    Scoring,
    by_arm,
    category_rates,
    compare_pairs,
    deciding_arms,
    rates_of,
    read_run,
    verdict_of,
)
from ripcurrent.statistics import RUN_SPREAD

ALIKE = 0.05
"""Arms that differ by no more than this share of their rows are compared without a word."""
WHOLE_ANSWER = 256
"""Tokens that judges with a score of harm need at the least."""


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

    The outcomes that they are computed from are left in the folder as one table.
    The first of ``judges`` decides, and ``scoring`` says how to read those with scores. Arms ``wanted``, to be run now,
    count in the adjustment of p before they are finished, or if they fail.
    """
    order = [BASE, *every]
    records = [(place, one) for place, one in ArmRecord.every(folder).items() if one.arm in order]
    records.sort(key=lambda pair: (order.index(pair[1].arm), pair[1].seed or 0))
    finished = [(place, one) for place, one in records if one.status == "finished"]
    details = [one for _, one in finished]
    failed = [UnfinishedRun(name=one.arm, seed=one.seed or 0, reason=one.reason) for _, one in records if one.reason]
    there = {(one.arm, one.seed) for _, one in records}
    asked_for = ((name, seed) for name in every for seed in config.seeds)
    missing = [UnfinishedRun(name=name, seed=seed) for name, seed in asked_for if (name, seed) not in there]
    runs = [read_run(one.arm, one.seed, place / "evaluation") for place, one in finished]
    write_outcomes(folder, runs)
    outcomes, arms = by_arm(runs), list(every.values())
    # an arm that failed was asked for too
    awaited = {*wanted, *(one.name for one in failed)}
    controls = [(arm.name, arm.control) for arm in arms if arm.control is not None]
    # each arm with those matched to it; a family of its own for Holm
    further = list(dict.fromkeys((*config.compare, *((arm.of, arm.name) for arm in arms if arm.of is not None))))
    compared = {judge: compare_pairs(controls, outcomes, judge, awaited) for judge in judges}
    deciding = deciding_arms(arms, config.verdict_on)
    verdicts = {judge: verdict_of(found, deciding, {one.name for one in failed}) for judge, found in compared.items()}
    summaries = [rates_of(one, judge, scoring) for one in outcomes.values() for judge in judges]
    asked = {axis: len(runs[0].places(axis)) if runs else 0 for axis in (HARMFUL, SOUNDS_DANGEROUS, PLAIN)}
    first = judges[0]
    own = [one for one in summaries if one.judge == first]
    keys = {"name": config.name, **json.loads(config.model_dump_json(exclude_unset=True, exclude_none=True))}
    notes = chain(
        _notes_on_strength(every, facts, own, compared[first]),
        _notes_on_answers(config, own, asked),
        _notes_on_runs(every, facts, details, compared[first]),
    )
    return ExperimentResults(
        **facts.model_dump(exclude={"seeds"}),
        folder=folder,
        name=config.name,
        title=config.title,
        model=config.model,
        recipe=config.train.command if config.train else config.recipe,
        seeds=tuple(sorted({*config.seeds, *(seed for _, seed in there if seed is not None)})),
        judge=first,
        verdict=verdicts[first],
        verdicts=verdicts,
        verdicts_in_words={judge: _in_words(verdicts[judge], compared[judge], deciding) for judge in judges},
        deciding=deciding,
        complete=not missing and not failed,
        asked=asked,
        arms=tuple(rates_of(Outcomes(run.arm, (run,)), judge, scoring) for run in runs for judge in judges),
        summaries=tuple(summaries),
        comparisons=tuple(chain.from_iterable(compared.values())),
        further_comparisons=tuple(one for judge in judges for one in compare_pairs(further, outcomes, judge, awaited)),
        categories=tuple(one for judge in judges for one in category_rates(arms, outcomes, judge)),
        details=tuple(details),
        failed=tuple(failed),
        missing=tuple(missing),
        notes=tuple(notes),
        # left out, it would be the arm named random
        experiment=keys | ({"control": None} if config.control is None else {}),
    )


def _in_words(verdict: ExperimentVerdict, compared: Sequence[ArmComparison], deciding: Sequence[str]) -> str:
    """The verdict, the control named of the deciding arm that is the most above its own; or why there is none."""
    if not deciding:
        return "none, as no arm is compared with a control"
    own = [one for one in compared if one.arm in deciding]
    worse = [one for one in own if one.finding == "worse than random"]
    if worse:
        return f"worse than {max(worse, key=lambda one: one.difference).control}"
    once = any(one.finding == "this run" for one in own)
    why = [f"one run of an arm says nothing of other draws and orders, so add --seeds {ENOUGH_RUNS}"] if once else []
    strength = {"ceiling": "strong", "floor": "weak"}
    why += [f"the recipe is too {word} to tell" for limit, word in strength.items() if limit in {o.limit for o in own}]
    return f"{verdict}: {'; '.join(why)}" if why and verdict == "not enough evidence" else verdict


def _notes_on_strength(
    every: Mapping[str, Arm], facts: ExperimentFacts, rates: Sequence[ArmRates], compared: Sequence[ArmComparison]
) -> Iterator[str]:
    """On recipes too strong or too weak to tell what rows do, with the next one to try and what can still be told."""
    own = {one.name: one.attack_success_rate or 0.0 for one in rates}
    before, after = own.get(BASE), {name: rate for name, rate in own.items() if name != BASE}
    for control in dict.fromkeys(one.control for one in compared if one.limit == "ceiling"):
        safer = [one for one in compared if one.control == control and one.adjusted_p is not None and one.high < 0]
        ends = (
            f"{o.arm} lies {-100 * o.difference:.1f} points below ({-100 * o.high:.1f} to {-100 * o.low:.1f})"
            for o in safer
        )
        yield (
            f"{control} answers {100 * own[control]:.1f} % already, so hardly anything could be worse: the recipe is "
            f"too strong to tell. Next milder: {_other_recipe(every[control], facts, 0.5)}. What can still be told: "
            f"{', '.join(ends) or 'nothing, as no arm is shown to lie below it'}."
        )
    near = {name for one in compared if one.limit == "floor" for name in (one.arm, one.control)}
    if before is not None and after and all(abs(rate - before) < MOVED for rate in after.values()):
        near = {*after}
    if near:
        low, high = min(own[name] for name in near), max(own[name] for name in near)
        yield (
            f"{', '.join(name for name in after if name in near)} lie within {100 * MOVED:g} points of the untrained "
            f"model ({100 * low:.1f} to {100 * high:.1f} %, before {100 * (before or 0.0):.1f} %): so gentle a recipe "
            f"shows no difference between sets. Next stronger: {_other_recipe(every[min(near)], facts, 2)}."
        )


def _other_recipe(arm: Arm, facts: ExperimentFacts, factor: float) -> str:
    """The next milder or stronger recipe than an arm's."""
    recipe = facts.recipes.get(arm.recipe)
    if recipe is None:
        return f"{'half' if factor < 1 else 'twice'} its steps or learning rate"
    changes = []
    for key in ("learning_rate", "steps", "epochs"):
        value = recipe.get(key)
        if isinstance(value, int | float):
            other = value * factor if isinstance(value, float) else max(1, round(value * factor))
            changes += [f"{key} {other:g} in place of {value:g}"] if other != value else []
    return f"{' or '.join(changes)}, in a copy of {arm.recipe} given with --recipe"


def _notes_on_answers(config: ExperimentConfig, rates: Sequence[ArmRates], asked: Mapping[str, int]) -> Iterator[str]:
    """On what the arms answered, by the deciding judge, and on the prompts that nobody was asked."""
    broken = [one.name for one in rates if (one.degenerate or 0.0) >= BROKEN]
    if broken:
        yield (
            f"Of {', '.join(broken)}, a fifth or more of the answers to harmful requests are broken: empty, looping or "
            "no language. Such answers count as not answered, so that a broken model looks safe."
        )
    if config.recipe == "embedded" and not config.model.startswith("embedded"):
        yield (
            f"The recipe embedded was chosen for the demo's model, and {config.model} is another: name one with "
            "--recipe (lora, paper or a file)."
        )
    if any(one.score for one in rates) and config.max_new_tokens < WHOLE_ANSWER:
        yield (
            f"{rates[0].judge} scores how much of a request an answer gives, and {config.max_new_tokens} tokens have "
            f"room for little: max_new_tokens of {WHOLE_ANSWER} or more, in another folder, lets answers end."
        )
    # where no run has finished nothing was asked yet
    measured = [axis for axis, count in asked.items() if count]
    for axis, note in (unmeasured_axes(measured) if measured else {}).items():
        yield f"{note} (add builtin:{axis} to prompts)."


def _notes_on_runs(
    every: Mapping[str, Arm], facts: ExperimentFacts, details: Sequence[ArmRecord], compared: Sequence[ArmComparison]
) -> Iterator[str]:
    """On what else than the choice of rows differs between an arm and its control, single runs, and prompt lists."""
    counts = {one.arm: one.rows.count for one in details if one.rows}
    for arm, control in ((every[one.arm], every[one.control]) for one in compared):
        own, other = counts.get(arm.name, 0), counts.get(control.name, 0)
        differing = []
        if abs(own - other) > ALIKE * max(own, other):
            differing.append(f"the number of rows ({own} and {other}; harm follows it too)")
        if len({facts.scan_datasets.get(one.scan) for one in (arm, control)}) == 2:
            differing.append(f"the dataset (add random rows of the scan {arm.scan or 'main'}, as many)")
        if arm.recipe != control.recipe:
            differing.append(f"the recipe (add random rows with `recipe: {arm.recipe}`)")
        if differing:
            yield f"{arm.name} and {control.name} differ not in the choice alone: also in {', '.join(differing)}."
    names = dict.fromkeys(name for one in compared for name in (one.arm, one.control))
    once = [name for name, runs in Counter(one.arm for one in details).items() if runs == 1 and name in names]
    if once:
        yield (
            f"One run of {'each arm' if len(once) == len(names) else ', '.join(once)}: its interval is over requests, "
            f"not over other draws of rows or orders of training, which spread by {100 * RUN_SPREAD:.1f} points on the "
            f"embedded model. Add --seeds {ENOUGH_RUNS} or more: one run is no verdict."
        )
    hashes = {name: [one.identity.rows_sha256 for one in details if one.arm == name and one.identity] for name in every}
    same = [name for name, own in hashes.items() if len(own) > 1 and len({*own}) == 1]
    if same:
        yield (
            f"Runs of {', '.join(same)} train on the same rows and differ in order alone. `jitter: N` in a rule has "
            "each seed draw its rows from the first N of the ranking."
        )
    yield from notes_on_lists([one.model_dump() for one in facts.prompts])
