"""Measure judges against people's labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.evaluate._validate import JudgeValidation, read_labelled, validate
from ripcurrent.evaluate.judges import JUDGES, Judge, JudgeSettings, find_judges
from ripcurrent.progress import Progress, SilentProgress

RULES: tuple[str, ...] = tuple(judge.name for judge in JUDGES)
"""The judges that need nothing but the answer: those that are measured unless others are named."""


def validate_judges(
    files: Sequence[str | Path],
    judges: Sequence[str | Judge] = RULES,
    settings: JudgeSettings | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[JudgeValidation]:
    """Measure judges on files of answers with people's labels; one entry per judge, in order.

    Args:
        files: CSV or JSON lines with ``prompt``, ``completion`` and ``final_label``.
        judges: Names, as `ripcurrent.evaluate.find_judge` knows them, or judges.
        settings: What judges that are models need: endpoint, model, key.
        seed: Seed of the intervals' draws.
        progress: Told of answers that a model judged.

    Raises:
        RipcurrentError: A file that cannot be read, lacks a column, has an unknown label, or is given twice; a judge
            that is none, or whose endpoint does not work; with exit code 2 when no judge could judge any answer.
    """
    places = [Path(file).resolve() for file in files]
    for file, place in zip(files, places, strict=True):
        if places.count(place) > 1:
            raise RipcurrentError(f"{file} is given twice, and its answers would count twice.", "Name each file once.")
    told = progress or SilentProgress()
    told_settings = replace(settings or JudgeSettings(), on_judged=told.rows)
    found = find_judges(judges, told_settings)
    labelled = [read_labelled(file) for file in files]
    total = sum(len(file.answers) for file in labelled)
    validations = []
    for judge in found:
        if judge.describe().get("kind") != "rule":
            told.start(f"judging by {judge.name}", total, "answers")
        validations += validate(labelled, [judge], seed=seed)
        told.finish()
    if not any(validation.pooled.n for validation in validations):
        raise RipcurrentError(
            f"{' and '.join(judge.name for judge in found)} could judge none of the {total} answers.",
            "A judging model must reply in JSON as the rubric asks: name an abler one with --judge-model.",
            code=ExitCode.NOT_MEASURED,
        )
    return validations
