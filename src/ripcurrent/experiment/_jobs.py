"""An experiment's runs, one after another here, or several at a time in processes of their own."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment._config import ExperimentConfig, ScanSource
from ripcurrent.experiment._file import BASE, MAIN, expand_arms
from ripcurrent.experiment._results import MARKER
from ripcurrent.experiment._rows import open_pools
from ripcurrent.experiment._runner import ArmRunner
from ripcurrent.processes import in_processes, say
from ripcurrent.progress import Progress

Run = tuple[str, int | None]
"""An arm and a seed; the untrained model has none."""


class ToldProgress(Progress):
    """Says a run's steps to the process that shows them."""

    def __init__(self, label: str) -> None:
        self.label = label

    def step(self, name: str) -> None:
        say(name if name.startswith(self.label) else f"{self.label}: {name}")


def run_all(runner: ArmRunner, rows: Iterable[Run], jobs: int) -> Iterator[Run]:
    """Train and ask all that is not finished, the untrained model first, ``jobs`` at a time; yields each as it ends."""
    runs, left = [(BASE, None), *rows], dict[str, Run]()
    for number, (name, seed) in enumerate(runs, start=1):
        label = f"{name if seed is None else f'{name}, seed {seed}'} ({number} of {len(runs)})"
        if jobs > 1 and not (runner.place(name, seed) / MARKER).exists():
            left[label] = name, seed
            continue
        runner.run(name, seed, label)
        yield name, seed
    if left:
        # there the scans are made
        scans = {name: ScanSource(run=str(pool.run.folder)) for name, pool in runner.pools.items()}
        main, data = scans.pop(MAIN).run, runner.config.data if runner.config.run else None
        changes = {"run": main, "data": data, "scan": {}, "scans": {**runner.config.scans, **scans}}
        config = runner.config.model_copy(update=changes)
        tasks = {label: (config, runner.folder, *run, label) for label, run in left.items()}
        for label in in_processes(_run, tasks, _environments(config.device, jobs), runner.progress.step):
            yield left[label]


def _environments(device: str | None, jobs: int) -> list[dict[str, str]]:
    """Of each process: a GPU, in turn, or its share of the threads."""
    import torch

    if ":" in (device or ""):
        raise RipcurrentError(f"Several jobs have a GPU each, not {device}.", "Write device: cuda, or give --jobs 1.")
    if device in ("cpu", "mps") or not torch.cuda.is_available():
        return [{"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // jobs))}] * jobs
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
    return [{"CUDA_VISIBLE_DEVICES": gpus.split(",")[job % len(gpus.split(","))]} for job in range(jobs)]


def _run(config: ExperimentConfig, folder: Path, name: str, seed: int | None, label: str) -> None:
    every, progress = {arm.name: arm for arm in expand_arms(config)}, ToldProgress(label)
    try:
        pools, held = open_pools(config, folder / "scans", progress, [every[name].scan] if name in every else [])
        ArmRunner(config, folder, every, pools, held, progress).run(name, seed, label)
    except RipcurrentError as error:
        # of a kind that passes between processes
        raise RipcurrentError(error.message, error.hint, code=error.code) from None
