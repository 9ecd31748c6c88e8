"""Measure judges against people's labels: accuracy, Cohen's κ with its interval, confusion by class."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from operator import eq
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from ripcurrent.data import read_rows
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.evaluate._agree import kappa
from ripcurrent.evaluate.judges import JUDGES, LABELS, Answer, Facts, Judge, JudgeSettings, Label, Verdict, find_judges
from ripcurrent.progress import Progress, SilentProgress

HumanLabel = Literal["compliance", "refusal", "partial"]
HUMAN_LABELS: tuple[HumanLabel, ...] = get_args(HumanLabel)
Labelled = list[tuple[Answer, HumanLabel]]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well one judge agrees with people; what it could not judge is counted in ``unjudged`` and in nothing else."""

    kappa: float
    """Cohen's κ; NaN where people and judge give all answers one and the same label."""
    kappa_low: float
    kappa_high: float
    accuracy: float
    """Share of answers with the people's label. An answer judged degenerate is no agreement."""
    n: int
    degenerate: int
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


def validate_judges(
    files: Sequence[str | Path],
    judges: Sequence[str | Judge] = JUDGES,
    settings: JudgeSettings | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[JudgeValidation]:
    """Measure judges on files of answers with people's labels; one entry per judge, in order.

    ``files`` are CSV or JSON lines with ``prompt``, ``completion`` and ``final_label``; ``seed`` is of the intervals'
    draws.

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


def read_labelled(path: str | Path) -> Labelled:
    """Read answers with people's labels; ``final_label`` begins with the number of one, from 1."""
    columns = ("prompt", "completion", "final_label")
    hint = "A label begins with 1 (compliance), 2 (refusal) or 3 (partial refusal). Rows are counted from 0."
    labelled = []
    for row in read_rows(path, format="prompt-completion", mapping={name: name for name in columns[:2]}):
        where = f"{path}, row {row.index}"
        if missing := [name for name in columns if row.record.get(name) is None]:
            what = f"{where}: no {missing[0]}; it has {', '.join(map(str, row.record))}."
            raise RipcurrentError(what, "Every row needs prompt, completion and final_label. Rows are counted from 0.")
        prompt, completion, label = (str(row.record[name]) for name in columns)
        number = label.strip()[:1]
        if number not in ("1", "2", "3") or label.strip()[1:2].isdigit():
            raise RipcurrentError(f"{where}: unknown final_label {label!r}.", hint)
        labelled.append((Answer(prompt, completion), HUMAN_LABELS[int(number) - 1]))
    return labelled


def validate(files: Mapping[str, Labelled], judge: Judge, *, seed: int = 0) -> JudgeValidation:
    """Measure a judge on each file (one or more, by path) and on all together; ``seed`` is of the bootstrap."""
    said = {file: judge.judge([answer for answer, _ in labelled]) for file, labelled in files.items()}
    scored = judge.scale is not None
    return JudgeValidation(
        judge=judge.name,
        version=judge.version,
        pooled=_agreement(list(chain(*files.values())), list(chain(*said.values())), seed, scored),
        files={file: _agreement(labelled, said[file], seed, scored) for file, labelled in files.items()},
    )


def _agreement(labelled: Labelled, verdicts: Sequence[Verdict], seed: int, scored: bool) -> Agreement:
    """A partial refusal counts as a refusal; an answer judged degenerate is no agreement."""
    both = [(answer.prompt, human, one) for (answer, human), one in zip(labelled, verdicts, strict=True)]
    judged = [(prompt, human, one.label) for prompt, human, one in both if one.label in LABELS]
    labels = [LABELS.index(label) for _, _, label in judged]
    people = [LABELS.index("compliance" if human == "compliance" else "refusal") for _, human, _ in judged]
    value, interval = kappa(people, labels, len(LABELS), [prompt for prompt, _, _ in judged], seed=seed)
    counts = Counter((human, label) for _, human, label in judged)
    scores = {name: [v.score for _, human, v in both if human == name and v.score is not None] for name in HUMAN_LABELS}
    return Agreement(
        kappa=value,
        kappa_low=interval.low,
        kappa_high=interval.high,
        accuracy=sum(map(eq, people, labels)) / len(judged) if judged else np.nan,
        n=len(judged),
        degenerate=sum(label == "degenerate" for _, _, label in judged),
        confusion={human: {label: counts[human, label] for label in LABELS} for human in HUMAN_LABELS},
        unjudged=len(both) - len(judged),
        mean_score={human: float(np.mean(own)) if own else np.nan for human, own in scores.items()} if scored else None,
    )
