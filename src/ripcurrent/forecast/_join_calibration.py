"""A ladder joined with the runs that a calibration keeps: it grows, also where their folders are gone."""

from __future__ import annotations

from collections import Counter

from ripcurrent.errors import RipcurrentError
from ripcurrent.forecast._calibration import Calibration, CalibrationRun, LeftOut, Source
from ripcurrent.forecast._conditions import Conditions, differences, recipe_sha256
from ripcurrent.forecast._ladder import Ladder

_HINT = "A calibration grows by runs of one model, recipe, judge and list of requests, scored with the same anchors."


def join_calibration(ladder: Ladder, calibration: Calibration) -> Ladder:
    """The calibration's runs, then the ladder's that are not among them.

    A training on the same rows with the same seed counts once, as the calibration has it.

    Raises:
        RipcurrentError: The two differ in model, anchors, options of the scan, recipe, requests or judge; the first
            difference is named.
    """
    refuse_other_conditions(ladder.conditions, calibration)
    columns = sorted(set(calibration.runs[0].means) & set(ladder.runs[0].means))
    reason = calibration.scored_with.difference(ladder.scored_with, columns)
    if reason is not None:
        raise RipcurrentError(f"The runs cannot be joined with the calibration: {reason}.", _HINT)
    names = _names(ladder, calibration)
    experiments = _experiments(ladder, calibration)
    same = {(one.tokens_sha256, one.seed): one for one in calibration.runs}
    added: list[CalibrationRun] = []
    left_out = [*calibration.left_out]
    for run in ladder.runs:
        experiment = experiments[run.experiment]
        there = same.get((run.tokens_sha256, run.seed))
        if there is None:
            added.append(run.model_copy(update={"experiment": experiment, "source": names[run.source]}))
            continue
        why = f"arm {there.arm} of {there.experiment} in the calibration is the same training"
        left_out.append(LeftOut(experiment=experiment, arm=run.arm, seed=run.seed, reason=why))
    left_out += [
        one.model_copy(update={"experiment": experiments[one.experiment]})
        for one in ladder.left_out
        if one not in calibration.left_out
    ]
    return Ladder(
        scored_with=calibration.scored_with,
        default_column=calibration.columns[0],
        conditions=ladder.conditions,
        sources=tuple(_sources(ladder, calibration, names, Counter(run.source for run in added))),
        runs=(*calibration.runs, *added),
        left_out=tuple(left_out),
    )


def refuse_other_conditions(conditions: Conditions, calibration: Calibration) -> None:
    """Refuse runs trained, asked or judged in another way than a calibration's.

    Raises:
        RipcurrentError: They differ; the first difference is named.
    """
    differing = [what for what, _, _ in differences(conditions, calibration)]
    if calibration.prompts.sha256 != conditions.prompts.sha256:
        differing.insert(0, "harmful requests")
    if calibration.recipe_sha256 != recipe_sha256(conditions.recipe):
        differing.insert(0, "recipe")
    if differing:
        raise RipcurrentError(
            f"The runs cannot be joined with the calibration: their {differing[0]} "
            f"{'differ' if differing[0].endswith('s') else 'differs'} from its own.",
            _HINT,
        )


def _names(ladder: Ladder, calibration: Calibration) -> dict[str, str]:
    """The ladder's names of sources to those in the join: a dataset keeps the calibration's; two names stay two."""
    known = {source.sha256: source.name for source in calibration.sources}
    taken = set(known.values())
    found = {}
    for source in ladder.sources:
        free = f"{source.name} ({source.sha256[:8]})" if source.name in taken else source.name
        found[source.name] = known.get(source.sha256, free)
    return found


def _sources(ladder: Ladder, calibration: Calibration, names: dict[str, str], added: Counter[str]) -> list[Source]:
    known = {source.name for source in calibration.sources}
    joined = [one.model_copy(update={"runs": one.runs + added[one.name]}) for one in calibration.sources]
    for one in ladder.sources:
        name = names[one.name]
        if name not in known and added[name]:
            joined.append(one.model_copy(update={"name": name, "runs": added[name]}))
    return joined


def _experiments(ladder: Ladder, calibration: Calibration) -> dict[str, str]:
    """The ladder's names of experiments to those in the join, with a number where the calibration has that name.

    An experiment that a run of the calibration comes from keeps its name, so that an arm's seeds stay together.
    """
    there = {(run.experiment, run.arm, run.seed, run.tokens_sha256) for run in calibration.runs}
    known = {run.experiment for run in ladder.runs if (run.experiment, run.arm, run.seed, run.tokens_sha256) in there}
    taken = {run.experiment for run in calibration.runs} | {left.experiment for left in calibration.left_out}
    found: dict[str, str] = {}
    own = [*(run.experiment for run in ladder.runs), *(left.experiment for left in ladder.left_out)]
    for name in dict.fromkeys(own):
        number, free = 2, name
        while free in taken and free not in known:
            free, number = f"{name}-{number}", number + 1
        taken.add(free)
        found[name] = free
    return found
