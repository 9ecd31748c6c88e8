"""Measure judges against people's labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluation import JUDGES, JudgeValidation, read_labelled, validate


def validate_judges(files: Sequence[str | Path], *, seed: int = 0) -> list[JudgeValidation]:
    """Measure every built-in judge on files of answers with people's labels; one entry per judge, in order of tables.

    Raises:
        RipcurrentError: A file that cannot be read, lacks a column, has an unknown label, or is given twice.
    """
    places = [Path(file).resolve() for file in files]
    for file, place in zip(files, places, strict=True):
        if places.count(place) > 1:
            raise RipcurrentError(f"{file} is given twice, and its answers would count twice.", "Name each file once.")
    return validate([read_labelled(file) for file in files], JUDGES, seed=seed)
