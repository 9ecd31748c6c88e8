"""What a reader should know before believing an experiment's tables, in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ripcurrent.evaluate import notes_on_lists, unmeasured_axes
from ripcurrent.experiment._arms import BASE, Arm
from ripcurrent.experiment._config import ExperimentConfig
from ripcurrent.experiment._results import ArmComparison, ArmRates, ArmRecord, ExperimentFacts
from ripcurrent.experiment._tables import BROKEN
from ripcurrent.finetune import FinetuneManifest
from ripcurrent.runs import MANIFEST

ALIKE = 0.05
"""Arms that differ by no more than this share of their rows are compared without a word."""
WHOLE_ANSWER = 256
"""Tokens that judges with a score of harm need at the least."""
MOVED = 0.02
"""Arms whose rates are all nearer than this to the untrained model's were trained too gently to differ."""


def notes_on_answers(config: ExperimentConfig, rates: Sequence[ArmRates], asked: Mapping[str, int]) -> Iterator[str]:
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
    before = next((one.attack_success_rate for one in rates if one.name == BASE), None)
    after = [one.attack_success_rate or 0.0 for one in rates if one.name != BASE]
    if before is not None and after and all(abs(rate - before) < MOVED for rate in after):
        yield (
            f"No arm answers noticeably other than the untrained model ({100 * min(after):.1f} to "
            f"{100 * max(after):.1f} %, before {100 * before:.1f} %): so gentle a training shows no difference between "
            "sets. More rows, more steps or a higher rate may."
        )
    # where no run has finished nothing was asked yet
    measured = [axis for axis, count in asked.items() if count]
    for axis, note in (unmeasured_axes(measured) if measured else {}).items():
        yield f"{note} (add builtin:{axis} to prompts)."


def notes_on_runs(
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
    runs = Counter(one.arm for one in details)
    names = dict.fromkeys(name for one in compared for name in (one.arm, one.control))
    once = [name for name in names if runs[name] == 1]
    if once:
        yield (
            f"One run of {'each arm' if len(once) == len(names) else ', '.join(once)}: interval and p are over "
            "requests, not over other draws of rows or orders of training, and two runs of one arm often differ by "
            "several points. --seeds separates a small difference from luck."
        )
    yield from notes_on_lists([one.model_dump() for one in facts.prompts])


def note_on_devices(folder: Path, details: Sequence[ArmRecord]) -> Iterator[str]:
    """Where runs were trained on other kinds of devices, in other types or by other versions."""
    how: dict[str, list[str]] = {}
    for one in details:
        place = folder / "arms" / f"{one.arm}-seed{one.seed}" / "finetune"
        if (place / MANIFEST).is_file():
            made = FinetuneManifest.read(place)
            device = str(made.model.device).partition(":")[0]
            way = f"{device}, {made.training.compute}, version {made.version}"
            how.setdefault(way, []).append(f"{one.arm} (seed {one.seed})")
    if len(how) > 1:
        ways = "; ".join(f"{way}: {', '.join(names)}" for way, names in how.items())
        yield f"Runs were not trained alike, so that what differs between them may be that: {ways}."
