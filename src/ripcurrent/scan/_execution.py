"""Who computes a scan's shards: this process, or workers of a Ray cluster."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from ripcurrent.data import Dataset, Row, read_rows
from ripcurrent.errors import RipcurrentError
from ripcurrent.models import EMBEDDED, EMBEDDED_BARE, split_variables
from ripcurrent.scan._executor import LocalExecutor
from ripcurrent.scan._options import ScanOptions
from ripcurrent.scan._part import Part
from ripcurrent.scan._parts import shards_of
from ripcurrent.scan._prefilter import PickedRows
from ripcurrent.scan._ray import RayExecutor
from ripcurrent.scan._remote import RemoteStage, release_stage, share_stage
from ripcurrent.scan._scan_model import model_options
from ripcurrent.scan._shards import Shard, ShardFolder
from ripcurrent.scan._signal_stage import SignalStage


class RunStage(Protocol):
    """Runs a stage on a scan's shards, or on those of its part, that are not done."""

    def __call__(
        self,
        stage: SignalStage,
        folder: ShardFolder,
        on_shard: Callable[[Shard, bool], None],
        picked: npt.NDArray[np.int64] | None = None,
    ) -> int:
        """Returns the number after the last shard's; shards are of all rows, or of the ones ``picked`` by number."""


@dataclass(frozen=True, slots=True)
class Execution:
    """Where a scan is computed. No part of the result: another choice goes on in the same run folder."""

    executor: Literal["local", "ray"] = "local"
    """This process, or Ray's workers."""
    workers: int | None = None
    """Ray's worker processes; one for each GPU, without GPUs one for each machine, unless named."""
    ray_address: str | None = None
    """A running Ray cluster; a Ray of this machine alone unless named."""


def choose_execution(executor: str, workers: int | None, ray_address: str | None) -> Execution:
    """The user's choice, checked.

    Raises:
        RipcurrentError: there is no such executor, or options of Ray's are given without it.
    """
    if executor == "ray":
        return Execution("ray", workers, ray_address)
    if executor != "local":
        raise RipcurrentError(f"There is no executor {executor!r}.", "Choices: local, ray.")
    if workers is not None or ray_address is not None:
        given = "--workers" if workers is not None else "--ray-address"
        raise RipcurrentError(f"{given} is an option of --executor ray.", "Add --executor ray, or leave it out.")
    return Execution()


@dataclass(frozen=True, slots=True)
class OpenRows:
    """Opens a dataset again, in another process."""

    path: str
    """Absolute, or a hub address."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of :func:`ripcurrent.read_rows`."""
    picked: npt.NDArray[np.int64] | None = None
    """Numbers of the rows meant, ascending; all of them unless named."""
    sampled: str | None = None
    """The dataset's `sampled_hash` where the scan was started."""

    def __call__(self, start: int) -> Iterator[Row]:
        """The rows from the ``start``-th on.

        Raises:
            RipcurrentError: It cannot be read here, or is another dataset here.
        """
        rows = read_rows(self.path, **self.options)
        if rows.sampled_hash() != self.sampled:
            raise RipcurrentError(
                f"On {socket.gethostname()} {self.path} is another file than where the scan was started.",
                "Every machine must read the same file: put it on a shared disk.",
            )
        return (rows if self.picked is None else PickedRows(rows, self.picked)).iter_from(start)


@contextmanager
def running(
    execution: Execution,
    rows: Dataset,
    options: ScanOptions,
    *,
    count: int,
    part: Part | None,
    on_gpu: bool,
    reports: dict[str, dict[str, int]],
) -> Iterator[RunStage]:
    """How stages are run, while entered.

    Args:
        execution: The user's choice.
        rows: The dataset.
        options: The scan's.
        count: Rows of the dataset.
        part: The part whose shards are run; all of them without one.
        on_gpu: Whether the model computes on a GPU.
        reports: Takes what each of Ray's workers reports of its stage.
    """
    if execution.executor == "local":

        def run_here(
            stage: SignalStage,
            folder: ShardFolder,
            on_shard: Callable[[Shard, bool], None],
            picked: npt.NDArray[np.int64] | None = None,
        ) -> int:
            return LocalExecutor().run(
                (rows if picked is None else PickedRows(rows, picked)).iter_from,
                stage,
                folder,
                shard_rows=options.shard_rows,
                rows=count if picked is None else len(picked),
                within=shards_of(part, count if picked is None else len(picked), options),
                on_shard=on_shard,
            )

        yield run_here
        return
    opened = OpenRows(
        absolute(rows.path),
        {"format": options.format, "mapping": options.mapping, "limit": options.limit},
        sampled=rows.sampled_hash(),
    )
    with RayExecutor(workers=execution.workers, address=execution.ray_address, use_gpu=on_gpu, reports=reports) as ray:

        def run_there(
            stage: SignalStage,
            folder: ShardFolder,
            on_shard: Callable[[Shard, bool], None],
            picked: npt.NDArray[np.int64] | None = None,
        ) -> int:
            def share() -> RemoteStage:
                shared = share_stage(
                    stage,
                    ray.put,
                    # all workers compute on the kind of device that measured the anchors
                    model=_absolute_paths(model_options(options) | {"device": stage.chat_model.device.type}),
                    layer=options.layer,
                    position=options.position,
                )
                if not options.per_anchor:
                    # a worker may need this very GPU; only further directions would need the model here
                    release_stage(stage)
                return shared

            def told(shard: Shard, fresh: bool) -> None:
                if fresh:
                    stage.on_rows(shard.rows)
                on_shard(shard, fresh)

            number = count if picked is None else len(picked)
            return ray.run(
                replace(opened, picked=picked),
                share,
                folder,
                rows=number,
                shard_rows=options.shard_rows,
                within=shards_of(part, number, options),
                on_shard=told,
            )

        yield run_there


def absolute(path: str) -> str:
    """A dataset's path from anywhere on this machine.

    Links are not followed: what they lead to, in the hub's cache for one, may have another name and no suffix.
    """
    return path if path.startswith("hf:") else str(Path(path).absolute())


def _absolute_paths(model: dict[str, Any]) -> dict[str, Any]:
    """Model and adapter by absolute path where they are files here: workers stand in other folders.

    The names of the embedded model are no files, whatever lies here.
    """

    def of(key: str, value: Any) -> Any:
        if key not in ("name", "adapter") or not value or (key == "name" and value in (EMBEDDED, EMBEDDED_BARE)):
            return value
        bare = split_variables(value)[0] if key == "name" else value
        return str(Path(bare).absolute()) + value.removeprefix(bare) if Path(bare).exists() else value

    return {key: of(key, value) for key, value in model.items()}
