"""The finished runs of experiments: what each trained on, by its set's cosine, and what it then answered."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.experiment import HARMFUL, KEYS, ArmRecord, ExperimentConfig, read_run
from ripcurrent.finetune import FinetuneRun, Recipe, as_trained
from ripcurrent.forecast._calibration import (
    SUMMED,
    CalibrationSource,
    Conditions,
    JudgedBy,
    LeftOut,
    NamedHash,
)
from ripcurrent.forecast._coherence import SetScores
from ripcurrent.forecast._scored_with import ScoredWith
from ripcurrent.runs import read_json_lines
from ripcurrent.scan import ScanRun

SAME_SCORE = 1e-6
"""Rows of one id are the same row where their scores differ by less."""


@dataclass(frozen=True, slots=True)
class CalibrationRun:
    """One run that can be fitted."""

    experiment: str
    arm: str
    seed: int
    source: str
    """Name of the dataset of its rows."""
    tokens_sha256: str
    """Hash of the tokens that it trained on: runs of one hash trained on the same set."""
    rows: int
    steps: int
    cosine: float
    """Its set's own cosine."""
    answered: int
    """Harmful requests answered; degenerate answers are not counted."""
    asked: int
    row_ids: frozenset[str] = frozenset()
    """Ids of its rows, which tell what runs have in common; empty where they are not known."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """Runs that can be fitted together."""

    scored_with: ScoredWith
    """What their scores rest on."""
    conditions: Conditions
    sources: tuple[CalibrationSource, ...]
    """Where their rows come from, that of the first experiment first."""
    runs: tuple[CalibrationRun, ...]
    left_out: tuple[LeftOut, ...]
    """Runs that cannot be used, and why."""


class _Source:
    """A finished scan whose rows runs may have trained on."""

    def __init__(self, folder: Path) -> None:
        self.run = ScanRun.open(folder)
        self.scored_with = ScoredWith.of(self.run.manifest)
        self.name, self.sha256 = self.run.manifest.dataset.name, self.run.manifest.dataset.sha256

    @cached_property
    def _rows_of_id(self) -> Mapping[str, list[int]]:
        found: dict[str, list[int]] = {}
        for row, own in enumerate(self.run.strings("id")):
            found.setdefault(own, []).append(row)
        return found

    def rows_of(self, ids: Sequence[str]) -> list[int] | None:
        """Row numbers by id; None where an id is unknown or belongs to rows of different scores."""
        scores, found = self.run.floats(SUMMED), []
        for own in ids:
            rows = self._rows_of_id.get(own, [])
            if not rows or float(np.ptp(scores[rows])) > SAME_SCORE:
                return None
            found.append(rows[0])
        return found


class _Stored:
    """An experiment's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.config = ExperimentConfig.model_validate_json((folder / KEYS).read_text(encoding="utf-8"))
            asked = [one for one in read_json_lines(folder / "prompts.jsonl") if one["axis"] == HARMFUL]
            self.harmful = {str(one["id"]): str(one["prompt"]) for one in asked}
        except (OSError, ValidationError, KeyError, TypeError) as error:
            raise RipcurrentError(
                f"{folder} holds no experiment.", "Name the folder that `ripcurrent experiment` wrote."
            ) from error
        if not self.harmful:
            raise RipcurrentError(
                f"The arms of {folder} were asked nothing harmful.", "Give prompts with the axis harmful."
            )
        sources = " and ".join(dict.fromkeys(Path(str(one["source"])).name for one in asked if one.get("source")))
        texts = list(self.harmful.values())
        self.prompts = NamedHash(name=sources or "prompts", sha256=harmful_sha256(texts), count=len(texts))

    def scans(self) -> dict[str, Path]:
        """The scans that its arms chose their rows by, the main one first, under the empty name."""
        main = Path(self.config.run) if self.config.run else self.folder / "scans" / "main"
        further = self.config.scans.items()
        every = {"": main, **{name: Path(one.run or self.folder / "scans" / name) for name, one in further}}
        # one that no arm was run for yet may not have been made
        return {name: folder for name, folder in every.items() if not name or (folder / "scores.parquet").is_file()}

    def dataset_of(self, record: ArmRecord) -> str | None:
        """Hash of the dataset that an arm's rows come from; None where its scan is gone."""
        rule = record.identity.rule if record.identity is not None else {}
        folder = self.scans().get(str(rule.get("scan") or ""))
        return None if folder is None else ScanRun.open(folder).manifest.dataset.sha256

    def arms(self) -> Iterator[tuple[ArmRecord, Path]]:
        """The records of trained arms with their folders."""
        for path in sorted((self.folder / "arms").glob("*/arm.json")):
            record = ArmRecord.read(path.parent)
            if record.seed is not None:
                yield record, path.parent


