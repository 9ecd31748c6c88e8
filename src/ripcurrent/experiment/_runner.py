"""One arm of an experiment: rows written, the model trained on them, asked and judged, in a folder of its own."""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from pydantic import JsonValue

from ripcurrent.data import LossOn, Row, read_rows
from ripcurrent.errors import ExitCode, NothingToJudgeError, RipcurrentError
from ripcurrent.experiment._arms import BASE, MAIN, Arm
from ripcurrent.experiment._config import ExperimentConfig
from ripcurrent.experiment._judging import judge_settings
from ripcurrent.experiment._results import MARKER, ArmIdentity, ArmRecord, ArmRows
from ripcurrent.experiment._rows import choose_rows, content_of
from ripcurrent.experiment._scans import Pool
from ripcurrent.finetune import FinetuneRun, as_trained, finetune, load_recipe
from ripcurrent.progress import Progress
from ripcurrent.runs import MANIFEST, read_manifest
from ripcurrent.select import Selection, generator, number_of_rows, summarise, write_selection

PROMPTS = "prompts.jsonl"


class TokenLimits(TypedDict):
    """How rows are cut."""

    max_tokens: int
    loss_on: LossOn


@dataclass(frozen=True, slots=True)
class ChosenRows:
    """What an arm is to be trained on."""

    selection: Selection | None
    """Rows of a scanned dataset; None of rows of another file."""
    indices: tuple[int, ...]
    sha256: str
    """Hash of dataset and row numbers: equal hashes train on equal rows."""


