"""One arm of an experiment: rows written, the model trained on them, asked and judged, in a folder of its own."""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from pydantic import JsonValue

from ripcurrent.data import LossOn, Row
from ripcurrent.errors import ExitCode, NothingToJudgeError, RipcurrentError
from ripcurrent.experiment._arms import BASE, MAIN, Arm
from ripcurrent.experiment._config import ExperimentConfig
from ripcurrent.experiment._judging import judge_settings
from ripcurrent.experiment._results import MARKER, ArmIdentity, ArmRecord, ArmRows
from ripcurrent.experiment._rows import choose_rows
from ripcurrent.experiment._scans import Pool
from ripcurrent.finetune import FinetuneOptions, FinetuneRun, as_trained, finetune, load_recipe
from ripcurrent.progress import Progress
from ripcurrent.runs import MANIFEST, read_manifest
from ripcurrent.select import Selection, summarise, write_selection

PROMPTS = "prompts.jsonl"


class TokenLimits(TypedDict):
    """How rows are cut."""

    max_tokens: int
    loss_on: LossOn


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

    def rows(self, arm: Arm, seed: int) -> Selection:
        """The rows of an arm with a seed."""
        return choose_rows(arm, seed, {name: pool.run for name, pool in self._pools.items()}, self._arms)

    def _hash(self, arm: Arm, rows: Selection) -> str:
        """Hash of dataset and row numbers: equal hashes train on equal rows."""
        return digest_of([self._pools[arm.scan].run.manifest.dataset.sha256, *rows.file_indices])

    def is_finished(self, arm: Arm, seed: int, rows: Selection | None) -> bool:
        """Whether the arm needs no work; rows that are not given are not compared."""
        folder = self._place(arm, seed)
        if not (folder / MARKER).exists():
            return False
        stored = ArmRecord.read(folder).identity
        other = None
        if stored is not None and as_trained(stored.recipe) != _recipe(arm):
            other = "another recipe"
        elif stored is not None and rows is not None and stored.rows_sha256 != self._hash(arm, rows):
            other = "other rows"
        if other:
            raise RipcurrentError(
                f"{folder} holds arm {arm.name} with {other} than now.",
                "Name another folder with --out, or remove that arm's folder to repeat it.",
            )
        return True

    def finished(self) -> list[tuple[str, int]]:
        """Arms and seeds that have finished or failed, also in earlier calls."""
        records = [ArmRecord.read(path.parent) for path in sorted((self._folder / "arms").glob(f"*/{MARKER}"))]
        return [(one.arm, one.seed) for one in records if one.arm in self._arms and one.seed is not None]

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

    def arm(self, arm: Arm, seed: int, rows: Selection, label: str) -> None:
        """Train and evaluate an arm, unless that is done; a loss that diverges marks it as failed."""
        folder = self._place(arm, seed)
        if not self.is_finished(arm, seed, rows):
            self._made(arm, seed, rows, label, folder).write(folder / MARKER)
        if not self._config.keep_models:
            for kind in ("model", "adapter"):
                shutil.rmtree(folder / "finetune" / kind, ignore_errors=True)

    def _made(self, arm: Arm, seed: int, rows: Selection, label: str, folder: Path) -> ArmRecord:
        # what an arm before it left behind
        gc.collect()
        began = time.perf_counter()
        rule = arm.rule.model_dump(mode="json", exclude_defaults=True) | ({"scan": arm.scan} if arm.scan else {})
        identity = ArmIdentity(rule=rule, recipe=_recipe(arm), rows_sha256=self._hash(arm, rows))
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

    def _trained(self, folder: Path, arm: Arm, seed: int, rows: Selection, label: str) -> FinetuneRun:
        run, dataset = self._pools[arm.scan].run, self._pools[arm.scan].dataset
        hint = f"The arm was stopped before its rule changed: remove {folder} to repeat it."
        summary = summarise(run, rows)
        written = write_selection(folder / "rows", dataset, run, rows, summary, own_folder=True, hint=hint)
        self._progress.step(f"{label}: training")
        options = FinetuneOptions(
            model=self._config.model,
            adapter=self._config.adapter,
            device=self._config.device,
            dtype=self._config.dtype,
            format=dataset.format,
            mapping=run.manifest.dataset.mapping,
            seed=seed,
            **self._tokens,
        )
        return finetune(written.path, folder / "finetune", arm.recipe, options, progress=self._progress)

    def _described(self, arm: Arm, rows: Selection) -> ArmRows:
        """What an arm trains on: how many rows, how long, their mean scores."""
        run, at = self._pools[arm.scan].run, list(rows.indices)
        return ArmRows(
            rule=rows.rule,
            count=len(at),
            asked=arm.size,
            notes=rows.notes,
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
        """Refuse a model that had other weights under the same name when rows were scored, or another arm was made."""
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
    return dict(as_trained(load_recipe(arm.recipe).model_dump(mode="json")))


def digest_of(value: object) -> str:
    """SHA-256 in hex of a value as JSON."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
