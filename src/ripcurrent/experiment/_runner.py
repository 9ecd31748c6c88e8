"""One arm of an experiment: rows written, the model trained on them, asked and judged, in a folder of its own."""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ripcurrent.errors import ExitCode, NothingToJudgeError, RipcurrentError
from ripcurrent.evaluate import find_judges, judge_again, lacks_verdicts, task_scores
from ripcurrent.experiment._command import TRAINED, Trained, describe_command, train_by_command
from ripcurrent.experiment._config import ExperimentConfig
from ripcurrent.experiment._file import BASE, MAIN, Arm
from ripcurrent.experiment._results import MARKER, ArmIdentity, ArmRecord, ArmRows, Facts
from ripcurrent.experiment._rows import Pool, choose_rows
from ripcurrent.experiment._tables import Scoring
from ripcurrent.finetune import FinetuneOptions, as_trained, finetune, heldout_loss, load_recipe
from ripcurrent.progress import Progress
from ripcurrent.runs import MANIFEST, read_manifest
from ripcurrent.select import Selection, summarise, write_selection

PROMPTS = "prompts.jsonl"
JUDGING = ("judges", "judge_endpoint", "judge_model")
"""Keys of an experiment that may change in its folder: answers that are there are judged again."""


@dataclass(frozen=True, slots=True)
class ArmRunner:
    """Runs single arms in an experiment's folder."""

    config: ExperimentConfig
    folder: Path
    arms: Mapping[str, Arm]
    pools: Mapping[str, Pool]
    held: Sequence[int]
    """Rows of the main pool that no arm trains on."""
    progress: Progress

    def rows(self, arm: Arm, seed: int) -> Selection:
        """The rows of an arm with a seed."""
        return choose_rows(arm, seed, {name: pool.run for name, pool in self.pools.items()}, self.arms)

    def refuse_other_runs(self, chosen: Mapping[tuple[str, int], Selection]) -> None:
        """Refuse a folder with a finished run of other rows or another recipe, also of arms not asked for now."""
        for place, record in ArmRecord.every(self.folder).items():
            arm, seed, stored = self.arms.get(record.arm), record.seed, record.identity
            if arm is None or seed is None or stored is None:
                continue
            rows = chosen.get((arm.name, seed))
            # the rows of a scan that is not opened now are unknown
            if rows is None and arm.scan in self.pools:
                rows = self.rows(arm, seed)
            same = as_trained(stored.recipe) == as_trained(self._recipe(arm))
            if not same or (rows is not None and stored.rows_sha256 != self._hash(arm, rows)):
                other = "other rows" if same else "another command" if self.config.train else "another recipe"
                raise RipcurrentError(
                    f"{place} holds arm {arm.name} with {other} than now.",
                    "Name another folder with --out, or remove that arm's folder to repeat it.",
                )

    def place(self, name: str, seed: int | None) -> Path:
        """The folder of a run; without a seed, that of the untrained model."""
        return self.folder / "arms" / (name if seed is None else f"{name}-seed{seed}")

    def run(self, name: str, seed: int | None, label: str) -> None:
        """Train and evaluate an arm, or evaluate the model as it is, unless that is done.

        A loss that diverges marks an arm as failed; so does a command that fails, once it has trained another one.
        """
        folder = self.place(name, seed)
        if not (folder / MARKER).exists():
            # what an arm before it left behind
            gc.collect()
            made = self._base(label, folder) if seed is None else self._made(self.arms[name], seed, label, folder)
            made.write(folder / MARKER)
        if not self.config.keep_models:
            for kind in ("model", "adapter", "out"):
                shutil.rmtree(folder / "finetune" / kind, ignore_errors=True)

    def _base(self, label: str, folder: Path) -> ArmRecord:
        untrained = Trained(self.config.model, self.config.adapter)
        self._ask(folder, label, untrained)
        self._require_weights(folder)
        return self._measured(ArmRecord(arm=BASE, seed=None), label, untrained)

    def _made(self, arm: Arm, seed: int, label: str, folder: Path) -> ArmRecord:
        rows = self.rows(arm, seed)
        run, at = self.pools[arm.scan].run, list(rows.indices)
        rule = arm.rule.model_dump(mode="json", exclude_defaults=True) | ({"scan": arm.scan} if arm.scan else {})
        trained_on = ArmRows(
            rule=rows.rule,
            count=len(at),
            mean_response_tokens=float(run.floats("response_tokens")[at].mean()),
            mean_scores={name: float(run.floats(name)[at].mean()) for name in run.ranking_columns},
        )
        identity = ArmIdentity(rule=rule, recipe=self._recipe(arm), rows_sha256=self._hash(arm, rows))
        record = ArmRecord(arm=arm.name, seed=seed, identity=identity, rows=trained_on)
        try:
            trained = self._trained(folder, arm, seed, rows, label)
            self._require_weights(folder)
            self._ask(folder, label, trained)
        except RipcurrentError as error:
            # a loss that diverged, or this arm's answers alone: the others' may be whole
            alone = error.code == ExitCode.NOT_MEASURED or isinstance(error, NothingToJudgeError)
            # a command that has trained no arm yet is likely to fail in all
            first = self.config.train is not None and not any(self.folder.glob(f"arms/*/finetune/{TRAINED}"))
            if first or not alone:
                raise RipcurrentError(f"Arm {arm.name}: {error.message}", error.hint, code=error.code) from error
            shutil.rmtree(folder / "finetune" / "checkpoints", ignore_errors=True)
            return record.model_copy(update={"status": "failed", "reason": error.message})
        noted = record.model_copy(update={"notes": (*rows.notes, *trained.notes)})
        return self._measured(noted, label, trained)

    def _trained(self, folder: Path, arm: Arm, seed: int, rows: Selection, label: str) -> Trained:
        run, dataset = self.pools[arm.scan]
        hint = f"The arm was stopped before its rule changed: remove {folder} to repeat it."
        written = write_selection(folder / "rows", dataset, run, rows, summarise(run, rows), own_folder=True, hint=hint)
        self.progress.step(f"{label}: training")
        if self.config.train is not None:
            return train_by_command(self.config, self.config.train, written.path, seed, folder)
        # rows are cut, and bear loss, as they were scored
        scanned = self.pools[MAIN].run.options
        options = FinetuneOptions(
            **{key: getattr(self.config, key) for key in ("model", "adapter", "device", "dtype")},
            **{key: getattr(scanned, key) for key in ("max_tokens", "trainer")},
            format=dataset.format,
            mapping=run.manifest.dataset.mapping,
            spec=run.manifest.dataset.spec,
            seed=seed,
        )
        made = finetune(written.path, folder / "finetune", arm.recipe, options, progress=self.progress)
        return Trained.of(self.config.model, made.kind, made.result, made.manifest.notes)

    def _ask(self, folder: Path, label: str, trained: Trained) -> None:
        """Ask the trained model, or the one as it is, the experiment's prompts."""
        from ripcurrent.evaluate import evaluate

        self.progress.step(f"{label}: asking")
        keys = ("judges", "max_new_tokens", "batch_size", "system", "device", "dtype")
        evaluate(
            trained.model,
            adapter=trained.adapter,
            prompts=(str(self.folder / PROMPTS),),
            out=folder / "evaluation",
            judge_settings=self.config.judge_settings(self.config.device),
            progress=self.progress,
            **{key: getattr(self.config, key) for key in keys},
        )

    def _measured(self, record: ArmRecord, label: str, trained: Trained) -> ArmRecord:
        """The record with the loss on held-out rows and the scores on tasks, where the experiment has these."""
        tasks, found = self.config.tasks, dict[str, object]()
        if not self.held and tasks is None:
            return record
        from ripcurrent.models import load_model

        self.progress.step(f"{label}: loss on held-out rows{' and tasks' if tasks else ''}")
        how = {key: getattr(self.config, key) for key in ("device", "dtype")}
        chat_model = load_model(trained.model, adapter=trained.adapter, **how)
        if self.held:
            run, dataset = self.pools[MAIN]
            rows, options = list(dataset.at(self.held)), run.options
            loss = heldout_loss(chat_model, rows, max_tokens=options.max_tokens, trained=options.trained)
            found["heldout_loss"] = loss
        if tasks is not None:
            found["tasks"] = task_scores(chat_model, tasks.names, tasks.limit, self.config.batch_size)
        return record.model_copy(update=found)

    def _recipe(self, arm: Arm) -> Facts:
        """How an arm is trained: its recipe's keys, or the command."""
        if self.config.train is not None:
            return describe_command(self.config.train)
        return dict(as_trained(load_recipe(arm.recipe).model_dump(mode="json")))

    def _hash(self, arm: Arm, rows: Selection) -> str:
        """Hash of dataset and row numbers: equal hashes train on equal rows."""
        return digest_of([self.pools[arm.scan].run.manifest.dataset.sha256, *rows.file_indices])

    def _require_weights(self, arm_folder: Path) -> None:
        """Refuse a model that had other weights under the same name when rows were scored, or another arm was made."""
        name, own = self.config.model, _weights(arm_folder)
        for pool in self.pools.values():
            scanned, options = pool.run.manifest.model, pool.run.options
            same = (scanned.name, options.adapter) == (name, self.config.adapter)
            # a fresh or unmerged LoRA is part of the fingerprint of a model that was scanned with one
            if same and options.scope != "lora" and own not in (None, scanned.fingerprint):
                message = f"The model {name} has changed since {pool.run.folder} was made with it."
                raise RipcurrentError(message, "Scan again into a new folder, and give the experiment a new one, too.")
        for other in ArmRecord.every(self.folder):
            if own is not None and _weights(other) not in (None, own):
                shutil.rmtree(arm_folder / "finetune", ignore_errors=True)
                hint = "Name another folder with --out, so that arms of two models are not compared as one's."
                raise RipcurrentError(f"The model {name} has changed since {other.name} was made from it.", hint)


