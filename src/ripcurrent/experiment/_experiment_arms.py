"""One arm of an experiment: rows written, the model trained on them, questioned and judged, in a folder of its own."""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ripcurrent.data import read_rows
from ripcurrent.errors import ExitCode, NothingToJudgeError, RipcurrentError
from ripcurrent.experiment import BASE, MAIN, Arm, ExperimentConfig, choose_rows
from ripcurrent.experiment._config import rows_of
from ripcurrent.experiment._experiment_options import judge_settings
from ripcurrent.experiment._experiment_scans import Pool, scanned_options
from ripcurrent.experiment._experiment_weights import require_same_weights, require_scanned_weights, weights_asked
from ripcurrent.experiment._rows import content_of
from ripcurrent.experiment._sums import WORTH_MEASURING, Sum, share_solved
from ripcurrent.finetune import FinetuneRun, as_trained, finetune, load_recipe
from ripcurrent.progress import Progress
from ripcurrent.runs import write_json
from ripcurrent.select_old import Selection, plain_numbers, summarise, write_selection
from ripcurrent.select_old._draw import generator
from ripcurrent.select_old._table import ScoredRows

if TYPE_CHECKING:
    from ripcurrent.data import Row

MARKER = "arm.json"
"""Written last into an arm's folder: it is never computed again."""
PROMPTS = "prompts.jsonl"
SUMS = "sums.jsonl"


