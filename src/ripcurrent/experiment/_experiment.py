"""Experiment: arms × seeds trained, questioned and judged one after another, in a folder that is resumed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ripcurrent.errors import ExitCode, MissingExtraError, RipcurrentError
from ripcurrent.evaluate import Prompt
from ripcurrent.experiment import (
    MAIN,
    Arm,
    ExperimentConfig,
    expand_arms,
    gather_prompts,
    load_experiment,
    parse_experiment,
    write_prompts,
)
from ripcurrent.experiment._arms import missing_name, scans_of
from ripcurrent.experiment._experiment_arms import PROMPTS, SUMS, ArmRunner, digest_of
from ripcurrent.experiment._experiment_checks import check_arms, refuse_equal_rows
from ripcurrent.experiment._experiment_judges import JUDGING, judge_alike
from ripcurrent.experiment._experiment_options import check_finetune, check_training, judge_scoring, without_secrets_of
from ripcurrent.experiment._experiment_results import as_json, collect_results, seeds_there
from ripcurrent.experiment._experiment_scans import Pool, check_scans, open_pools, with_model_of_run
from ripcurrent.experiment._prompts import asks_the_same
from ripcurrent.experiment._sums import draw_sums
from ripcurrent.finetune import as_trained, load_recipe
from ripcurrent.progress import Progress, SilentProgress
from ripcurrent.runs import RunFolder, write_json
from ripcurrent.select_old._table import ScoredRows

RESULTS = "results.json"
KEYS = "experiment.json"
NO_RESULTS = (KEYS, PROMPTS, SUMS, "scans/*-anchors.jsonl")
"""What an experiment writes before anything is computed."""
PLACES = ("data", "run")
"""Where rows and scores lie may change: a scan made here has its dataset's hash, an arm that of its rows."""


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
    where: str = "the experiment",
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
        where: What errors call the source of its keys, such as its file.
        progress: Told of steps and rows.

    Raises:
        RipcurrentError: Anything the user can mend. An arm whose loss diverges is marked as failed, and the rest goes
            on; with exit code 2 when every arm fails.
    """
    if find_spec("trl") is None:
        raise MissingExtraError("trl", "train")
    if seeds is not None:
        chosen = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
        config = parse_experiment({**config.model_dump(exclude_unset=True), "seeds": chosen}, where=where)
    every = {arm.name: arm for arm in expand_arms(config)}
    wanted = _wanted(every, arms)
    told = progress or SilentProgress()
    recipes = {
        arm.rule.recipe or config.recipe: load_recipe(arm.rule.recipe or config.recipe) for arm in every.values()
    }
    check_scans(config, where)
    check_finetune(config)
    check_training(config, recipes.values())
    check_arms(config, wanted.values())
    scoring = judge_scoring(config)
    config = with_model_of_run(config)
    prompts, prompt_records = gather_prompts(config.prompts)
    folder = Path(out)
    shown = without_secrets_of(config)
    identity = _identity(shown, prompt_records, as_trained(load_recipe(config.recipe).model_dump(mode="json")))
    with RunFolder(folder, identity, no_results=NO_RESULTS, may_change=(*JUDGING, *PLACES)) as run:
        _keep_prompts(folder / PROMPTS, prompts, "evaluation")
        sums = draw_sums(config.gsm8k) if config.gsm8k is not None else ()
        if sums:
            _keep_prompts(folder / SUMS, [one.prompt for one in sums], "sums")
        pools, held = open_pools(config, folder / "scans", told, _scans_of(wanted.values(), every))
        runner = ArmRunner(config, folder, every, pools, held, sums, told)
        chosen_rows = {(arm.name, seed): runner.rows(arm, seed) for seed in config.seeds for arm in wanted.values()}
        refuse_equal_rows(config, wanted, chosen_rows)
        for (name, seed), rows in chosen_rows.items():
            runner.is_finished(wanted[name], seed, rows)
        for arm in every.values():
            for seed in seeds_there(arm, folder):
                if (arm.name, seed) not in chosen_rows:
                    runner.require_same_rule(arm, seed)
                    # of a scan that is not opened now nothing tells its rows
                    if arm.rule.file is None and _scans_of([arm], every) <= pools.keys():
                        runner.is_finished(arm, seed, runner.rows(arm, seed))
        # not before: it says which scan the folder's arms are of
        write_json(folder / KEYS, json.loads(shown.model_dump_json()))
        total = len(chosen_rows) + config.base
        done = 0
        if config.base:
            runner.base(f"base (1 of {total})")
            done = 1
        found = _facts(config, pools, prompt_records, held, recipes)
        facts = {
            **found,
            # an earlier call may have needed others
            **{key: {**run.read_manifest().get(key, {}), **found[key]} for key in ("scan_datasets", "scanned_with")},
            **({"sums": {**config.gsm8k.model_dump(), "taken": len(sums)}} if config.gsm8k is not None else {}),
            "commands": _commands(folder, command),
        }
        judge_alike(folder, config, told)
        for seed in config.seeds:
            for arm in wanted.values():
                done += 1
                runner.arm(arm, seed, chosen_rows[arm.name, seed], f"{arm.name}, seed {seed} ({done} of {total})")
            results = collect_results(shown, list(every.values()), folder, facts, tuple(scoring), scoring, wanted)
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


def _scans_of(wanted: Iterable[Arm], every: Mapping[str, Arm]) -> set[str]:
    """The further scans that these arms, and those that they are matched to, choose their rows by."""
    found: set[str] = set()
    for arm in wanted:
        one: Arm | None = arm
        while one is not None:
            found |= set(scans_of(one.rule))
            one = every[one.of] if one.of is not None else None
    return found


def _wanted(every: Mapping[str, Arm], named: Sequence[str] | None) -> dict[str, Arm]:
    """The arms to run now: all, those named, and all of a group that is named."""
    if named is None:
        return dict(every)
    if not named:
        raise RipcurrentError("No arm is named.", "Name some, or leave arms out to run all.")
    groups = {arm.group for arm in every.values() if arm.group is not None}
    for name in named:
        if name not in every and name not in groups:
            raise missing_name("There is no arm", name, [*every, *groups], "Arms")
    return {name: arm for name, arm in every.items() if name in named or arm.group in named}


def _identity(
    config: ExperimentConfig, prompt_records: Sequence[Mapping[str, Any]], recipe: Mapping[str, Any]
) -> dict[str, Any]:
    """What may not change in a folder, but for who judges: all but arms, seeds and what is shown."""
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
        # only where they are given: folders of before these keys are gone on with
        **{key: values[key] for key in ("gsm8k", "judge_endpoint", "judge_model") if values[key] is not None},
        "recipe": dict(recipe),
        "prompts_sha256": digest_of(prompts),
    }


def _keep_prompts(path: Path, prompts: Sequence[Prompt], answers: str) -> None:
    """Write what every arm is asked; ``answers`` is the folder of an arm that keeps what it answered.

    Raises:
        RipcurrentError: Answers in the folder are to other prompts. That tells what the hashes of the sources do not:
            another axis, or as many others left out.
    """
    folder = path.parent
    if not path.exists() or not any((folder / "arms").glob(f"*/{answers}")):
        write_prompts(path, prompts)
    elif not asks_the_same(path, prompts):
        raise RipcurrentError(
            f"The arms in {folder} are asked other prompts than now: {path} holds them.",
            "Name another folder with --out, or ask these prompts.",
        )


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
        "scan_datasets": {name: pool.scores.dataset_sha256 for name, pool in pools.items()},
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
    from ripcurrent.report import build_experiment_page

    told.step("writing the page")
    build_experiment_page(folder)
