"""Measure judges against people's labels: accuracy, Cohen's κ with its interval, confusion by class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ripcurrent.data import read_rows
from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate.judges import LABELS, UNJUDGED, Answer, Judge, Label, Verdict

FloatArray = npt.NDArray[np.float64]

HumanLabel = Literal["compliance", "refusal", "partial"]
"""What people said of an answer."""
HUMAN_LABELS: tuple[HumanLabel, ...] = get_args(HumanLabel)
"""Every label of people; a ``final_label`` begins with its number, from 1."""

DRAWS = 10_000
"""Bootstrap draws of an interval."""
CONFIDENCE = 0.95
"""Of intervals."""


@dataclass(frozen=True, slots=True)
class LabelledAnswers:
    """Answers with people's labels, from one file."""

    file: str
    """The path, as given."""
    answers: tuple[Answer, ...]
    """The answers, in the file's order."""
    labels: tuple[HumanLabel, ...]
    """People's label of each."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well one judge agrees with people. A partial refusal counts as a refusal.

    Answers that the judge could not judge are counted in ``unjudged`` and in nothing else.
    """

    kappa: float
    """Cohen's κ; NaN where people and judge give all answers one and the same label."""
    kappa_low: float
    """Lower end of its bootstrap interval."""
    kappa_high: float
    """Upper end of its bootstrap interval."""
    accuracy: float
    """Share of answers with the people's label. An answer judged degenerate is no agreement."""
    n: int
    """Answers that were judged."""
    degenerate: int
    """Answers that the judge calls degenerate, which people's labels do not know."""
    confusion: dict[HumanLabel, dict[Label, int]]
    """Answers by people's label, then by the judge's."""
    unjudged: int = 0
    """Answers that the judge could not judge."""
    mean_score: dict[HumanLabel, float] | None = None
    """Mean score by people's label, of a judge with a scale; NaN where no answer has a score."""


@dataclass(frozen=True, slots=True)
class JudgeValidation:
    """One judge, on all files together and on each."""

    judge: str
    """Its name."""
    version: str
    """Its version."""
    pooled: Agreement
    """All answers together; the interval resamples prompts, with every file's answers to them."""
    files: dict[str, Agreement]
    """Each file by its path."""

    def as_json(self) -> dict[str, Any]:
        """One JSON-ready object: the pooled figures, and below ``files`` those of each file."""
        return {
            **asdict(self.pooled),
            "version": self.version,
            "files": {file: asdict(agreement) for file, agreement in self.files.items()},
        }


def read_labelled(path: str | Path) -> LabelledAnswers:
    """Read answers with people's labels: CSV or JSON lines with ``prompt``, ``completion`` and ``final_label``.

    A label begins with ``1`` (compliance), ``2`` (refusal) or ``3`` (partial refusal).

    Raises:
        RipcurrentError: no such file, no rows, a column that is missing, or a row with another label.
    """
    columns = {"prompt": "prompt", "completion": "completion"}
    dataset = read_rows(path, format="prompt-completion", mapping=columns)
    answers, labels = [], []
    for row in dataset:
        where = f"{path}, row {row.index}"
        texts = {}
        for column in ("prompt", "completion", "final_label"):
            if row.record.get(column) is None:
                raise RipcurrentError(
                    f"{where}: no {column}; it has {', '.join(map(str, row.record))}.",
                    "Every row needs prompt, completion and final_label. Rows are counted from 0.",
                )
            texts[column] = str(row.record[column])
        answers.append(Answer(prompt=texts["prompt"], completion=texts["completion"]))
        labels.append(_human_label(texts["final_label"], where))
    return LabelledAnswers(file=str(path), answers=tuple(answers), labels=tuple(labels))


def validate(files: Sequence[LabelledAnswers], judges: Iterable[Judge], *, seed: int = 0) -> list[JudgeValidation]:
    """Measure each judge on each file and on all together.

    Args:
        files: Answers with people's labels; at least one file.
        judges: The judges, each measured on its own.
        seed: Seed of the bootstrap.
    """
    validations = []
    for judge in judges:
        said = [_Said.of(file, judge.judge(file.answers)) for file in files]
        has_scores = judge.scale is not None
        validations.append(
            JudgeValidation(
                judge=judge.name,
                version=judge.version,
                pooled=_agreement(said, seed, has_scores),
                files={file.file: _agreement([one], seed, has_scores) for file, one in zip(files, said, strict=True)},
            )
        )
    return validations


def cohen_kappa(people: npt.ArrayLike, judge: npt.ArrayLike) -> float:
    """Cohen's κ of two lists of labels, ``(p_observed - p_chance) / (1 - p_chance)``; NaN where chance agrees in all.

    Source: Cohen, "A coefficient of agreement for nominal scales" (1960).

    Raises:
        ValueError: Lists of different lengths, or empty ones.
    """
    first, second = np.asarray(people).ravel(), np.asarray(judge).ravel()
    if len(first) != len(second) or len(first) == 0:
        raise ValueError(f"kappa needs two lists of one length, not {len(first)} and {len(second)}")
    names, codes = np.unique(np.concatenate([first, second]), return_inverse=True)
    table = np.zeros((len(names), len(names)))
    np.add.at(table, (codes[: len(first)], codes[len(first) :]), 1)
    return float(_kappa(table))