def read_ladder(folders: Sequence[Path], scans: Sequence[Path], judge: str, scores: SetScores) -> Ladder:
    """The finished runs of experiments, with their sets' scores and what they answered of the requests that all share.

    Args:
        folders: Folders of experiments.
        scans: Further finished scans, for arms whose rows came from a file.
        judge: Whose verdicts count.
        scores: Scores sets of rows.

    Raises:
        RipcurrentError: A folder holds no experiment, experiments do not belong together (the first difference is
            named), or no run can be used.
    """
    experiments = [_Stored(folder) for folder in folders]
    known = _sources(experiments, scans)
    main, *_ = known
    asked = _with_fewest_requests(experiments)
    read: list[tuple[CalibrationRun, Conditions]] = []
    left_out: list[LeftOut] = []
    for number, experiment in enumerate(experiments):
        name = f"{experiment.config.name}-{number + 1}" if number else experiment.config.name
        for record, folder in experiment.arms():
            found = _read(name, experiment, record, folder, known, judge, asked, scores)
            if isinstance(found, str):
                left_out.append(LeftOut(experiment=name, arm=record.arm, seed=record.seed or 0, reason=found))
            else:
                read.append(found)
    runs, conditions = _alike(read, left_out)
    used = Counter(run.source for run in runs)
    sources = tuple(
        CalibrationSource(
            name=one.name,
            sha256=one.sha256,
            rows=int(one.run.scored.sum()),
            score=scores.of(one.run, np.flatnonzero(one.run.scored), one.run.folder),
            runs=used[one.name],
        )
        for one in known
        if used[one.name]
    )
    order = {one.name: place for place, one in enumerate(sources)}
    ordered = tuple(sorted(runs, key=lambda run: order[run.source]))
    return Ladder(main.scored_with, conditions, sources, ordered, tuple(left_out))


