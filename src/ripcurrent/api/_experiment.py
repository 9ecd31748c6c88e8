"""Experiment: arms × seeds trained, questioned and judged one after another, in a folder that is resumed."""

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

from ripcurrent.api._experiment_results import as_json, collect_results
from ripcurrent.api._experiment_scans import Pool, open_pools, scanned_options
from ripcurrent.api._finetune import FinetuneResult, finetune
from ripcurrent.api._progress import Progress, SilentProgress
from ripcurrent.data import read_rows
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.experiment import (
    BASE,
    MAIN,
    Arm,
    ExperimentConfig,
    choose_rows,
    expand_arms,
    gather_prompts,
    load_experiment,
    parse_experiment,
    write_prompts,
)
from ripcurrent.experiment._arms import missing_name
from ripcurrent.experiment._config import rows_of
from ripcurrent.experiment._sums import WORTH_MEASURING, Sum, draw_sums, share_solved
from ripcurrent.run import RunDirectory, write_json
from ripcurrent.selection import Selection, plain_numbers, summarise, write_selection
from ripcurrent.selection._draw import generator
from ripcurrent.selection._table import ScoredRows
from ripcurrent.training import load_recipe

if TYPE_CHECKING:
    from ripcurrent.data import Row

MARKER = "arm.json"
"""Written last into an arm's folder: it is never computed again."""
PROMPTS = "prompts.jsonl"
SUMS = "sums.jsonl"
RESULTS = "results.json"


@dataclass(frozen=True, slots=True)
class ExperimentResult:
    """A finished experiment."""

    folder: Path
    """The run folder: ``arms/``, ``results.json``, ``report.html``."""
    results: dict[str, Any]
    """All tables, as in ``results.json``."""

    @property
    def verdict(self) -> str:
        """``worse than random``, ``no evidence`` or ``not enough evidence``."""
        return str(self.results["verdict"])

    @property
    def report_path(self) -> Path:
        """The page."""
        return self.folder / "report.html"

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return as_json(self.results)