class ArmRunner:
    """Runs single arms in an experiment's folder."""

    def __init__(
        self,
        config: ExperimentConfig,
        folder: Path,
        arms: Mapping[str, Arm],
        pools: Mapping[str, Pool],
        held: Sequence[int],
        progress: Progress,
    ) -> None:
        self._config, self._folder, self._arms, self._pools = config, folder, arms, pools
        self._progress = progress
        self._held: list[Row] = list(pools[MAIN].dataset.at(held))
        scanned = pools[MAIN].run.options
        self._tokens = TokenLimits(
            max_tokens=config.finetune.max_tokens or scanned.max_tokens,
            loss_on=config.finetune.loss_on or scanned.loss_on,
        )

    def rows(self, arm: Arm, seed: int) -> ChosenRows:
        """The rows of an arm with a seed."""
        if arm.rule.file is None:
            scans = {name: pool.run for name, pool in self._pools.items()}
            selection = choose_rows(arm, seed, scans, self._arms)
            sha256 = digest_of([scans[arm.scan].manifest.dataset.sha256, *selection.file_indices])
            return ChosenRows(selection, selection.file_indices, sha256)
        dataset = read_rows(arm.rule.file)
        count, sha256 = dataset.count_and_hash()
        held = {content_of(row) for row in self._held}
        left_out = {row.index for row in dataset if content_of(row) in held} if held else set()
        order = [place for place in generator(seed, "file").permutation(count).tolist() if place not in left_out]
        indices = tuple(sorted(order[: number_of_rows(arm.size or count, count)]))
        return ChosenRows(None, indices, digest_of([sha256, *indices]))

    def is_finished(self, arm: Arm, seed: int, rows: ChosenRows | None) -> bool:
        """Whether the arm needs no work; rows that are not given are not compared.

        Raises:
            RipcurrentError: Its folder holds an arm of that name of other rows, or trained by another recipe.
        """
        folder = self._place(arm, seed)
        if not (folder / MARKER).exists():
            return False
        stored = ArmRecord.read(folder).identity
        other = None
        if stored is not None and as_trained(stored.recipe) != _recipe(arm):
            other = "another recipe"
        elif stored is not None and rows is not None and stored.rows_sha256 != rows.sha256:
            other = "other rows"
        if other:
            raise RipcurrentError(
                f"{folder} holds arm {arm.name} with {other} than now.",
                "Name another folder with --out, or remove that arm's folder to repeat it.",
            )
        return True

    def _place(self, arm: Arm, seed: int) -> Path:
        return self._folder / "arms" / f"{arm.name}-seed{seed}"

    def base(self, label: str) -> None:
        """Evaluate the model as it is, unless that is done."""
        folder = self._folder / "arms" / BASE
        if (folder / MARKER).exists():
            return
        began = time.perf_counter()
        self._ask(folder, label, None)
        self._require_weights(folder)
        loss = self._heldout_loss(label, None)
        record = ArmRecord(arm=BASE, seed=None, heldout_loss=loss, seconds=round(time.perf_counter() - began, 1))
        record.write(folder / MARKER)

    def arm(self, arm: Arm, seed: int, rows: ChosenRows, label: str) -> None:
        """Train and evaluate an arm, unless that is done; a loss that diverges marks it as failed."""
        folder = self._place(arm, seed)
        if not self.is_finished(arm, seed, rows):
            self._made(arm, seed, rows, label, folder).write(folder / MARKER)
        if not self._config.keep_models:
            for kind in ("model", "adapter"):
                shutil.rmtree(folder / "finetune" / kind, ignore_errors=True)

    def _made(self, arm: Arm, seed: int, rows: ChosenRows, label: str, folder: Path) -> ArmRecord:
        # what an arm before it left behind
        gc.collect()
        began = time.perf_counter()
        rule = arm.rule.model_dump(mode="json", exclude_defaults=True) | ({"scan": arm.scan} if arm.scan else {})
        identity = ArmIdentity(rule=rule, recipe=_recipe(arm), rows_sha256=rows.sha256)
        record = ArmRecord(arm=arm.name, seed=seed, identity=identity, rows=self._described(arm, rows))
        try:
            trained = self._trained(folder, arm, seed, rows, label)
            self._require_weights(folder)
            self._ask(folder, label, trained)
        except RipcurrentError as error:
            # a loss that diverged, or this arm's answers alone: the others' may be whole
            if error.code != ExitCode.NOT_MEASURED and not isinstance(error, NothingToJudgeError):
                raise RipcurrentError(f"Arm {arm.name}: {error.message}", error.hint, code=error.code) from error
            shutil.rmtree(folder / "finetune" / "checkpoints", ignore_errors=True)
            return record.model_copy(update={"status": "failed", "reason": error.message})
        training = trained.manifest.training
        more = {
            "heldout_loss": self._heldout_loss(label, trained),
            "training": training.model_dump(include={"steps", "first_loss", "last_loss", "seconds"}),
            "notes": (*(record.rows.notes if record.rows else ()), *trained.manifest.notes),
            "seconds": round(time.perf_counter() - began, 1),
        }
        return record.model_copy(update=more)

    def _trained(self, folder: Path, arm: Arm, seed: int, rows: ChosenRows, label: str) -> FinetuneRun:
        mapping = None
        if rows.selection is None:
            dataset = read_rows(str(arm.rule.file))
            path = folder / "rows" / f"rows{dataset.suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.rmtree(path)
            dataset.write(rows.indices, path)
        else:
            pool = self._pools[arm.scan]
            dataset, mapping = pool.dataset, pool.run.manifest.dataset.mapping
            path = write_selection(
                folder / "rows",
                dataset,
                pool.run,
                rows.selection,
                summarise(pool.run, rows.selection),
                own_folder=True,
                hint=f"The arm was stopped before its rule changed: remove {folder} to repeat it.",
            ).path
        self._progress.step(f"{label}: training")
        return finetune(
            path,
            folder / "finetune",
            arm.recipe,
            progress=self._progress,
            model=self._config.model,
            adapter=self._config.adapter,
            device=self._config.device,
            dtype=self._config.dtype,
            format=dataset.format,
            mapping=mapping,
            seed=seed,
            **self._tokens,
        )

    def _described(self, arm: Arm, rows: ChosenRows) -> ArmRows:
        """What an arm trains on: how many rows, how long, their mean scores."""
        count, chosen = len(rows.indices), rows.selection
        if chosen is None:
            notes = (f"only {count} rows there, {arm.size} wanted",) if str(arm.size) > str(count) else ()
            rule = f"{count} rows at random of {Path(str(arm.rule.file)).name}"
            return ArmRows(rule=rule, count=count, asked=arm.size, notes=notes)
        run, at = self._pools[arm.scan].run, list(chosen.indices)
        return ArmRows(
            rule=chosen.rule,
            count=count,
            asked=arm.size,
            notes=chosen.notes,
            mean_response_tokens=float(run.floats("response_tokens")[at].mean()),
            mean_scores={name: float(run.floats(name)[at].mean()) for name in run.ranking_columns},
        )

    def _ask(self, folder: Path, label: str, trained: FinetuneRun | None) -> None:
        """Ask the trained model, or the one as it is, the experiment's prompts."""
        from ripcurrent.evaluate import evaluate

        self._progress.step(f"{label}: asking")
        model, adapter = self._model(trained)
        evaluate(
            model,
            adapter=adapter,
            prompts=(str(self._folder / PROMPTS),),
            out=folder / "evaluation",
            judges=self._config.judges,
            judge_settings=judge_settings(self._config),
            max_new_tokens=self._config.max_new_tokens,
            batch_size=self._config.batch_size,
            system=self._config.system,
            device=self._config.device,
            dtype=self._config.dtype,
            progress=self._progress,
        )

    def _heldout_loss(self, label: str, trained: FinetuneRun | None) -> float | None:
        if not self._held:
            return None
        from ripcurrent.experiment._heldout import heldout_loss
        from ripcurrent.models import load_model

        self._progress.step(f"{label}: loss on held-out rows")
        model, adapter = self._model(trained)
        chat_model = load_model(model, adapter=adapter, device=self._config.device, dtype=self._config.dtype)
        return heldout_loss(chat_model, self._held, **self._tokens)

    def _model(self, trained: FinetuneRun | None) -> tuple[str, str | None]:
        """What to load: name and adapter."""
        if trained is None:
            return self._config.model, self._config.adapter
        return (self._config.model, str(trained.result)) if trained.kind == "adapter" else (str(trained.result), None)

    def _require_weights(self, arm_folder: Path) -> None:
        """Refuse a model that had other weights under the same name when rows were scored, or another arm was made.

        Raises:
            RipcurrentError: It had; the arm's training is removed.
        """
        name, own = self._config.model, _weights(arm_folder)
        for pool in self._pools.values():
            scanned, options = pool.run.manifest.model, pool.run.options
            same = (scanned.name, options.adapter) == (name, self._config.adapter)
            # a fresh or unmerged LoRA is part of the fingerprint of a model that was scanned with one
            if same and options.scope != "lora" and own not in (None, scanned.fingerprint):
                raise RipcurrentError(
                    f"The model {name} has changed since {pool.run.folder} was made with it: rows would be chosen "
                    "by scores of other weights.",
                    "Scan again into a new folder, and give the experiment a new one, too.",
                )
        for other in (marker.parent for marker in sorted((self._folder / "arms").glob(f"*/{MARKER}"))):
            if own is not None and _weights(other) not in (None, own):
                shutil.rmtree(arm_folder / "finetune", ignore_errors=True)
                raise RipcurrentError(
                    f"The model {name} has changed since {other.name} was made from it.",
                    "Name another folder with --out, so that arms of two models are not compared as one's.",
                )


def _weights(arm_folder: Path) -> str | None:
    """Fingerprint of the model that an arm was trained from, or that was asked as it is; None before that."""
    made = arm_folder / ("evaluation" if arm_folder.name == BASE else "finetune")
    return read_manifest(made)["model"].get("fingerprint") if (made / MANIFEST).is_file() else None


def _recipe(arm: Arm) -> dict[str, JsonValue]:
    return as_trained(load_recipe(arm.recipe).model_dump(mode="json"))


def digest_of(value: object) -> str:
    """SHA-256 in hex of a value as JSON."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
