"""Experiment: arms × seeds trained, asked and judged one after another, in a folder that is resumed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from ripcurrent.errors import ExitCode, MissingExtraError, RipcurrentError
from ripcurrent.evaluate import Prompt, check_tasks, keep_prompts, without_secrets
from ripcurrent.experiment._collect import collect_results
from ripcurrent.experiment._command import check_command, describe_command
from ripcurrent.experiment._config import ExperimentConfig
from ripcurrent.experiment._file import MAIN, Arm, expand_arms, missing_name, parse_experiment, read_experiment_file
from ripcurrent.experiment._jobs import run_all
from ripcurrent.experiment._prompts import PromptRecord, gather_prompts
from ripcurrent.experiment._results import RESULTS, ExperimentManifest, ExperimentResults, Facts
from ripcurrent.experiment._rows import check_scans, open_pools, with_model_of_run
from ripcurrent.experiment._runner import JUDGING, PROMPTS, ArmRunner, digest_of, judge_alike, judges_of
from ripcurrent.finetune import as_trained, compute_dtype, load_recipe
from ripcurrent.progress import Progress, SilentProgress
from ripcurrent.runs import MANIFEST, RunFolder, library_versions, write_json
from ripcurrent.select import Selection

KEYS = "experiment.json"
PLACES = ("data", "run")
"""Where rows and scores lie may change: a scan made here has its dataset's hash, an arm that of its rows."""
SAME = 0.9
"""An arm that shares this part of its control's rows cannot differ from it."""
IDENTITY = (
    *("data", "format", "model", "adapter", "device", "dtype", "run", "scan"),
    *("judges", "max_new_tokens", "system", "heldout"),
)
"""What may not change in a folder: all but arms, seeds and what is shown."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """An experiment, from a file or from keys and values, to be run."""

    config: ExperimentConfig
    where: str = "the experiment"
    """What errors call the source of its keys."""

    @classmethod
    def from_file(cls, path: str | Path) -> Experiment:
        """The experiment in a YAML file, or a ready one by its name; an error names what is wrong, and what is near."""
        return cls(parse_experiment(read_experiment_file(path), where=str(path)), str(path))

    @classmethod
    def from_keys(cls, **keys: object) -> Experiment:
        """The experiment with these keys, as in a file; an error names what is wrong, and what is near."""
        return cls(parse_experiment({"name": "experiment", **keys}, where="the experiment"))

    def run(
        self,
        out: str | Path,
        *,
        arms: Sequence[str] | None = None,
        seeds: int | Sequence[int] | None = None,
        jobs: int = 1,
        command: str | None = None,
        progress: Progress | None = None,
    ) -> ExperimentResults:
        """Train, ask and judge every arm with every seed, ``jobs`` at a time; tables of what is there.

        A finished arm is never computed again: the same call goes on where it was stopped, and more arms or seeds may
        be given. With ``arms`` only these are run now. ``seeds``, a number or a list, replace the experiment's.
        Jobs are processes, each with one GPU or its share of the CPU. ``command`` is the command line, for the page.

        Raises:
            RipcurrentError: What the user can correct. An arm whose loss diverges is marked as failed and the rest goes
                on; exit code 2 when every arm fails.
        """
        progress, folder, config = progress or SilentProgress(), Path(out), self.config
        if seeds is not None:
            chosen = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
            config = parse_experiment({**config.model_dump(exclude_unset=True), "seeds": chosen}, where=self.where)
        every = {arm.name: arm for arm in expand_arms(config)}
        wanted = _wanted(every, arms)
        recipes = _checked(config, every.values(), wanted.values(), self.where)
        judges, scoring = judges_of(config)
        config = with_model_of_run(config)
        check_command(config, self.where)
        if config.tasks is not None:
            check_tasks(config.tasks.names)
        prompts, records = gather_prompts(config.prompts)
        # name and password of an endpoint are in no file
        endpoint = None if config.judge_endpoint is None else without_secrets(config.judge_endpoint)
        shown = config.model_copy(update={"judge_endpoint": endpoint})
        identity = _identity(shown, prompts, recipes.get(config.recipe))
        with RunFolder(folder, identity, no_results=(KEYS, PROMPTS), may_change=(*JUDGING, *PLACES)):
            keep_prompts(folder / PROMPTS, prompts)
            pools, held = open_pools(config, folder / "scans", progress, {arm.scan for arm in wanted.values()})
            runner = ArmRunner(config, folder, every, pools, held, progress)
            rows = {(arm.name, seed): runner.rows(arm, seed) for seed in config.seeds for arm in wanted.values()}
            _refuse_equal_rows(wanted, rows)
            runner.refuse_other_runs(rows)
            # not before: it says which scan the folder's arms are of
            write_json(folder / KEYS, json.loads(shown.model_dump_json()))
            facts = _facts(runner, records, recipes, command)
            judge_alike(folder, config, progress)
            left = Counter[int | None](seed for _, seed in rows)
            for _, seed in run_all(runner, rows, jobs):
                left[seed] -= 1
                if seed is not None and not left[seed]:
                    results = collect_results(shown, every, folder, facts, judges, scoring, wanted)
                    results.write(folder / RESULTS)
            facts.write(folder)
        if not any(one.seed is not None for one in results.arms):
            reasons = "; ".join(f"{one.name}: {one.reason}" for one in results.failed[:2])
            hint = f"See {folder / 'arms'}; remove an arm's folder there to repeat it."
            raise RipcurrentError(f"Every arm failed ({reasons}).", hint, code=ExitCode.NOT_MEASURED)
        return results


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


def _checked(config: ExperimentConfig, every: Iterable[Arm], wanted: Iterable[Arm], where: str) -> dict[str, Facts]:
    """The recipes by name, after everything is refused that can be before a scan: extras, options, devices, files."""
    if config.train is None and find_spec("trl") is None:
        raise MissingExtraError("trl", "train")
    named = () if config.train else dict.fromkeys((config.recipe, *(arm.recipe for arm in every)))
    recipes = {name: load_recipe(name) for name in named}
    check_scans(config, where, wanted)
    for recipe in recipes.values():
        compute_dtype(recipe, config.device, config.dtype)
    return {name: recipe.model_dump(mode="json") for name, recipe in recipes.items()}


def _identity(config: ExperimentConfig, prompts: Sequence[Prompt], recipe: Facts | None) -> Facts:
    values = json.loads(config.model_dump_json())
    return {
        "command": "experiment",
        **{key: values[key] for key in IDENTITY},
        **{key: values[key] for key in ("judge_endpoint", "judge_model", "tasks") if values[key] is not None},
        # a command may be mended until it has trained an arm, which keeps it
        "recipe": None if recipe is None else dict(as_trained(recipe)),
        "prompts_sha256": digest_of([[one.axis, one.text] for one in prompts]),
    }


def _refuse_equal_rows(arms: Mapping[str, Arm], chosen: Mapping[tuple[str, int], Selection]) -> None:
    """Refuse an arm that trains on (nearly) the rows of its control in the same way: the two cannot differ."""
    for (name, seed), rows in chosen.items():
        arm, control = arms[name], arms.get(arms[name].control or "")
        # to leave out little is what such arms are for
        if control is None or arm.rule.kind in ("all", "all_but"):
            continue
        own, other = ((one.scan, one.recipe) for one in (arm, control))
        beside = chosen[control.name, seed]
        common = len({*rows.indices} & {*beside.indices})
        if own == other and common >= SAME * max(len(rows.indices), len(beside.indices)):
            raise RipcurrentError(
                f"Arms {name} and {control.name} have {common} of {len(rows.indices)} rows in common: the pool is too "
                "small for two sets of this size.",
                "Give a smaller size, at most half of the usable rows, or fewer rows to heldout.",
            )


def _facts(
    runner: ArmRunner, records: Sequence[PromptRecord], recipes: Mapping[str, Facts], command: str | None
) -> ExperimentManifest:
    """What the results rest on; an earlier call may have needed other scans."""
    scans, train = {name: pool.run for name, pool in runner.pools.items()}, runner.config.train
    before = ExperimentManifest.read(runner.folder) if (runner.folder / MANIFEST).exists() else None
    commands = (*(before.commands if before else ()), *([command] if command else ()))
    return ExperimentManifest(
        version=version("ripcurrent"),
        command="experiment",
        versions=library_versions(*filter(find_spec, ("torch", "transformers", "trl", "numpy", "scipy", "lm_eval"))),
        dataset=scans[MAIN].manifest.dataset.model_dump(mode="json"),
        scan_datasets=(before.scan_datasets if before else {})
        | {name: scan.manifest.dataset.sha256 for name, scan in scans.items()},
        scanned_with=(before.scanned_with if before else {})
        | {name or "main": scan.manifest.model.name for name, scan in scans.items()},
        usable_rows=int(scans[MAIN].scored.sum()),
        heldout_rows=len(runner.held),
        recipes=dict(recipes) if train is None else {"command": describe_command(train)},
        prompts=tuple(records),
        commands=tuple(dict.fromkeys(commands)),
    )