@dataclass(frozen=True, slots=True)
class Experiment:
    """An experiment, from a file or from keys and values, to be run."""

    config: ExperimentConfig
    """What it is."""

    @classmethod
    def from_file(cls, path: str | Path) -> Experiment:
        """The experiment of arms in a YAML file.

        Raises:
            RipcurrentError: What is wrong with the file, with the nearest key, arm or selection.
        """
        return cls(load_experiment(path))

    @classmethod
    def from_keys(cls, **keys: Any) -> Experiment:
        """The experiment of arms with these keys, as in a file.

        Raises:
            RipcurrentError: What is wrong with them.
        """
        return cls(parse_experiment({"name": "experiment", **keys}, where="the experiment"))

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of all single arms."""
        return tuple(arm.name for arm in expand_arms(self.config))

    def run(
        self,
        out: str | Path,
        *,
        arms: Sequence[str] | None = None,
        seeds: int | Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> ExperimentResult:
        """Run it, or go on with it: see `run_experiment`."""
        return run_experiment(self.config, out, arms=arms, seeds=seeds, progress=progress)


def run_experiment(
    config: ExperimentConfig,
    out: str | Path,
    *,
    arms: Sequence[str] | None = None,
    seeds: int | Sequence[int] | None = None,
    command: str | None = None,
    progress: Progress | None = None,
) -> ExperimentResult:
    """Train, question and judge every arm with every seed, one after another; tables and a page of what is there.

    An arm that is finished is never computed again: the same call goes on where it was stopped, and the experiment may
    be given more arms or seeds. Results are written after every seed.

    Args:
        config: The experiment.
        out: The run folder.
        arms: Run only these arms now; tables are of all that are finished.
        seeds: Other seeds than the experiment's: so many from 0, or these.
        command: The command line that asks for it, for the page.
        progress: Told of steps and rows.

    Raises:
        RipcurrentError: Anything the user can mend. An arm whose loss diverges is marked as failed, and the rest goes
            on; with exit code 2 when every arm fails.
    """
    if seeds is not None:
        chosen = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
        config = parse_experiment({**config.model_dump(exclude_unset=True), "seeds": chosen}, where="the experiment")
    every = {arm.name: arm for arm in expand_arms(config)}
    wanted = _wanted(every, arms)
    told = progress or SilentProgress()
    recipes = {
        arm.rule.recipe or config.recipe: load_recipe(arm.rule.recipe or config.recipe) for arm in every.values()
    }
    prompts, prompt_records = gather_prompts(config.prompts)
    folder = Path(out)
    identity = _identity(config, prompt_records, load_recipe(config.recipe).model_dump(mode="json"))
    with RunDirectory(folder, identity) as run:
        write_json(folder / "experiment.json", json.loads(config.model_dump_json()))
        if not (folder / PROMPTS).exists():
            write_prompts(folder / PROMPTS, prompts)
        sums = draw_sums(config.gsm8k) if config.gsm8k is not None else ()
        if sums:
            write_prompts(folder / SUMS, [one.prompt for one in sums])
        pools, held = open_pools(config, folder / "scans", told)
        runner = _Runner(config, folder, every, pools, held, sums, told)
        chosen_rows = {(arm.name, seed): runner.rows(arm, seed) for seed in config.seeds for arm in wanted.values()}
        for (name, seed), rows in chosen_rows.items():
            runner.is_finished(wanted[name], seed, rows)
        total = len(chosen_rows) + config.base
        done = 0
        if config.base:
            runner.base(f"base (1 of {total})")
            done = 1
        facts = {
            **_facts(config, pools, prompt_records, held, recipes),
            **({"sums": {**config.gsm8k.model_dump(), "taken": len(sums)}} if config.gsm8k is not None else {}),
            "commands": _commands(folder, command),
        }
        for seed in config.seeds:
            for arm in wanted.values():
                done += 1
                runner.arm(arm, seed, chosen_rows[arm.name, seed], f"{arm.name}, seed {seed} ({done} of {total})")
            results = collect_results(config, list(every.values()), folder, facts)
            write_json(folder / RESULTS, results)
        run.write_manifest({**run.read_manifest(), **facts})
        _page(folder, told)
    if not any(entry["seed"] is not None for entry in results["arms"]):
        reasons = "; ".join(f"{one['name']}: {one['reason']}" for one in results["failed"][:2])
        raise RipcurrentError(
            f"Every arm failed ({reasons}).",
            f"See {folder / 'arms'}; remove an arm's folder there to repeat it.",
            code=ExitCode.NOT_MEASURED,
        )
    return ExperimentResult(folder, results)


@dataclass(frozen=True, slots=True)
class _Rows:
    """What an arm trains on."""

    selection: Selection | None
    """Rows of a scanned dataset."""
    indices: tuple[int, ...]
    """Row numbers, of the scanned dataset or of another file."""
    sha256: str
    """Hash of dataset and row numbers: equal hashes train on equal rows."""


class _Runner:
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
        scanned = scanned_options(pools[MAIN])
        self._tokens: dict[str, Any] = {
            "max_tokens": scanned.max_tokens,
            "loss_on": scanned.loss_on,
            **{key: value for key, value in config.finetune.items() if key in ("max_tokens", "loss_on")},
        }

    def rows(self, arm: Arm, seed: int) -> _Rows:
        """The rows of an arm with a seed."""
        if arm.rule.file is not None:
            return self._rows_of_file(arm, seed)
        scans = {name: pool.scores for name, pool in self._pools.items()}
        selection = choose_rows(arm, seed, scans, self._arms)
        content = [scans[arm.rule.scan or MAIN].dataset_sha256, *selection.file_indices]
        return _Rows(selection, selection.file_indices, _hash(content))

    def is_finished(self, arm: Arm, seed: int, rows: _Rows) -> bool:
        """Whether the arm needs no work.

        Raises:
            RipcurrentError: Its folder holds an arm of that name of other rows or another recipe.
        """
        folder = self._place(arm, seed)
        if not (folder / MARKER).exists():
            return False
        stored, now = read_marker(folder)["identity"], self._identity(arm, rows)
        for key, what in (("rows_sha256", "rows"), ("recipe", "recipe")):
            if stored[key] != now[key]:
                raise RipcurrentError(
                    f"{folder} holds arm {arm.name} with another {what} than now."
                    if what == "recipe"
                    else f"{folder} holds arm {arm.name} with other rows than now.",
                    "Name another folder with --out, or remove that arm's folder to make it anew.",
                )
        return True

    def _place(self, arm: Arm, seed: int) -> Path:
        return self._folder / "arms" / f"{arm.name}-seed{seed}"

    def _identity(self, arm: Arm, rows: _Rows) -> dict[str, Any]:
        return {
            "rule": arm.rule.model_dump(mode="json", exclude_defaults=True),
            "rows_sha256": rows.sha256,
            "recipe": load_recipe(arm.rule.recipe or self._config.recipe).model_dump(mode="json"),
        }

    def base(self, label: str) -> None:
        """Evaluate the model as it is, unless that is done."""
        folder = self._folder / "arms" / BASE
        if (folder / MARKER).exists():
            return
        began = time.perf_counter()
        self._evaluate(folder, label, None)
        facts = {"heldout_loss": self._heldout_loss(label, None), "accuracy": self._accuracy(folder, label, None)}
        self._mark(folder, BASE, None, {**facts, "seconds": round(time.perf_counter() - began, 1)})

    def arm(self, arm: Arm, seed: int, rows: _Rows, label: str) -> None:
        """Train and evaluate an arm, unless that is done; a loss that diverges marks it as failed."""
        folder = self._place(arm, seed)
        if self.is_finished(arm, seed, rows):
            self._remove_model(folder)
            return
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
        training = trained.manifest["training"]
        trained_at = time.perf_counter()
        self._evaluate(folder, label, trained)
        loss = self._heldout_loss(label, trained)
        facts |= {
            "heldout_loss": loss,
            "accuracy": self._accuracy(folder, label, trained),
            "training": {key: training[key] for key in ("steps", "first_loss", "last_loss", "seconds")},
            "notes": [*facts["rows"]["notes"], *trained.notes],
            "training_seconds": round(trained_at - began, 1),
            "seconds": round(time.perf_counter() - began, 1),
        }
        self._mark(folder, arm.name, seed, facts)
        self._remove_model(folder)
        gc.collect()

    def _rows_of_file(self, arm: Arm, seed: int) -> _Rows:
        dataset = read_rows(str(arm.rule.file), format=arm.rule.format)
        count, sha256 = dataset.count_and_hash()
        draw_seed = seed if arm.rule.draw_seed is None else arm.rule.draw_seed
        drawn = generator(draw_seed, "file").permutation(count)[: rows_of(arm.size or count, count)]
        indices = tuple(sorted(drawn.tolist()))
        return _Rows(None, indices, _hash([sha256, *indices]))

    def _train(self, folder: Path, arm: Arm, seed: int, rows: _Rows, label: str) -> FinetuneResult:
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
            **self._config.finetune,
        }
        recipe = arm.rule.recipe or self._config.recipe
        return finetune(path, folder / "finetune", recipe, progress=self._told, **options)

    def _write_rows(self, folder: Path, arm: Arm, rows: _Rows) -> tuple[Path, str | None, dict[str, str] | None]:
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
            target, pool.dataset, table, rows.selection, summarise(table, rows.selection), provenance
        )
        return record.path, pool.dataset.format, dict(pool.manifest["dataset"].get("mapping") or {}) or None

    def _describe_rows(self, arm: Arm, rows: _Rows) -> dict[str, Any]:
        """What an arm trains on: how many rows, how long, their mean scores and formats."""
        facts: dict[str, Any] = {"count": len(rows.indices), "asked": arm.size, "notes": []}
        if rows.selection is None:
            return {**facts, "rule": f"{len(rows.indices)} rows at random of {Path(str(arm.rule.file)).name}"}
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

    def _evaluate(self, folder: Path, label: str, trained: FinetuneResult | None) -> None:
        from ripcurrent.api._evaluate import evaluate

        self._told.step(f"{label}: asking")
        model, adapter = self._model(trained)
        evaluate(
            model,
            adapter=adapter,
            prompts=(str(self._folder / PROMPTS),),
            out=folder / "evaluation",
            judges=self._config.judges,
            max_new_tokens=self._config.max_new_tokens,
            batch_size=self._config.batch_size,
            system=self._config.system,
            device=self._config.device,
            dtype=self._config.dtype,
            progress=self._told,
        )

    def _heldout_loss(self, label: str, trained: FinetuneResult | None) -> float | None:
        if not self._held:
            return None
        from ripcurrent.experiment._heldout import heldout_loss
        from ripcurrent.models import load_model

        self._told.step(f"{label}: loss on held-out rows")
        model, adapter = self._model(trained)
        chat_model = load_model(model, adapter=adapter, device=self._config.device, dtype=self._config.dtype)
        return heldout_loss(chat_model, self._held_rows(), **self._tokens)

    def _accuracy(self, folder: Path, label: str, trained: FinetuneResult | None) -> float | None:
        """Share of the sums solved; None where none are asked, or the untrained model solves too few to lose any."""
        asked = self._config.gsm8k
        if asked is None:
            return None
        base = self._folder / "arms" / BASE
        if trained is not None and (base / MARKER).exists():
            solved = read_marker(base)["accuracy"]
            if solved is None or solved < WORTH_MEASURING:
                return None
        from ripcurrent.api._evaluate import evaluate
        from ripcurrent.evaluation._responses import read_responses

        self._told.step(f"{label}: sums")
        model, adapter = self._model(trained)
        evaluate(
            model,
            adapter=adapter,
            prompts=(str(self._folder / SUMS),),
            out=folder / "sums",
            judges=("prefix",),
            max_new_tokens=asked.max_new_tokens,
            batch_size=self._config.batch_size,
            system=self._config.system,
            device=self._config.device,
            dtype=self._config.dtype,
            progress=self._told,
        )
        answers = {one.prompt_id: one.completion for one in read_responses(folder / "sums")[1]}
        return share_solved(self._sums, answers)

    def _held_rows(self) -> list[Row]:
        wanted = set(self._held)
        return [row for row in self._pools[MAIN].dataset if row.index in wanted]

    def _model(self, trained: FinetuneResult | None) -> tuple[str, str | None]:
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


def _wanted(every: Mapping[str, Arm], named: Sequence[str] | None) -> dict[str, Arm]:
    """The arms to run now: all, those named, and all of a group that is named."""
    if named is None:
        return dict(every)
    groups = {arm.group for arm in every.values() if arm.group is not None}
    for name in named:
        if name not in every and name not in groups:
            raise missing_name("There is no arm", name, [*every, *groups], "Arms")
    return {name: arm for name, arm in every.items() if name in named or arm.group in named}


def _identity(
    config: ExperimentConfig, prompt_records: Sequence[Mapping[str, Any]], recipe: Mapping[str, Any]
) -> dict[str, Any]:
    """What may not change in a folder: all but arms, seeds and what is shown."""
    kept = (
        "data",
        "format",
        "model",
        "adapter",
        "device",
        "dtype",
        "run",
        "scan",
        "finetune",
        "judges",
        "max_new_tokens",
        "system",
        "heldout",
    )
    values = json.loads(config.model_dump_json())
    prompts = [[record["sha256"], record["taken"], record["seed"]] for record in prompt_records]
    return {
        "command": "experiment",
        **{key: values[key] for key in kept},
        # only where it is asked for: folders of before the key are gone on with
        **({"gsm8k": values["gsm8k"]} if config.gsm8k is not None else {}),
        "recipe": dict(recipe),
        "prompts_sha256": _hash(prompts),
    }


def _facts(
    config: ExperimentConfig,
    pools: Mapping[str, Pool],
    prompt_records: Sequence[Mapping[str, Any]],
    held: Sequence[int],
    recipes: Mapping[str, Any],
) -> dict[str, Any]:
    """What the results rest on, for manifest and page."""
    from importlib.metadata import version

    main = pools[MAIN]
    return {
        "version": version("ripcurrent"),
        "command": "experiment",
        "dataset": main.manifest["dataset"],
        "usable_rows": main.scores.usable,
        "heldout_rows": len(held),
        "scanned_with": {name or "main": pool.manifest["model"]["name"] for name, pool in pools.items()},
        "default_ranking": ScoredRows(main.scores.table).default_ranking,
        "recipes": {name: recipe.model_dump(mode="json") for name, recipe in recipes.items()},
        "prompts": list(prompt_records),
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "numpy", "scipy")},
    }


def _commands(folder: Path, now: str | None) -> list[str]:
    """The command lines that made a folder, in order, each once."""
    try:
        earlier = json.loads((folder / RESULTS).read_text(encoding="utf-8")).get("commands", [])
    except (OSError, ValueError):
        earlier = []
    return list(dict.fromkeys([*map(str, earlier), *([now] if now else [])]))


def _page(folder: Path, told: Progress) -> None:
    from ripcurrent.report._experiment_page import build_experiment_page

    told.step("writing the page")
    build_experiment_page(folder)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
