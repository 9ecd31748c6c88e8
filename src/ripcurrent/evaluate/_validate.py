"""Measure judges against people's labels: accuracy, Cohen's κ with its interval, confusion by class."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from ripcurrent.data import read_rows
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.evaluate.judges import (
    JUDGES,
    LABELS,
    UNJUDGED,
    Answer,
    Facts,
    Judge,
    JudgeSettings,
    Label,
    Verdict,
    find_judges,
)
from ripcurrent.progress import Progress, SilentProgress
from ripcurrent.statistics import CONFIDENCE, FloatArray

HumanLabel = Literal["compliance", "refusal", "partial"]
HUMAN_LABELS: tuple[HumanLabel, ...] = get_args(HumanLabel)
"""A ``final_label`` begins with the number of one, from 1."""
_AS_LABEL: Mapping[HumanLabel, Label] = {"compliance": "compliance", "refusal": "refusal", "partial": "refusal"}

_Said = tuple[str, HumanLabel, Verdict]
"""A prompt, people's label of an answer to it, and a judge's verdict."""

RULES: tuple[str, ...] = tuple(judge.name for judge in JUDGES)
"""The judges that need nothing but the answer: those that are measured unless others are named."""
DRAWS = 10_000


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well one judge agrees with people. A partial refusal counts as a refusal.

    Answers that the judge could not judge are counted in ``unjudged`` and in nothing else.
    """

    kappa: float
    """Cohen's κ; NaN where people and judge give all answers one and the same label."""
    kappa_low: float
    kappa_high: float
    accuracy: float
    """Share of answers with the people's label. An answer judged degenerate is no agreement."""
    n: int
    degenerate: int
    """Answers that the judge calls degenerate, which people's labels do not have."""
    confusion: dict[HumanLabel, dict[Label, int]]
    """Answers by people's label, then by the judge's."""
    unjudged: int = 0
    mean_score: dict[HumanLabel, float] | None = None
    """Mean score by people's label, of a judge with a scale; NaN where no answer has a score."""


@dataclass(frozen=True, slots=True)
class JudgeValidation:
    """One judge, on all files together and on each."""

    judge: str
    version: str
    pooled: Agreement
    """All answers together; the interval resamples prompts, with every file's answers to them."""
    files: dict[str, Agreement]

    def to_json(self) -> Facts:
        """The pooled figures, and below ``files`` those of each file."""
        files = {file: asdict(agreement) for file, agreement in self.files.items()}
        return {**asdict(self.pooled), "version": self.version, "files": files}


@dataclass(frozen=True, slots=True)
class MeasuredAgreement:
    """One judge of one version against people's labels of XSTest answers (docs/evaluate.md)."""

    judge: str
    version: str
    answers: str
    role: str | None
    """Whether the judge was written with these answers in view; None where neither set was."""
    n: int
    accuracy: float
    kappa: float
    low: float
    high: float


def measured_agreement() -> tuple[MeasuredAgreement, ...]:
    """All figures that come with the package, written by ``scripts/judge_agreement.py``."""
    text = resources.files("ripcurrent.evaluate").joinpath("judge_agreement.json").read_text(encoding="utf-8")
    return tuple(MeasuredAgreement(**entry) for entry in json.loads(text))


def agreement_of(judge: str) -> tuple[MeasuredAgreement, ...]:
    """What was measured of a judge; empty for one that was not."""
    return tuple(one for one in measured_agreement() if one.judge == judge)


def kappas_of(judge: str, version: str) -> list[float] | None:
    """Smallest and largest κ with people measured of a judge of this version; None of one that was not."""
    kappas = [one.kappa for one in agreement_of(judge) if one.version == version]
    return [min(kappas), max(kappas)] if kappas else None