def judges_of(config: ExperimentConfig) -> tuple[tuple[str, ...], Scoring]:
    """The names that an experiment's judges give to their verdicts, in order; and how those with scores are read."""
    try:
        judges = find_judges(config.judges, config.judge_settings(config.device))
    except RipcurrentError as error:
        own = "Give judge_endpoint, judge_model and, where the key is elsewhere, judge_key_env in the file."
        hint = own if "--judge" in error.hint else error.hint
        raise RipcurrentError(f"judges: {error.message}", hint, code=error.code) from error
    # a rubric's score is of harm, and what has little of it need not be a refusal
    scoring = {
        one.name: (one.scale[1], one.describe().get("reply") != "score") for one in judges if one.scale is not None
    }
    return tuple(one.name for one in judges), scoring


def judge_alike(folder: Path, config: ExperimentConfig, progress: Progress) -> None:
    """Judge answers of finished runs that lack the verdicts of a judge, or have another version's of it.

    So are answers that a judge's endpoint failed on. Answers are kept and models are not: nothing is trained or asked
    again.
    """
    judges = find_judges(config.judges, replace(config.judge_settings(config.device), on_judged=progress.rows))
    for arm_folder in ArmRecord.every(folder):
        place = arm_folder / "evaluation"
        # without one, its training failed
        lacking = [judge for judge in judges if lacks_verdicts(place, judge)] if place.is_dir() else []
        if lacking:
            progress.step(f"{arm_folder.name}: judging by {', '.join(judge.name for judge in lacking)}")
            judge_again(place, lacking, progress)


def _weights(arm_folder: Path) -> str | None:
    """Fingerprint of the model that an arm was trained from, or that was asked as it is; None before that."""
    made = arm_folder / ("evaluation" if arm_folder.name == BASE else "finetune")
    return read_manifest(made)["model"].get("fingerprint") if (made / MANIFEST).is_file() else None


def digest_of(value: object) -> str:
    """SHA-256 in hex of a value as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
