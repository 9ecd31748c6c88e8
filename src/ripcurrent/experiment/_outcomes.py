"""What the arms answered, read from their evaluation folders: outcomes per prompt, judge and seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment._categories import merged_category
from ripcurrent.statistics import FloatArray

HARMFUL, SOUNDS_DANGEROUS, PLAIN = "harmful", "sounds_dangerous", "plain"

NO_VERDICT = ("unjudged", "missing")
"""Labels of answers that a judge gave no verdict on: they count in no rate of it."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """How a judge that gives scores is to be read."""

    greatest: float
    """The greatest score that it can give."""
    tells_refusals: bool
    """Whether what it does not call answered is a refusal; a low score for harm is none."""


@dataclass(frozen=True, slots=True)
class ArmRun:
    """One evaluated run: an arm with a seed, or the untrained model."""

    arm: str
    """Name of the arm."""
    seed: int | None
    """Its seed; None for the untrained model."""
    prompt_ids: tuple[str, ...]
    """The prompts, in order."""
    axes: tuple[str, ...]
    """Axis of each prompt."""
    categories: tuple[str, ...]
    """Category of each prompt, synonyms merged."""
    labels: Mapping[str, tuple[str, ...]]
    """By judge, the label of each prompt's answer."""
    versions: Mapping[str, str]
    """Version of each judge."""
    truncated: tuple[bool, ...]
    """Whether each answer reached the token limit."""
    scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """By judge, the score of each prompt's answer, NaN where it has none."""

    def places(self, axis: str, category: str | None = None) -> list[int]:
        """Positions of the prompts of an axis, and of a category where one is named."""
        return [
            place
            for place, (own, label) in enumerate(zip(self.axes, self.categories, strict=True))
            if own == axis and category in (None, label)
        ]

    def is_label(self, judge: str, axis: str, label: str, category: str | None = None) -> FloatArray:
        """1 where the answer has the label, NaN where the judge gave no verdict, shape ``(prompts of the axis,)``."""
        labels = [self.labels[judge][place] for place in self.places(axis, category)]
        return np.array([np.nan if own in NO_VERDICT else float(own == label) for own in labels])


@dataclass(frozen=True, slots=True)
class Outcomes:
    """All runs of one arm on the same prompts."""

    arm: str
    """Name of the arm."""
    runs: tuple[ArmRun, ...]
    """Its runs, by seed."""

    @property
    def seeds(self) -> tuple[int | None, ...]:
        """Their seeds."""
        return tuple(run.seed for run in self.runs)

    def table(self, judge: str, axis: str, label: str = "compliance", category: str | None = None) -> FloatArray:
        """1 where an answer has the label, NaN without a verdict, shape ``(prompts, seeds)``.

        The label ``compliance``: neither refused nor broken.
        """
        return np.stack([run.is_label(judge, axis, label, category) for run in self.runs], axis=1)

    def scores(self, judge: str, axis: str) -> FloatArray:
        """The judge's score of each answer, NaN where it has none, shape ``(prompts, seeds)``."""
        found = [[run.scores[judge][place] for run in self.runs] for place in self.runs[0].places(axis)]
        return np.array(found, dtype=np.float64).reshape(-1, len(self.runs))


def read_run(arm: str, seed: int | None, evaluation: Path) -> ArmRun:
    """One run from its evaluation folder.

    Raises:
        RipcurrentError: The folder's tables are not there or do not belong together.
    """
    try:
        responses = pq.read_table(
            evaluation / "responses.parquet", columns=["prompt_id", "axis", "category", "truncated"]
        ).to_pydict()
        verdicts = pq.read_table(
            evaluation / "verdicts.parquet", columns=["prompt_id", "judge", "version", "label", "score"]
        ).to_pydict()
    except (OSError, ValueError, KeyError) as error:
        raise RipcurrentError(
            f"The answers of arm {arm} in {evaluation} cannot be read: {str(error).splitlines()[0]}",
            "Remove that arm's folder and run the experiment again: only this arm is repeated.",
        ) from error
    ids = responses["prompt_id"]
    by_judge: dict[str, dict[str, str]] = {}
    versions: dict[str, str] = {}
    scores: dict[str, dict[str, float]] = {}
    columns = (verdicts[name] for name in ("prompt_id", "judge", "version", "label", "score"))
    for prompt_id, judge, version, label, score in zip(*columns, strict=True):
        by_judge.setdefault(judge, {})[prompt_id] = label
        scores.setdefault(judge, {})[prompt_id] = np.nan if score is None else score
        versions[judge] = version
    return ArmRun(
        arm=arm,
        seed=seed,
        prompt_ids=tuple(ids),
        axes=tuple(responses["axis"]),
        categories=tuple(merged_category(label or "") for label in responses["category"]),
        labels={judge: tuple(labels.get(own, "missing") for own in ids) for judge, labels in by_judge.items()},
        versions=versions,
        truncated=tuple(bool(value) for value in responses["truncated"]),
        scores={judge: tuple(found.get(own, np.nan) for own in ids) for judge, found in scores.items()},
    )


def by_arm(runs: Iterable[ArmRun]) -> dict[str, Outcomes]:
    """Runs grouped by arm, in the order in which arms first come, seeds rising.

    Raises:
        RipcurrentError: Two runs answered different prompts.
    """
    grouped: dict[str, list[ArmRun]] = {}
    for run in runs:
        grouped.setdefault(run.arm, []).append(run)
    first = next(iter(grouped.values()))[0] if grouped else None
    for run in (run for group in grouped.values() for run in group):
        if first is not None and run.prompt_ids != first.prompt_ids:
            raise RipcurrentError(
                f"Arm {run.arm} (seed {run.seed}) answered other prompts than arm {first.arm}.",
                "Remove that arm's folder and run the experiment again: only this arm is repeated.",
            )
    return {
        arm: Outcomes(arm, tuple(sorted(group, key=lambda run: -1 if run.seed is None else run.seed)))
        for arm, group in grouped.items()
    }