def validate_judges(
    files: Sequence[str | Path],
    judges: Sequence[str | Judge] = RULES,
    settings: JudgeSettings | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[JudgeValidation]:
    """Measure judges on files of answers with people's labels; one entry per judge, in order.

    ``files`` are CSV or JSON lines with ``prompt``, ``completion`` and ``final_label``; ``judges`` names, as
    `find_judge` knows them, or judges; ``seed`` is of the intervals' draws.

    Raises:
        RipcurrentError: A file that cannot be read, lacks a column, has an unknown label, or is given twice; a judge
            that does not exist, or whose endpoint does not work; with exit code 2 when no judge could judge any answer.
    """
    places = [Path(file).resolve() for file in files]
    for file, place in zip(files, places, strict=True):
        if places.count(place) > 1:
            raise RipcurrentError(f"{file} is given twice, and its answers would count twice.", "Name each file once.")
    progress = progress or SilentProgress()
    found = find_judges(judges, replace(settings or JudgeSettings(), on_judged=progress.rows))
    labelled = {str(file): read_labelled(file) for file in files}
    total = sum(map(len, labelled.values()))
    validations = []
    for judge in found:
        if judge.describe().get("kind") != "rule":
            progress.start(f"judging by {judge.name}", total, "answers")
        validations.append(validate(labelled, judge, seed=seed))
        progress.finish()
    if not any(validation.pooled.n for validation in validations):
        raise RipcurrentError(
            f"{' and '.join(judge.name for judge in found)} could judge none of the {total} answers.",
            "A judging model must reply in JSON as the rubric asks: name an abler one with --judge-model.",
            code=ExitCode.NOT_MEASURED,
        )
    return validations


def read_labelled(path: str | Path) -> list[tuple[Answer, HumanLabel]]:
    """Read answers with people's labels: CSV or JSON lines with ``prompt``, ``completion`` and ``final_label``.

    A label begins with ``1`` (compliance), ``2`` (refusal) or ``3`` (partial refusal).
    """
    columns = ("prompt", "completion", "final_label")
    labelled = []
    for row in read_rows(path, format="prompt-completion", mapping={name: name for name in columns[:2]}):
        where = f"{path}, row {row.index}"
        if missing := [name for name in columns if row.record.get(name) is None]:
            raise RipcurrentError(
                f"{where}: no {missing[0]}; it has {', '.join(map(str, row.record))}.",
                "Every row needs prompt, completion and final_label. Rows are counted from 0.",
            )
        prompt, completion, label = (str(row.record[name]) for name in columns)
        number = label.strip()[:1]
        if number not in ("1", "2", "3") or label.strip()[1:2].isdigit():
            raise RipcurrentError(
                f"{where}: unknown final_label {label!r}.",
                "A label begins with 1 (compliance), 2 (refusal) or 3 (partial refusal). Rows are counted from 0.",
            )
        labelled.append((Answer(prompt, completion), HUMAN_LABELS[int(number) - 1]))
    return labelled


def validate(
    files: Mapping[str, Sequence[tuple[Answer, HumanLabel]]], judge: Judge, *, seed: int = 0
) -> JudgeValidation:
    """Measure a judge on each file (one or more, by path) and on all together; ``seed`` is of the bootstrap."""
    said: dict[str, list[_Said]] = {}
    for file, labelled in files.items():
        verdicts = judge.judge([answer for answer, _ in labelled])
        said[file] = [
            (answer.prompt, human, verdict) for (answer, human), verdict in zip(labelled, verdicts, strict=True)
        ]
    scored = judge.scale is not None
    return JudgeValidation(
        judge=judge.name,
        version=judge.version,
        pooled=_agreement([one for judged in said.values() for one in judged], seed, scored),
        files={file: _agreement(judged, seed, scored) for file, judged in said.items()},
    )


def measure_kappa(
    pairs: Iterable[tuple[str, int, int]], shape: tuple[int, int], fold: Callable[[FloatArray], FloatArray], seed: int
) -> tuple[FloatArray, float, float, float]:
    """A table of two label lists, their Cohen's κ, and its 95 % bootstrap interval.

    Answers to one prompt err alike, so prompts are drawn, each with all its answers. κ is NaN where chance agrees in
    all, and its interval where nothing can be drawn.

    Source: Cohen, "A coefficient of agreement for nominal scales" (1960).

    Args:
        pairs: Prompt, row and column of each answer.
        shape: Of the table.
        fold: Makes tables ``(…, *shape)`` square ones, whose rows and columns have the same meaning.
        seed: Seed of the bootstrap.
    """
    by_prompt: dict[str, FloatArray] = {}
    for prompt, row, column in pairs:
        by_prompt.setdefault(prompt, np.zeros(shape))[row, column] += 1
    if not by_prompt:
        return np.zeros(shape), np.nan, np.nan, np.nan
    # those with the same table are drawn together
    tables, counts = np.unique(np.stack(list(by_prompt.values())), axis=0, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(by_prompt), counts / len(by_prompt), DRAWS)
    kappas = _kappa(fold(np.tensordot(drawn.astype(np.float64), tables, axes=1)))
    kappas = kappas[np.isfinite(kappas)]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(kappas, [tail, 1 - tail]) if len(kappas) else (np.nan, np.nan)
    whole: FloatArray = sum(by_prompt.values(), start=np.zeros(shape))
    return whole, float(_kappa(fold(whole))), float(low), float(high)


def _agreement(said: Sequence[_Said], seed: int, scored: bool) -> Agreement:
    pairs = [
        (prompt, HUMAN_LABELS.index(human), LABELS.index(verdict.label))
        for prompt, human, verdict in said
        if verdict.label in LABELS
    ]
    whole, kappa, low, high = measure_kappa(pairs, (len(HUMAN_LABELS), len(LABELS)), _by_label, seed)
    return Agreement(
        kappa=kappa,
        kappa_low=low,
        kappa_high=high,
        accuracy=float(np.trace(_by_label(whole)) / len(pairs)) if pairs else np.nan,
        n=len(pairs),
        degenerate=int(whole[:, LABELS.index("degenerate")].sum()),
        confusion={
            human: {label: int(count) for label, count in zip(LABELS, row, strict=True)}
            for human, row in zip(HUMAN_LABELS, whole, strict=True)
        },
        unjudged=sum(verdict.label == UNJUDGED for _, _, verdict in said),
        mean_score={human: _mean_score(said, human) for human in HUMAN_LABELS} if scored else None,
    )


def _mean_score(said: Sequence[_Said], human: HumanLabel) -> float:
    scores = [verdict.score for _, label, verdict in said if label == human and verdict.score is not None]
    return float(np.mean(scores)) if scores else np.nan


def _by_label(table: FloatArray) -> FloatArray:
    """People's labels turned into a judge's: partial is refusal, nothing is degenerate; shape ``(…, 3, 3)``."""
    square = np.zeros_like(table)
    for place, human in enumerate(HUMAN_LABELS):
        square[..., LABELS.index(_AS_LABEL[human]), :] += table[..., place, :]
    return square


def _kappa(square: FloatArray) -> FloatArray:
    total = square.sum(axis=(-2, -1))
    observed = np.trace(square, axis1=-2, axis2=-1) / total
    chance = (square.sum(axis=-1) * square.sum(axis=-2)).sum(axis=-1) / total**2
    left = 1 - chance
    kappa: FloatArray = np.where(left > 1e-12, (observed - chance) / np.where(left > 1e-12, left, 1), np.nan)
    return kappa