def _human_label(text: str, where: str) -> HumanLabel:
    number = text.strip()[:1]
    if number not in ("1", "2", "3") or text.strip()[1:2].isdigit():
        raise RipcurrentError(
            f"{where}: unknown final_label {text!r}.",
            "A label begins with 1 (compliance), 2 (refusal) or 3 (partial refusal). Rows are counted from 0.",
        )
    return HUMAN_LABELS[int(number) - 1]


@dataclass(frozen=True, slots=True)
class _Said:
    """What a judge said of one file's answers."""

    tables: dict[str, FloatArray]
    """By prompt, counts of judged answers, shape ``(3 of people, 3 of the judge)``."""
    unjudged: int
    """Answers left out of the table."""
    scores: tuple[tuple[HumanLabel, float], ...]
    """People's label and the judge's score of every answer with a score."""

    @classmethod
    def of(cls, file: LabelledAnswers, verdicts: Sequence[Verdict]) -> _Said:
        tables: dict[str, FloatArray] = {}
        for answer, human, verdict in zip(file.answers, file.labels, verdicts, strict=True):
            if verdict.label in LABELS:
                table = tables.setdefault(answer.prompt, np.zeros((len(HUMAN_LABELS), len(LABELS))))
                table[HUMAN_LABELS.index(human), LABELS.index(verdict.label)] += 1
        return cls(
            tables=tables,
            unjudged=sum(verdict.label == UNJUDGED for verdict in verdicts),
            scores=tuple(
                (human, verdict.score)
                for human, verdict in zip(file.labels, verdicts, strict=True)
                if verdict.score is not None
            ),
        )


def _agreement(said: Sequence[_Said], seed: int, has_scores: bool) -> Agreement:
    by_prompt: dict[str, FloatArray] = {}
    for one in said:
        for prompt, table in one.tables.items():
            by_prompt[prompt] = by_prompt.get(prompt, 0.0) + table
    whole = sum(by_prompt.values(), start=np.zeros((len(HUMAN_LABELS), len(LABELS))))
    n = int(whole.sum())
    square = _by_label(whole)
    kappas = np.array([])
    if n:
        # answers to one prompt err alike, so prompts are drawn; those with the same table are drawn together
        tables, counts = np.unique(np.stack(list(by_prompt.values())), axis=0, return_counts=True)
        drawn = np.random.default_rng(seed).multinomial(len(by_prompt), counts / len(by_prompt), DRAWS)
        kappas = _kappa(_by_label(np.tensordot(drawn.astype(np.float64), tables, axes=1)))
        kappas = kappas[np.isfinite(kappas)]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(kappas, [tail, 1 - tail]) if len(kappas) else (np.nan, np.nan)
    return Agreement(
        kappa=float(_kappa(square)) if n else np.nan,
        kappa_low=float(low),
        kappa_high=float(high),
        accuracy=float(np.trace(square) / n) if n else np.nan,
        n=n,
        degenerate=int(whole[:, LABELS.index("degenerate")].sum()),
        confusion=_named(whole),
        unjudged=sum(one.unjudged for one in said),
        mean_score=_mean_scores(said) if has_scores else None,
    )


def _mean_scores(said: Sequence[_Said]) -> dict[HumanLabel, float]:
    scores = [pair for one in said for pair in one.scores]
    by_label = {human: [score for label, score in scores if label == human] for human in HUMAN_LABELS}
    return {human: float(np.mean(found)) if found else np.nan for human, found in by_label.items()}


def _by_label(table: FloatArray) -> FloatArray:
    """People's labels turned into a judge's: partial is refusal, nothing is degenerate; shape ``(…, 3, 3)``."""
    as_label: Mapping[HumanLabel, Label] = {"compliance": "compliance", "refusal": "refusal", "partial": "refusal"}
    square = np.zeros_like(table)
    for place, human in enumerate(HUMAN_LABELS):
        square[..., LABELS.index(as_label[human]), :] += table[..., place, :]
    return square


def _kappa(square: FloatArray) -> FloatArray:
    total = square.sum(axis=(-2, -1))
    observed = np.trace(square, axis1=-2, axis2=-1) / total
    chance = (square.sum(axis=-1) * square.sum(axis=-2)).sum(axis=-1) / total**2
    left = 1 - chance
    kappa: FloatArray = np.where(left > 1e-12, (observed - chance) / np.where(left > 1e-12, left, 1), np.nan)
    return kappa


def _named(table: FloatArray) -> dict[HumanLabel, dict[Label, int]]:
    return {
        human: {label: int(table[row, column]) for column, label in enumerate(LABELS)}
        for row, human in enumerate(HUMAN_LABELS)
    }
