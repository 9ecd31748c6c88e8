"""Parts: which of a dataset's shards one process of several takes, by number or by a scheduler's environment."""

import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from ripcurrent.errors import RipcurrentError
from ripcurrent.scan._shards import Shard

STEP_TASKS = "SLURM_STEP_NUM_TASKS"


@dataclass(frozen=True, slots=True)
class Part:
    """One process's share of a dataset: part ``index``, from 0, of ``of``."""

    index: int
    of: int

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"


def shards_in(part: Part | None, rows: int, shard_rows: int) -> list[Shard]:
    """A part's shards, which follow one another; all without a part. Parts differ by one shard at most."""
    every = [Shard(number, at, min(shard_rows, rows - at)) for number, at in enumerate(range(0, rows, shard_rows))]
    if part is None:
        return every
    return every[len(every) * part.index // part.of : len(every) * (part.index + 1) // part.of]


def parse_part(text: str, environment: Mapping[str, str]) -> Part:
    """The part that ``i/n`` names, or for ``auto`` the one that SLURM's or torchrun's environment gives this process.

    A SLURM array, and torchrun or srun inside each of its tasks, count together. What names no part is an error.
    """
    if text == "auto":
        return _part_from(environment)
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None:
        raise RipcurrentError(
            f"--shard {text} is not of the form i/n.", "Write 0/4, 1/4, 2/4 and 3/4 for four processes, or auto."
        )
    index, of = int(match[1]), int(match[2])
    if index >= of:
        raise RipcurrentError(
            f"There is no part {index} of {of}: parts are counted from 0.",
            f"Write 0/{of} to {of - 1}/{of}." if of else "Write 0/1, or leave --shard out.",
        )
    return Part(index, of)


def bind_local_gpu(environment: MutableMapping[str, str]) -> None:
    """Let each of torchrun's or srun's processes on a machine see only the GPU of its local rank.

    Call it before CUDA is first used. A process that sees one GPU or none is left as it is; more processes than GPUs
    are an error.
    """
    rank = environment.get("LOCAL_RANK", environment.get("SLURM_LOCALID", "") if _in_srun(environment) else "")
    given = environment.get("CUDA_VISIBLE_DEVICES")
    visible = [name.strip() for name in (given or "").split(",") if name.strip()]
    # an empty variable switches GPUs off
    if not rank.isdigit() or given == "" or len(visible) == 1:
        return
    import torch

    visible = visible or [str(gpu) for gpu in range(torch.cuda.device_count())]
    if visible and int(rank) >= len(visible):
        raise RipcurrentError(
            f"Process {rank} of this machine has no GPU: it sees {len(visible)}.",
            "Start as many processes as GPUs, or leave --shard auto out and name each one's --device.",
        )
    if visible:
        environment["CUDA_VISIBLE_DEVICES"] = visible[int(rank)]


def _in_srun(environment: Mapping[str, str]) -> bool:
    """Whether this is one of several tasks of a SLURM step. A batch script itself is not, whatever it asked for."""
    tasks = environment.get(STEP_TASKS, "")
    return tasks.isdigit() and int(tasks) > 1


def _part_from(environment: Mapping[str, str]) -> Part:
    def number(name: str) -> int:
        value = environment.get(name, "")
        if not value.isdigit():
            raise RipcurrentError(
                f"--shard auto needs the environment variable {name}, which is {value!r}.", "Write --shard i/n instead."
            )
        return int(value)

    levels: list[tuple[int, int]] = []
    if "SLURM_ARRAY_TASK_ID" in environment:
        task, count, first, last = (number(f"SLURM_ARRAY_TASK_{name}") for name in ("ID", "COUNT", "MIN", "MAX"))
        if last - first + 1 != count:
            raise RipcurrentError(
                f"The SLURM array has {count} tasks with ids from {first} to {last}: auto needs ids without gaps.",
                "Give the part by number, such as --shard $SLURM_ARRAY_TASK_ID/8 with --array=2,5.",
            )
        levels.append((task - first, count))
    if "RANK" in environment and "WORLD_SIZE" in environment:
        levels.append((number("RANK"), number("WORLD_SIZE")))
    elif _in_srun(environment):
        levels.append((number("SLURM_PROCID"), number(STEP_TASKS)))
    if not levels:
        raise RipcurrentError(
            "--shard auto finds neither a SLURM array, nor srun with several tasks, nor torchrun in the environment.",
            f"It reads SLURM_ARRAY_TASK_ID and its like, {STEP_TASKS} and SLURM_PROCID, or RANK and WORLD_SIZE; "
            "elsewhere write --shard i/n.",
        )
    index, of = 0, 1
    for place, size in levels:
        index, of = index * size + place, of * size
    if not 0 <= index < of:
        raise RipcurrentError(f"The environment gives part {index} of {of}, which there is not.", "Write --shard i/n.")
    return Part(index, of)
