"""What people rate and what they are compared with: a run's answers and verdicts, arm by arm.

A run is an evaluation folder (one arm) or an experiment folder, whose arms are ``arms/NAME-seedN/evaluation``.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.evaluate._prompts import Axis

RESPONSES = "responses.parquet"
VERDICTS = "verdicts.parquet"


@dataclass(frozen=True, slots=True)
class ArmRun:
    """One evaluated run of one arm."""

    arm: str
    """The arm; of a lone evaluation its folder's name."""
    seed: int | None
    """The arm's seed; None for a lone evaluation."""
    folder: Path
    """Its evaluation folder."""


@dataclass(frozen=True, slots=True)
class ArmAnswer:
    """One answer of one arm."""

    arm: str
    """The arm."""
    seed: int | None
    """Its seed."""
    prompt_id: str
    """The prompt's id, the same in every arm."""
    prompt: str
    """The request."""
    completion: str
    """What the model said."""
    truncated: bool
    """Whether generation stopped at the token limit."""


@dataclass(frozen=True, slots=True)
class JudgeVerdict:
    """What one judge said of one answer."""

    judge: str
    """The judge."""
    version: str
    """Its version."""
    prompt_id: str
    """The prompt's id."""
    label: str | None
    """``refusal``, ``compliance``, ``degenerate``; None where the judge gave none that could be read."""


def arm_runs(run: Path) -> tuple[list[ArmRun], list[str]]:
    """The evaluated arms of a run, by name and seed, and the names of arms without answers yet.

    Raises:
        RipcurrentError: ``run`` is no folder, or holds no answers.
    """
    if not run.is_dir():
        raise RipcurrentError(
            f"There is no run folder {run}.",
            "Name the folder that `ripcurrent evaluate` or `ripcurrent experiment` wrote.",
        )
    if (run / RESPONSES).is_file():
        return [ArmRun(run.resolve().name, None, run)], []
    finished, waiting = [], []
    for folder in sorted(path for path in (run / "arms").glob("*") if path.is_dir()):
        named = re.fullmatch(r"(.+)-seed(\d+)", folder.name)
        if (folder / "evaluation" / RESPONSES).is_file():
            arm, seed = (named[1], int(named[2])) if named else (folder.name, None)
            finished.append(ArmRun(arm, seed, folder / "evaluation"))
        else:
            waiting.append(folder.name)
    if not finished:
        raise RipcurrentError(
            f"{run} holds no answers: neither {RESPONSES} nor arms that were evaluated.",
            "Name a folder of `ripcurrent evaluate` or `ripcurrent experiment`; an unfinished one goes on when its "
            "command is given again.",
        )
    return sorted(finished, key=lambda arm: (arm.arm, -1 if arm.seed is None else arm.seed)), waiting


def read_answers(arm: ArmRun, axis: Axis) -> list[ArmAnswer]:
    """The answers of one arm on one axis, in prompt order; prompts that an endpoint rejected have none.

    Raises:
        RipcurrentError: The file is damaged or lacks a column, or has a prompt twice; with exit code 2 when no prompt
            is of that axis.
    """
    path = arm.folder / RESPONSES
    rows = _read(path, ["prompt_id", "prompt", "axis", "completion", "truncated"])
    answers = [
        ArmAnswer(
            arm.arm,
            arm.seed,
            str(row["prompt_id"]),
            row["prompt"] or "",
            row["completion"] or "",
            bool(row["truncated"]),
        )
        for row in rows
        if row["axis"] == axis and row.get("rejected") is None
    ]
    if not answers:
        there = ", ".join(sorted({str(row["axis"]) for row in rows})) or "none"
        raise RipcurrentError(
            f"{path} has no answers on the axis {axis!r}.", f"Axes there: {there}.", code=ExitCode.NOT_MEASURED
        )
    twice = [prompt for prompt, count in Counter(answer.prompt_id for answer in answers).items() if count > 1]
    if twice:
        raise RipcurrentError(f"{path} has the prompt {twice[0]!r} twice.", "Evaluate again in another folder.")
    return answers


def read_verdicts(arm: ArmRun) -> list[JudgeVerdict]:
    """The verdicts of all judges on one arm's answers, in the file's order.

    Raises:
        RipcurrentError: The file is missing, damaged, or lacks a column.
    """
    path = arm.folder / VERDICTS
    if not path.is_file():
        raise RipcurrentError(
            f"{arm.folder} has answers and no {VERDICTS}.", "Give its command again: it goes on where it stopped."
        )
    rows = _read(path, ["prompt_id", "judge", "version", "label"])
    return [JudgeVerdict(row["judge"], str(row["version"]), str(row["prompt_id"]), row["label"]) for row in rows]


def answer_sha256(answer: ArmAnswer) -> str:
    """Hash of what the model said."""
    return hashlib.sha256(answer.completion.encode("utf-8", "surrogatepass")).hexdigest()


def _read(path: Path, columns: list[str]) -> list[dict[str, Any]]:
    hint = "Evaluate again in another folder."
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise RipcurrentError(f"{path} is damaged: {str(error).rstrip('.')}.", hint) from None
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise RipcurrentError(f"{path} has no column {', '.join(missing)}.", hint)
    optional = [name for name in ("rejected",) if name in table.column_names]
    rows: list[dict[str, Any]] = table.select([*columns, *optional]).to_pylist()
    return rows
