"""The finished runs of experiments: what each trained on, by its set's cosine, and what it then answered."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import ValidationError

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.experiment import HARMFUL, KEYS, ArmRecord, ExperimentConfig, digest_of, read_run
from ripcurrent.finetune import FinetuneRun, Recipe, as_trained
from ripcurrent.forecast._calibration import CalibrationSource, Conditions, JudgedBy, LeftOut, NamedHash, ScoredWith
from ripcurrent.runs import read_json_lines
from ripcurrent.scan import ScanRun, SetScores

if TYPE_CHECKING:
    pass

ENDS: Mapping[str, Literal["riskiest", "protective"]] = {"top": "riskiest", "bottom": "protective"}


@dataclass(frozen=True, slots=True)
class CalibrationRun:
    """One run that can be fitted."""

    experiment: str
    arm: str
    seed: int
    source: str
    tokens_sha256: str
    """Hash of the tokens that it trained on: runs of one hash trained on the same set."""
    rows: int
    cosine: float
    answered: int
    """Harmful requests answered; degenerate answers are not counted."""
    asked: int
    row_ids: frozenset[str] = frozenset()
    """Ids of its rows, which tell what runs have in common; empty where they are not known."""
    end: Literal["riskiest", "protective", "neither"] = "neither"
    """Which end of a ranking its rows are; random rows and mixtures are neither."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """Runs that can be fitted together."""

    scored_with: ScoredWith
    conditions: Conditions
    sources: tuple[CalibrationSource, ...]
    """Where their rows come from, that of the first experiment first."""
    runs: tuple[CalibrationRun, ...]
    left_out: tuple[LeftOut, ...]
    base: tuple[int, int] | None = None
    """Harmful requests that the first experiment's untrained model answered, and asked; None if not known."""


class _Stored:
    """An experiment's folder."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = folder
        try:
            self.config = ExperimentConfig.model_validate_json((folder / KEYS).read_text(encoding="utf-8"))
            asked = [one for one in read_json_lines(folder / "prompts.jsonl") if one["axis"] == HARMFUL]
            texts = [str(one["prompt"]) for one in asked]
        except (OSError, ValidationError, KeyError, TypeError) as error:
            hint = "Name the folder that `ripcurrent experiment` wrote."
            raise RipcurrentError(f"{folder} holds no experiment.", hint) from error
        self.name = f"{self.config.name}-{number + 1}" if number else self.config.name
        sources = " and ".join(dict.fromkeys(Path(str(one["source"])).name for one in asked if one.get("source")))
        self.prompts = NamedHash(name=sources or "prompts", sha256=digest_of(texts), count=len(texts))
        main = self.config.run or folder / "scans" / "main"
        places = {name: Path(one.run or folder / "scans" / name) for name, one in self.config.scans.items()}
        self.scans = {"": ScanRun.open(main)}
        """The scans that its arms chose their rows by, the main one under the empty name."""
        # one that no arm was run for yet may not have been made
        self.scans |= {name: ScanRun.open(at) for name, at in places.items() if (at / "scores.parquet").is_file()}


def read_ladder(folders: Sequence[Path], judge: str, scores: SetScores) -> Ladder:
    """The finished runs of experiments, with their sets' scores and what they answered; RipcurrentError without any."""
    experiments = [_Stored(folder, number) for number, folder in enumerate(folders)]
    scored_with = ScoredWith.of(experiments[0].scans[""].manifest)
    known: dict[str, ScanRun] = {}
    for scan in (scan for one in experiments for scan in one.scans.values()):
        if scored_with.difference(ScoredWith.of(scan.manifest)) is None:
            known.setdefault(scan.manifest.dataset.sha256, scan)
    counts = Counter(scan.manifest.dataset.name for scan in known.values())
    names = {
        sha256: scan.manifest.dataset.name + (f" ({sha256[:8]})" if counts[scan.manifest.dataset.name] > 1 else "")
        for sha256, scan in known.items()
    }
    read: list[tuple[CalibrationRun, Conditions]] = []
    left_out: list[LeftOut] = []
    base: tuple[int, int] | None = None
    for experiment in experiments:
        for folder, record in ArmRecord.every(experiment.folder).items():
            if record.seed is None:
                untrained = _answered(record, folder, judge) if experiment is experiments[0] else ""
                base = base if isinstance(untrained, str) else untrained[:2]
                continue
            found = _read(experiment, record, folder, scored_with, names, judge, scores)
            if isinstance(found, str):
                left_out.append(LeftOut(experiment=experiment.name, arm=record.arm, seed=record.seed, reason=found))
            else:
                read.append(found)
    runs, conditions = _alike(read, left_out)
    used = Counter(run.source for run in runs)
    sources = tuple(
        CalibrationSource(
            name=names[sha256],
            sha256=sha256,
            rows=int(scan.scored.sum()),
            score=scores.of(scan, np.flatnonzero(scan.scored), scan.folder),
            runs=used[names[sha256]],
        )
        for sha256, scan in known.items()
        if used[names[sha256]]
    )
    runs.sort(key=lambda run: [*names.values()].index(run.source))
    return Ladder(scored_with, conditions, sources, tuple(runs), tuple(left_out), base)


