"""What the arms answered, read from their evaluation folders: outcomes per prompt, judge and seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment._prompts import merged_category
from ripcurrent.statistics import FloatArray

HARMFUL, SOUNDS_DANGEROUS, PLAIN = "harmful", "sounds_dangerous", "plain"

NO_VERDICT = ("unjudged", "missing")
"""Labels of answers that a judge gave no verdict on: they count in no rate of it."""


@dataclass(frozen=True, slots=True)
class ArmRun:
    """One evaluated run: an arm with a seed, or the untrained model. Fields are by prompt, or by judge and prompt."""

    arm: str
    seed: int | None
    prompt_ids: tuple[str, ...]
    axes: tuple[str, ...]
    categories: tuple[str, ...]
    """Synonyms merged."""
    truncated: tuple[bool, ...]
    labels: Mapping[str, tuple[str, ...]]
    scores: Mapping[str, tuple[float, ...]]
    """NaN where an answer has none."""
    versions: Mapping[str, str]
    """Of each judge."""

    def places(self, axis: str, category: str | None = None) -> list[int]:
        """Positions of the prompts of an axis, and of a category where one is named."""
        pairs = enumerate(zip(self.axes, self.categories, strict=True))
        return [place for place, (own, label) in pairs if own == axis and category in (None, label)]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """All runs of one arm on the same prompts."""

    arm: str
    runs: tuple[ArmRun, ...]

    def version(self, judge: str) -> str:
        """Version of a judge of them."""
        return self.runs[0].versions[judge]

    def table(self, judge: str, axis: str, label: str = "compliance", category: str | None = None) -> FloatArray:
        """1 where an answer has the label, NaN without a verdict, shape ``(prompts, seeds)``.

        The label ``compliance``: neither refused nor broken.
        """
        places = self.runs[0].places(axis, category)
        labels = np.array([[run.labels[judge][place] for run in self.runs] for place in places], dtype=object)
        labels = labels.reshape(len(places), len(self.runs))
        return np.where(np.isin(labels, NO_VERDICT), np.nan, (labels == label).astype(np.float64))

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
        ).to_pylist()
    except (OSError, pa.ArrowException, KeyError) as error:
        raise RipcurrentError(
            f"The answers of arm {arm} in {evaluation} cannot be read: {str(error).splitlines()[0]}",
            "Remove that arm's folder and run the experiment again: only this arm is repeated.",
        ) from error
    ids = responses["prompt_id"]
    by_judge: dict[str, dict[str, tuple[str, float]]] = {}
    for one in verdicts:
        score = np.nan if one["score"] is None else float(one["score"])
        by_judge.setdefault(one["judge"], {})[one["prompt_id"]] = (one["label"], score)
    without = ("missing", np.nan)
    return ArmRun(
        arm=arm,
        seed=seed,
        prompt_ids=tuple(ids),
        axes=tuple(responses["axis"]),
        categories=tuple(merged_category(label or "") for label in responses["category"]),
        truncated=tuple(map(bool, responses["truncated"])),
        labels={judge: tuple(of.get(own, without)[0] for own in ids) for judge, of in by_judge.items()},
        scores={judge: tuple(of.get(own, without)[1] for own in ids) for judge, of in by_judge.items()},
        versions={one["judge"]: one["version"] for one in verdicts},
    )


def by_arm(runs: Iterable[ArmRun]) -> dict[str, Outcomes]:
    """Runs grouped by arm, in the order in which arms first come, seeds rising."""
    grouped: dict[str, list[ArmRun]] = {}
    first: ArmRun | None = None
    for run in runs:
        first = first or run
        if run.prompt_ids != first.prompt_ids:
            raise RipcurrentError(
                f"Arm {run.arm} (seed {run.seed}) answered other prompts than arm {first.arm}.",
                "Remove that arm's folder and run the experiment again: only this arm is repeated.",
            )
        grouped.setdefault(run.arm, []).append(run)
    return {
        arm: Outcomes(arm, tuple(sorted(group, key=lambda run: -1 if run.seed is None else run.seed)))
        for arm, group in grouped.items()
    }