def recipe_sha256(recipe: Recipe) -> str:
    """A recipe's hash; neither its name counts nor what changes memory alone."""
    kept = {key: value for key, value in as_trained(recipe.model_dump(mode="json")).items() if key != "name"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def harmful_sha256(prompts: Sequence[str]) -> str:
    """Hash of harmful requests, by which a calibration knows its own."""
    return hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest()


def _sources(experiments: Sequence[_Stored], scans: Sequence[Path]) -> list[_Source]:
    """The scans, each dataset once, the first experiment's first; those that score otherwise are left out."""
    known: dict[str, _Source] = {}
    for folder in (*(folder for one in experiments for folder in one.scans().values()), *scans):
        one = _Source(folder)
        first = next(iter(known.values()), one)
        if first.scored_with.difference(one.scored_with) is None:
            known.setdefault(one.sha256, one)
    counts = Counter(one.name for one in known.values())
    for one in known.values():
        if counts[one.name] > 1:
            one.name = f"{one.name} ({one.sha256[:8]})"
    return list(known.values())


def _with_fewest_requests(experiments: Sequence[_Stored]) -> _Stored:
    """The experiment whose harmful requests all were asked.

    Raises:
        RipcurrentError: Another was not asked all of these.
    """
    fewest = min(experiments, key=lambda one: len(one.harmful))
    for other in experiments:
        if not Counter(fewest.harmful.values()) <= Counter(other.harmful.values()):
            raise RipcurrentError(
                f"{other.folder} cannot be fitted with {fewest.folder}: their harmful requests differ.",
                "Join experiments that ask the same requests, or these and more.",
            )
    return fewest


def _read(
    name: str,
    experiment: _Stored,
    record: ArmRecord,
    folder: Path,
    known: Sequence[_Source],
    judge: str,
    asked: _Stored,
    scores: SetScores,
) -> tuple[CalibrationRun, Conditions] | str:
    """A run with how it was trained, asked and judged; or why it cannot be used."""
    if record.status != "finished":
        return "its training failed"
    trained = FinetuneRun.open(folder / "finetune").manifest
    first = known[0]
    # a fresh LoRA is part of the fingerprint of a model that was scanned with one, and not of the model trained
    if first.run.options.scope != "lora" and trained.model.fingerprint != first.scored_with.fingerprint:
        return "another model was trained than the one that the scores are of"
    lines = read_json_lines(folder / "finetune" / trained.rows.file)
    ids = [str(line["id"]) for line in lines if line["trained"]]
    sha256 = experiment.dataset_of(record)
    source = next((one for one in known if one.sha256 == sha256), None)
    if source is None:
        return "there is no comparable scan of its rows' dataset: give one with --scan"
    if (rows := source.rows_of(ids)) is None:
        return f"its rows cannot be told apart in the scan of {source.name}"
    run = read_run(record.arm, record.seed, folder / "evaluation")
    if judge not in run.labels:
        return f"judge {judge} did not judge it"
    texts = [experiment.harmful[run.prompt_ids[place]] for place in run.places(HARMFUL)]
    verdicts = [run.labels[judge][place] for place in run.places(HARMFUL)]
    labels = list(_of_common(verdicts, texts, Counter(asked.harmful.values())))
    if any(label not in ("compliance", "degenerate", "refusal") for label in labels):
        return f"judge {judge} did not judge every answer"
    try:
        score = scores.of(source.run, rows, folder)
    except RipcurrentError as error:
        return error.message
    found = CalibrationRun(
        experiment=name,
        arm=record.arm,
        seed=record.seed or 0,
        source=source.name,
        tokens_sha256=trained.rows.tokens_sha256,
        rows=trained.rows.trained,
        steps=trained.training.steps,
        cosine=score.cosine(trained.rows.trained),
        answered=labels.count("compliance"),
        asked=len(labels),
        row_ids=frozenset(ids),
    )
    return found, Conditions(
        recipe=trained.recipe,
        recipe_sha256=recipe_sha256(trained.recipe),
        max_tokens=trained.options.max_tokens,
        loss_on=trained.options.loss_on,
        prompts=asked.prompts,
        system=experiment.config.system,
        max_new_tokens=experiment.config.max_new_tokens,
        judge=JudgedBy(name=judge, version=run.versions[judge]),
    )


def _of_common(labels: Sequence[str], texts: Sequence[str], left: Counter[str]) -> Iterator[str]:
    """The verdicts on the requests that all were asked, each as often as where the fewest were."""
    for label, text in zip(labels, texts, strict=True):
        if left[text] > 0:
            left[text] -= 1
            yield label


def _alike(
    read: Sequence[tuple[CalibrationRun, Conditions]], left_out: list[LeftOut]
) -> tuple[list[CalibrationRun], Conditions]:
    """The runs trained, asked and judged as most of the first experiment's are; the others are left out.

    Raises:
        RipcurrentError: No run can be used.
    """
    if not read:
        reasons = "; ".join(f"{one.arm}: {one.reason}" for one in left_out[:2]) or "no arm is finished"
        raise RipcurrentError(
            f"No run can be used ({reasons}).",
            "Run the experiment again with the same command: it goes on where it was stopped.",
            code=ExitCode.NOT_MEASURED,
        )
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