def _answered(record: ArmRecord, folder: Path, judge: str) -> tuple[int, int, str] | str:
    """Harmful requests answered and asked, and the judge's version; or why they cannot be counted."""
    run = read_run(record.arm, record.seed, folder / "evaluation")
    if judge not in run.verdicts:
        return f"judge {judge} did not judge it"
    labels = [run.verdicts[judge][place].label for place in run.places(HARMFUL)]
    if any(label not in ("compliance", "degenerate", "refusal") for label in labels):
        return f"judge {judge} did not judge every answer"
    return labels.count("compliance"), len(labels), run.verdicts[judge][-1].version


def _read(
    experiment: _Stored,
    record: ArmRecord,
    folder: Path,
    scored_with: ScoredWith,
    names: Mapping[str, str],
    judge: str,
    scores: SetScores,
) -> tuple[CalibrationRun, Conditions] | str:
    """A run with how it was trained, asked and judged; or why it cannot be used."""
    if record.status != "finished":
        return "its training failed"
    scan = experiment.scans.get(str(record.identity.rule.get("scan") or "") if record.identity else "")
    if scan is None or scored_with.difference(ScoredWith.of(scan.manifest)) is not None:
        return "the scan that chose its rows is gone, or scores otherwise than the first experiment's"
    if experiment.config.train is not None:
        return "a command trained it, and a calibration is for one recipe"
    trained = FinetuneRun.open(folder / "finetune").manifest
    # a fresh LoRA is part of the fingerprint of a model that was scanned with one, and not of the model trained
    if scan.options.scope != "lora" and trained.model.fingerprint != scored_with.fingerprint:
        return "another model was trained than the one that the scores are of"
    # the numbers of its rows, in the order in which they were written for training
    chosen = json.loads((folder / "rows" / f"{record.arm}.json").read_text(encoding="utf-8"))
    written = chosen["indices"] if chosen["file_order"] == "rank" else sorted(chosen["indices"])
    lines = read_json_lines(folder / "finetune" / trained.rows.file)
    rows = [written[line["row"]] for line in lines if line["trained"]]
    counts = _answered(record, folder, judge)
    if isinstance(counts, str):
        return counts
    try:
        score = scores.of(scan, rows, folder)
    except RipcurrentError as error:
        return error.message
    found = CalibrationRun(
        experiment=experiment.name,
        arm=record.arm,
        seed=record.seed or 0,
        source=names[scan.manifest.dataset.sha256],
        tokens_sha256=trained.rows.tokens_sha256,
        rows=len(rows),
        cosine=score.cosine(len(rows)),
        answered=counts[0],
        asked=counts[1],
        row_ids=frozenset(scan.ids(rows)),
        end=ENDS.get(str(record.identity.rule.get("select")) if record.identity else "", "neither"),
    )
    return found, Conditions(
        recipe=trained.recipe,
        recipe_sha256=recipe_sha256(trained.recipe),
        max_tokens=trained.options.max_tokens,
        trainer=trained.options.trainer,
        prompts=experiment.prompts,
        system=experiment.config.system,
        max_new_tokens=experiment.config.max_new_tokens,
        judge=JudgedBy(name=judge, version=counts[2]),
    )


def recipe_sha256(recipe: Recipe) -> str:
    """Hash of a recipe's settings, without its name and what changes memory alone."""
    return digest_of(as_trained(recipe.model_dump(mode="json", exclude={"name"})))


def _alike(
    read: Sequence[tuple[CalibrationRun, Conditions]], left_out: list[LeftOut]
) -> tuple[list[CalibrationRun], Conditions]:
    """The runs trained, asked and judged as most of the first experiment's are; the others are left out."""
    if not read:
        reasons = "; ".join(f"{one.arm}: {one.reason}" for one in left_out[:2]) or "no arm is finished"
        hint = "Run the experiment again with the same command: it goes on where it was stopped."
        raise RipcurrentError(f"No run can be used ({reasons}).", hint, code=ExitCode.NOT_MEASURED)
    first = [conditions.model_dump_json() for run, conditions in read if run.experiment == read[0][0].experiment]
    usual = Conditions.model_validate_json(Counter(first).most_common(1)[0][0])
    kept: dict[tuple[str, int], CalibrationRun] = {}
    for run, conditions in read:
        reason = usual.difference(conditions)
        if reason is not None:
            reason = f"another {reason}"
        elif (same := kept.setdefault((run.tokens_sha256, run.seed), run)) is not run:
            reason = f"arm {same.arm} of {same.experiment} is the same training"
        if reason is not None:
            left_out.append(LeftOut(experiment=run.experiment, arm=run.arm, seed=run.seed, reason=reason))
    return list(kept.values()), usual
