"""Who computes a scan's shards: this process, or workers of a Ray cluster."""

from __future__ import annotations

import socket
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from ripcurrent.data import Dataset, Row, read_rows
from ripcurrent.errors import RipcurrentError
from ripcurrent.models import EMBEDDED, EMBEDDED_BARE, split_variables
from ripcurrent.scan._executor import ShardReader, score_shards
from ripcurrent.scan._options import ScanOptions
from ripcurrent.scan._ray import RayPool
from ripcurrent.scan._remote import release_stage, share_stage
from ripcurrent.scan._shards import Shard
from ripcurrent.scan._signal_stage import SignalStage

Score = Callable[[Sequence[Shard]], Generator[tuple[Shard, pa.Table]]]
"""Gives the tables of shards, each as it is computed."""


@dataclass(frozen=True, slots=True)
class Execution:
    """Where a scan is computed. No part of the result: another choice goes on in the same run folder.

    Raises:
        RipcurrentError: There is no such executor, or options of Ray's are given without it.
    """

    executor: str = "local"
    """``local``: this process; ``ray``: Ray's workers."""
    workers: int | None = None
    """Ray's worker processes; one for each GPU, without GPUs one for each machine, unless named."""
    ray_address: str | None = None
    """A running Ray cluster; a Ray of this machine alone unless named."""

    def __post_init__(self) -> None:
        if self.executor not in ("local", "ray"):
            raise RipcurrentError(f"There is no executor {self.executor!r}.", "Choices: local, ray.")
        if self.executor == "local" and (self.workers is not None or self.ray_address is not None):
            given = "--workers" if self.workers is not None else "--ray-address"
            raise RipcurrentError(f"{given} is an option of --executor ray.", "Add --executor ray, or leave it out.")


@dataclass(frozen=True, slots=True)
class OpenRows:
    """Opens a dataset again, in another process."""

    options: ScanOptions
    path: str
    """Absolute, or a hub address."""
    sampled: str | None
    """The dataset's `sampled_hash` where the scan was started."""

    def __call__(self, start: int) -> Iterator[Row]:
        """The rows from the ``start``-th on.

        Raises:
            RipcurrentError: It cannot be read here, or is another dataset here.
        """
        options = self.options
        rows = read_rows(self.path, format=options.format, mapping=options.mapping, limit=options.limit)
        if rows.sampled_hash() != self.sampled:
            raise RipcurrentError(
                f"On {socket.gethostname()} {self.path} is another file than where the scan was started.",
                "Every machine must read the same file: put it on a shared disk.",
            )
        return rows.iter_from(start)


@contextmanager
def scoring(
    execution: Execution,
    rows: Dataset,
    options: ScanOptions,
    count: int,
    stage: SignalStage,
    reports: dict[str, dict[str, int]],
) -> Iterator[Score]:
    """How shards of ``count`` rows are scored, while entered. Under Ray the stage's model and directions are given up.

    ``reports`` takes what each of Ray's workers reports of its stage.
    """
    if execution.executor == "local":
        yield partial(score_shards, read=ShardReader(rows.iter_from, count), stage=stage)
        return
    on_gpu = stage.chat_model.device.type == "cuda"
    with RayPool(workers=execution.workers, address=execution.ray_address, use_gpu=on_gpu) as pool:
        pool.reports = reports

        def score(shards: Sequence[Shard]) -> Generator[tuple[Shard, pa.Table]]:
            # links are not followed: what they lead to, in the hub's cache for one, may have no suffix
            path = rows.path if rows.container == "hub" else str(Path(rows.path).absolute())
            opened = OpenRows(options, path, rows.sampled_hash())
            shared = share_stage(stage, from_anywhere(options), pool.put)
            # a worker may need this very GPU
            release_stage(stage)
            for shard, table in pool.score_shards(shards, opened, count, shared):
                stage.on_rows(shard.rows)
                yield shard, table

        yield score


def from_anywhere(options: ScanOptions) -> ScanOptions:
    """The options with model and adapter by absolute path where they are files here: workers stand in other folders.

    The names of the embedded model are no files, whatever lies here.
    """
    changed = {}
    bare = split_variables(options.model)[0]
    if bare not in (EMBEDDED, EMBEDDED_BARE) and Path(bare).exists():
        changed["model"] = str(Path(bare).absolute()) + options.model.removeprefix(bare)
    if options.adapter and Path(options.adapter).exists():
        changed["adapter"] = str(Path(options.adapter).absolute())
    return options.model_copy(update=changed)
