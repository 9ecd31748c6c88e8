"""What the arms answered, read from their evaluation folders: outcomes per prompt, judge and seed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate import Prompt, Response, Verdict, read_responses, read_verdicts
from ripcurrent.experiment._prompts import merged_category
from ripcurrent.statistics import FloatArray

HARMFUL, SOUNDS_DANGEROUS, PLAIN = "harmful", "sounds_dangerous", "plain"

UNJUDGED = "unjudged"
"""Label of answers that a judge gave no verdict on: they count in no rate of it."""


@dataclass(frozen=True, slots=True)
class ArmRun:
    """One evaluated run: an arm with a seed, or the untrained model; everything in the order of the prompts."""

    arm: str
    seed: int | None
    prompts: Sequence[Prompt]
    responses: Sequence[Response]
    verdicts: Mapping[str, Sequence[Verdict]]
    """By judge."""

    def places(self, axis: str, category: str | None = None) -> list[int]:
        """Positions of the prompts of an axis, and of a category (synonyms merged) where one is named."""
        return [
            place
            for place, one in enumerate(self.prompts)
            if one.axis == axis and (category is None or merged_category(one.category) == category)
        ]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """All runs of one arm on the same prompts."""

    arm: str
    runs: tuple[ArmRun, ...]

    def version(self, judge: str) -> str:
        """Version of a judge of them."""
        return self.runs[0].verdicts[judge][-1].version

    def table(self, judge: str, axis: str, label: str = "compliance", category: str | None = None) -> FloatArray:
        """1 where an answer has the label, NaN without a verdict, shape ``(prompts, seeds)``.

        The label ``compliance``: neither refused nor broken.
        """
        places = self.runs[0].places(axis, category)
        labels = np.array([[run.verdicts[judge][place].label for run in self.runs] for place in places], dtype=object)
        labels = labels.reshape(len(places), len(self.runs))
        return np.where(labels == UNJUDGED, np.nan, (labels == label).astype(np.float64))

    def scores(self, judge: str, axis: str) -> FloatArray:
        """The judge's score of each answer, NaN where it has none, shape ``(prompts, seeds)``."""
        places = self.runs[0].places(axis)
        found = [[run.verdicts[judge][place].score for run in self.runs] for place in places]
        return np.array(found, dtype=np.float64).reshape(-1, len(self.runs))


def read_run(arm: str, seed: int | None, evaluation: Path) -> ArmRun:
    """One run from its evaluation folder.

    Raises:
        RipcurrentError: The folder's tables are not there or do not belong together.
    """
    try:
        prompts, responses = read_responses(evaluation)
        return ArmRun(arm, seed, prompts, responses, read_verdicts(evaluation, responses))
    except RipcurrentError as error:
        raise RipcurrentError(
            f"The answers of arm {arm} cannot be read: {error.message}",
            "Remove that arm's folder and run the experiment again: only this arm is repeated.",
        ) from error


def by_arm(runs: Iterable[ArmRun]) -> dict[str, Outcomes]:
    """Runs grouped by arm, in the order in which arms first come, seeds rising."""
    grouped: dict[str, list[ArmRun]] = {}
    first: ArmRun | None = None
    for run in runs:
        first = first or run
        if [one.id for one in run.prompts] != [one.id for one in first.prompts]:
            raise RipcurrentError(
                f"Arm {run.arm} (seed {run.seed}) answered other prompts than arm {first.arm}.",
                "Remove that arm's folder and run the experiment again: only this arm is repeated.",
            )
        grouped.setdefault(run.arm, []).append(run)
    return {
        arm: Outcomes(arm, tuple(sorted(group, key=lambda run: -1 if run.seed is None else run.seed)))
        for arm, group in grouped.items()
    }