@dataclass(frozen=True, slots=True)
class ArmRows:
    """What an arm trains on."""

    selection: Selection | None
    """Rows of a scanned dataset."""
    indices: tuple[int, ...]
    """Row numbers, of the scanned dataset or of another file."""
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
        sums: Sequence[Sum],
        told: Progress,
    ) -> None:
        self._config = config
        self._folder = folder
        self._arms = arms
        self._pools = pools
        self._held = held
        self._sums = sums
        self._told = told
        self._held_contents = {content_of(row) for row in self._held_rows()}
        scanned = scanned_options(pools[MAIN])
        self._tokens: dict[str, Any] = {
            "max_tokens": scanned.max_tokens,
            "loss_on": scanned.loss_on,
            **{key: value for key, value in config.finetune.items() if key in ("max_tokens", "loss_on")},
        }

    def rows(self, arm: Arm, seed: int) -> ArmRows:
        """The rows of an arm with a seed."""
        if arm.rule.file is not None:
            return self._rows_of_file(arm, seed)
        scans = {name: pool.scores for name, pool in self._pools.items()}
        selection = choose_rows(arm, seed, scans, self._arms)
        content = [scans[arm.rule.scan or MAIN].dataset_sha256, *selection.file_indices]
        return ArmRows(selection, selection.file_indices, digest_of(content))

    def is_finished(self, arm: Arm, seed: int, rows: ArmRows) -> bool:
        """Whether the arm needs no work.

        Raises:
            RipcurrentError: Its folder holds an arm of that name of other rows, another recipe or another seed.
        """
        folder = self._place(arm, seed)
        if not (folder / MARKER).exists():
            return False
        stored, now = _comparable(read_marker(folder)["identity"]), self._identity(arm, rows)
        for key, what in (("rows_sha256", "rows"), ("recipe", "recipe")):
            if stored[key] != now[key]:
                raise RipcurrentError(
                    f"{folder} holds arm {arm.name} with another {what} than now."
                    if what == "recipe"
                    else f"{folder} holds arm {arm.name} with other rows than now.",
                    "Name another folder with --out, or remove that arm's folder to make it anew.",
                )
        if _training_seed(stored["rule"], seed) != _training_seed(now["rule"], seed):
            raise RipcurrentError(
                f"{folder} holds arm {arm.name} trained with another seed than now.",
                "Name another folder with --out, or remove that arm's folder to make it anew.",
            )
        return True

    def require_same_rule(self, arm: Arm, seed: int) -> None:
        """Refuse a finished run that is not asked for now and was made by another rule, size or recipe than the arm's.

        Its results would be put together with those of the present rule, under one name.

        Raises:
            RipcurrentError: It was.
        """
        folder = self._place(arm, seed)
        marker = read_marker(folder)
        stored, now = _comparable(marker["identity"]), self._made_by(arm)
        # a recipe's settings count, and not how its file is called
        rules = [{key: value for key, value in one["rule"].items() if key != "recipe"} for one in (stored, now)]
        asked = marker["rows"].get("asked", arm.size)
        if rules[0] != rules[1] or asked != arm.size or stored["recipe"] != now["recipe"]:
            raise RipcurrentError(
                f"{folder} holds arm {arm.name} by another rule, size or recipe than the experiment's now.",
                "Name another folder with --out, or remove that arm's folders to make it anew.",
            )

    def _place(self, arm: Arm, seed: int) -> Path:
        return self._folder / "arms" / f"{arm.name}-seed{seed}"

    def _identity(self, arm: Arm, rows: ArmRows) -> dict[str, Any]:
        return {**self._made_by(arm), "rows_sha256": rows.sha256}

    def _made_by(self, arm: Arm) -> dict[str, Any]:
        """What an arm's identity has that its file says; the rows take its scan."""
        return {
            "rule": arm.rule.model_dump(mode="json", exclude_defaults=True),
            "recipe": as_trained(load_recipe(arm.rule.recipe or self._config.recipe).model_dump(mode="json")),
        }

    def base(self, label: str) -> None:
        """Evaluate the model as it is, unless that is done."""
        folder = self._folder / "arms" / BASE
        if (folder / MARKER).exists():
            return
        began = time.perf_counter()
        self._evaluate(folder, label, None)
        require_scanned_weights(self._config, self._pools.values(), weights_asked(self._folder))
        facts = {"heldout_loss": self._heldout_loss(label, None), "accuracy": self._accuracy(folder, label, None)}
        self._mark(folder, BASE, None, {**facts, "seconds": round(time.perf_counter() - began, 1)})

    def arm(self, arm: Arm, seed: int, rows: ArmRows, label: str) -> None:
        """Train and evaluate an arm, unless that is done; a loss that diverges marks it as failed."""
        folder = self._place(arm, seed)
        if self.is_finished(arm, seed, rows):
            self._remove_model(folder)
            return
        # what an arm that failed left behind
        gc.collect()
        began = time.perf_counter()
        facts: dict[str, Any] = {"identity": self._identity(arm, rows), "rows": self._describe_rows(arm, rows)}
        try:
            trained = self._train(folder, arm, seed, rows, label)
        except RipcurrentError as error:
            if error.code != ExitCode.NOT_MEASURED:
                raise RipcurrentError(f"Arm {arm.name}: {error.message}", error.hint, code=error.code) from error
            shutil.rmtree(folder / "finetune" / "checkpoints", ignore_errors=True)
            self._mark(folder, arm.name, seed, {**facts, "status": "failed", "reason": error.message})
            return
        gc.collect()
        weights = trained.manifest.model.fingerprint
        require_scanned_weights(self._config, self._pools.values(), weights)
        require_same_weights(self._config, self._folder, folder, weights)
        training = trained.manifest.training.model_dump()
        trained_at = time.perf_counter()
        try:
            self._evaluate(folder, label, trained)
        except NothingToJudgeError as error:
            # this arm's answers alone: the others' may be whole
            self._mark(folder, arm.name, seed, {**facts, "status": "failed", "reason": error.message})
            self._remove_model(folder)
            return
        loss = self._heldout_loss(label, trained)
        facts |= {
            "heldout_loss": loss,
            "accuracy": self._accuracy(folder, label, trained),
            "training": {key: training[key] for key in ("steps", "first_loss", "last_loss", "seconds")},
            "notes": [*facts["rows"]["notes"], *trained.manifest.notes],
            "training_seconds": round(trained_at - began, 1),
            "seconds": round(time.perf_counter() - began, 1),
        }
        self._mark(folder, arm.name, seed, facts)
        self._remove_model(folder)
        gc.collect()

    def _rows_of_file(self, arm: Arm, seed: int) -> ArmRows:
        dataset = read_rows(str(arm.rule.file), format=arm.rule.format)
        count, sha256 = dataset.count_and_hash()
        draw_seed = seed if arm.rule.draw_seed is None else arm.rule.draw_seed
        order = generator(draw_seed, "file").permutation(count).tolist()
        if self._held_contents:
            held = {row.index for row in dataset if content_of(row) in self._held_contents}
            order = [place for place in order if place not in held]
        indices = tuple(sorted(order[: rows_of(arm.size or count, count)]))
        return ArmRows(None, indices, digest_of([sha256, *indices]))

    def _train(self, folder: Path, arm: Arm, seed: int, rows: ArmRows, label: str) -> FinetuneRun:
        path, row_format, mapping = self._write_rows(folder, arm, rows)
        self._told.step(f"{label}: training")
        options = {
            "model": self._config.model,
            "adapter": self._config.adapter,
            "device": self._config.device,
            "dtype": self._config.dtype,
            "format": row_format,
            "mapping": mapping,
            "seed": seed if arm.rule.training_seed is None else arm.rule.training_seed,
            **self._tokens,
        }
        recipe = arm.rule.recipe or self._config.recipe
        return finetune(path, folder / "finetune", recipe, progress=self._told, **options)

    def _write_rows(self, folder: Path, arm: Arm, rows: ArmRows) -> tuple[Path, str | None, dict[str, str] | None]:
        """The arm's rows as a file, with its format and mapping."""
        target = folder / "rows"
        if rows.selection is None:
            dataset = read_rows(str(arm.rule.file), format=arm.rule.format)
            target.mkdir(parents=True, exist_ok=True)
            path = target / f"rows{dataset.suffix}"
            if path.is_dir():
                shutil.rmtree(path)
            dataset.write(rows.indices, path)
            return path, dataset.format, None
        pool = self._pools[arm.rule.scan or MAIN]
        table = pool.scores.table
        provenance = {"scan": str(pool.scores.folder), "dataset": pool.manifest["dataset"]}
        record = write_selection(
            target,
            pool.dataset,
            table,
            rows.selection,
            summarise(table, rows.selection),
            provenance,
            own_folder=True,
            hint=f"The arm was stopped before its rule changed: remove {folder} to make it anew.",
        )
        return record.path, pool.dataset.format, dict(pool.manifest["dataset"].get("mapping") or {}) or None

    def _describe_rows(self, arm: Arm, rows: ArmRows) -> dict[str, Any]:
        """What an arm trains on: how many rows, how long, their mean scores and formats."""
        facts: dict[str, Any] = {"count": len(rows.indices), "asked": arm.size, "notes": []}
        if rows.selection is None:
            count, name = len(rows.indices), Path(str(arm.rule.file)).name
            short = max(0, arm.size - count) if isinstance(arm.size, int) else 0
            notes = [f"only {count} rows there, {arm.size} wanted"] if short else []
            return {**facts, "rule": f"{count} rows at random of {name}", "notes": notes, "shortfall": short}
        chosen = rows.selection
        table = self._pools[arm.rule.scan or MAIN].scores.table
        scored = ScoredRows(table)
        at = scored.positions(chosen.indices)
        summary = summarise(table, chosen)
        means = {name: float(scored.numbers(name)[at].mean()) for name in scored.ranking_columns}
        found: dict[str, Any] = plain_numbers(
            {
                **facts,
                "rule": chosen.rule,
                "column": chosen.column,
                "notes": list(chosen.notes),
                "shortfall": chosen.shortfall,
                "mean_response_tokens": summary.length.mean,
                "mean_scores": means,
                "format_shares": summary.format_shares,
                "distances": [asdict(distance) for distance in chosen.distances],
            }
        )
        return found

    def _evaluate(self, folder: Path, label: str, trained: FinetuneRun | None) -> None:
        self._told.step(f"{label}: asking")
        self._ask(folder / "evaluation", PROMPTS, self._config.judges, self._config.max_new_tokens, trained)

    def _ask(
        self, out: Path, prompts: str, judges: Sequence[str], max_new_tokens: int, trained: FinetuneRun | None
    ) -> None:
        """Ask the trained model, or the one as it is, what a file of the experiment's folder holds."""
        from ripcurrent.evaluate import evaluate

        model, adapter = self._model(trained)
        evaluate(
            model,
            adapter=adapter,
            prompts=(str(self._folder / prompts),),
            out=out,
            judges=judges,
            judge_settings=judge_settings(self._config),
            max_new_tokens=max_new_tokens,
            batch_size=self._config.batch_size,
            system=self._config.system,
            device=self._config.device,
            dtype=self._config.dtype,
            progress=self._told,
        )

    def _heldout_loss(self, label: str, trained: FinetuneRun | None) -> float | None:
        if not self._held:
            return None
        from ripcurrent.experiment._heldout import heldout_loss
        from ripcurrent.models import load_model

        self._told.step(f"{label}: loss on held-out rows")
        model, adapter = self._model(trained)
        chat_model = load_model(model, adapter=adapter, device=self._config.device, dtype=self._config.dtype)
        return heldout_loss(chat_model, self._held_rows(), **self._tokens)

    def _accuracy(self, folder: Path, label: str, trained: FinetuneRun | None) -> float | None:
        """Share of the sums solved; None where none are asked, or the untrained model solves too few to lose any."""
        asked = self._config.gsm8k
        if asked is None:
            return None
        base = self._folder / "arms" / BASE
        if trained is not None and (base / MARKER).exists():
            solved = read_marker(base)["accuracy"]
            if solved is None or solved < WORTH_MEASURING:
                return None
        from ripcurrent.evaluate import read_responses

        self._told.step(f"{label}: sums")
        self._ask(folder / "sums", SUMS, ("prefix",), asked.max_new_tokens, trained)
        answers = {one.prompt_id: one.completion for one in read_responses(folder / "sums")[1]}
        return share_solved(self._sums, answers)

    def _held_rows(self) -> list[Row]:
        return list(self._pools[MAIN].dataset.at(self._held))

    def _model(self, trained: FinetuneRun | None) -> tuple[str, str | None]:
        """What to load: name and adapter."""
        if trained is None:
            return self._config.model, self._config.adapter
        if trained.kind == "adapter":
            return self._config.model, str(trained.result)
        return str(trained.result), None

    def _mark(self, folder: Path, name: str, seed: int | None, facts: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(
            folder / MARKER, {"arm": name, "seed": seed, "status": "finished", **dict(plain_numbers(dict(facts)))}
        )

    def _remove_model(self, folder: Path) -> None:
        if not self._config.keep_models:
            for kind in ("model", "adapter"):
                shutil.rmtree(folder / "finetune" / kind, ignore_errors=True)


def _training_seed(rule: Mapping[str, Any], seed: int) -> int:
    return int(rule.get("training_seed", seed))


def read_marker(folder: Path) -> dict[str, Any]:
    """An arm's completion marker.

    Raises:
        RipcurrentError: It is damaged.
    """
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        return dict(marker)
    except (OSError, ValueError, TypeError) as error:
        raise RipcurrentError(f"{folder / MARKER} is damaged.", "Remove that arm's folder to make it anew.") from error


def digest_of(value: Any) -> str:
    """SHA-256 in hex of a value as JSON."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _comparable(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {**identity, "recipe": as_trained(identity["recipe"])}
