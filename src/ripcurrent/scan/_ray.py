"""Runs a stage over shards in Ray Data's actor pool: on this machine, or on a cluster by its address."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.scan._executor import Stage
from ripcurrent.scan._machines import Machine, cores_each
from ripcurrent.scan._part import count_shards, shard_of
from ripcurrent.scan._ray_library import ray_data_library, ray_library
from ripcurrent.scan._ray_worker import RESULT, Attempts, StoredArray, Worker, error_from, task_of
from ripcurrent.scan._shards import Shard, ShardFolder

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Item = TypeVar("Item")

TASKS = 10_000
"""Ray tasks of one run at most; a larger run gives several shards to a task."""

ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""A Ray of this machine alone listens on 127.0.0.1: no other machine reaches it.

Linux's default is the machine's own address, and Ray replaces a loopback address that it is given by that.
"""
LOOPBACK = "127.0.0.1"

PATIENCE = 20.0
"""Seconds that a cluster's address may take to answer at all, and that resources may take to be free."""

PASSED_ON = ("RIPCURRENT_CACHE", "HF_HOME", "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM")
"""Environment variables that workers take over from the driver."""


class RayExecutor:
    """Runs shards in worker processes, each of which makes the stage once.

    Enter it to use it; Ray is started or joined when first needed, and left at the end. The driver alone writes shards,
    so workers need the dataset and the model at the paths that the driver names, but not the run folder.
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        address: str | None = None,
        use_gpu: bool = False,
        reports: dict[str, dict[str, int]] | None = None,
    ) -> None:
        """Choose the cluster and the pool.

        Args:
            workers: Worker processes; one for each GPU with ``use_gpu``, else one for each machine, unless named.
            address: A running cluster's address, or ``auto``; a Ray of this machine alone unless named.
            use_gpu: Give each worker a GPU of its own.
            reports: Takes the largest numbers that each worker's stage reports, where it does.

        Raises:
            RipcurrentError: fewer than one worker.
        """
        if workers is not None and workers < 1:
            raise RipcurrentError(f"--workers {workers} leaves nobody to work.", "Name 1 or more.")
        self._workers = workers
        self._address = address
        self._use_gpu = use_gpu
        self._started = False
        self._reports = {} if reports is None else reports

    def __enter__(self) -> RayExecutor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._started:
            ray_library().shutdown()
            self._started = False

    def put(self, array: npt.NDArray[np.generic]) -> StoredArray:
        """An array in the cluster's object store, once; workers on one machine share it without copying."""
        self._connect()
        return StoredArray(ray_library().put(array))

    def run(
        self,
        open_items: Callable[[int], Iterable[Item]],
        share: Callable[[], Callable[[], Stage[Item]]],
        folder: ShardFolder,
        *,
        rows: int,
        shard_rows: int,
        within: range | None = None,
        on_shard: Callable[[Shard, bool], None] = lambda shard, fresh: None,
    ) -> int:
        """Run a stage on every shard that is not done; returns the number after the last shard's.

        A shard comes back when any worker has it and is written under its number, so the order of rows does not depend
        on who was faster. A worker that dies is replaced and its shard given out again.

        Args:
            open_items: Called in a worker with a row's number: the items from there on. It is pickled.
            share: Called here, once, when there is work; what it returns is pickled and makes the stage in each worker.
            folder: Where shards are.
            rows: Rows of the dataset.
            shard_rows: Rows per shard.
            within: Consecutive numbers of the shards to run; all of them unless named.
            on_shard: Told of each shard and whether it was computed now.

        Raises:
            RipcurrentError: Ray is not installed or cannot be reached, what the stage raised, or a shard whose workers
                died again and again.
        """
        numbers = within if within is not None else range(count_shards(rows, shard_rows))
        todo: list[Shard] = []
        for number in numbers:
            shard = shard_of(number, shard_rows, rows)
            if folder.done(number) == shard:
                on_shard(shard, False)
            else:
                todo.append(shard)
        if not todo:
            return numbers.stop
        self._connect()
        for shard, table in self._results(todo, open_items, share()):
            fresh = folder.done(shard.number) != shard
            if fresh:
                folder.write(shard, table)
            on_shard(shard, fresh)
        missing = [shard.number for shard in todo if folder.done(shard.number) != shard]
        if missing:
            raise RipcurrentError(
                f"Ray ended without shard {missing[0]} and {len(missing) - 1} others.", "Run the same scan again."
            )
        return numbers.stop

    def _results(
        self, todo: Sequence[Shard], open_items: Callable[[int], Iterable[Item]], make_stage: Callable[[], Stage[Item]]
    ) -> Iterator[tuple[Shard, pa.Table]]:
        ray, data = ray_library(), ray_data_library()
        workers, cpus = self._pool(len(todo))
        # beside this process: a machine that is lost must not take the count with it
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            node_id=ray.get_runtime_context().get_node_id(), soft=True
        )
        lasting = {"max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
        attempts = ray.remote(num_cpus=0, **lasting)(Attempts).remote()
        context = data.DataContext.get_current().copy()
        context.enable_progress_bars = False
        # a worker's every shard comes back by itself, not when its task has a large block together
        context.target_max_block_size = 1
        pending = {shard.number: shard for shard in todo}
        # an item is a task's shards: Ray joins the blocks of a batch that are too small, which would make tasks of two
        tasks = min(len(todo), TASKS)
        items = [task_of(todo[len(todo) * n // tasks : len(todo) * (n + 1) // tasks]) for n in range(tasks)]
        with data.DataContext.current(context):
            results = data.from_items(items, override_num_blocks=tasks).map_batches(
                Worker,
                batch_size=1,
                batch_format="pyarrow",
                fn_constructor_args=(open_items, make_stage, attempts, cpus, workers),
                compute=data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
                num_cpus=cpus,
                num_gpus=1 if self._use_gpu else None,
            )
        for batch in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for number, table, error, worker, report in zip(*(batch[name].to_pylist() for name in RESULT), strict=True):
                if error is not None:
                    raise error_from(error)
                # with several tasks in flight an older report may come later
                told, found = self._reports.setdefault(worker, {}), json.loads(report)
                told.update({key: max(value, told.get(key, value)) for key, value in found.items()})
                # a shard that two workers computed, one of them taken for dead, counts once
                if number in pending:
                    yield pending.pop(number), pa.ipc.open_stream(table).read_all()

    def _pool(self, shards: int) -> tuple[int, int]:
        """How many workers, and processor cores for each."""
        nodes = [node["Resources"] for node in ray_library().nodes() if node["Alive"]]
        machines = [Machine(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes]
        cores, gpus = sum(one.cores for one in machines), sum(one.gpus for one in machines)
        if self._use_gpu and gpus < (self._workers or 1):
            raise RipcurrentError(
                f"The cluster has {gpus} GPUs for {self._workers or 1} workers.",
                "Name fewer --workers, or --device cpu.",
            )
        workers = self._workers or (gpus if self._use_gpu else len(machines))
        each = cores_each(machines, workers, with_gpu=self._use_gpu)
        if each < 1:
            where = " beside its GPUs" if self._use_gpu else ""
            raise RipcurrentError(
                f"The cluster has {cores} processor cores, too few{where} for {workers} workers.",
                "Name fewer --workers.",
            )
        # what other work holds now would be waited for without end, and without a word
        fewest = min(self._workers or 1, shards)
        free, free_gpus = self._free(min(workers, shards))
        if free < fewest or (self._use_gpu and free_gpus < fewest):
            held = f"{free_gpus} of {gpus} GPUs and {free} of {cores}" if self._use_gpu else f"{free} of {cores}"
            raise RipcurrentError(
                f"Other work holds the cluster: {held} processor cores are free, for {fewest} workers.",
                "Wait for that work (`ray status` shows it), or name fewer --workers.",
                code=ExitCode.NOT_MEASURED,
            )
        workers = min(workers, shards, free, free_gpus if self._use_gpu else free)
        return workers, min(each, free // workers)

    def _free(self, wanted: int) -> tuple[int, int]:
        """Free cores and GPUs; what an earlier pool of this process gives back is waited for."""
        until = time.monotonic() + PATIENCE
        while True:
            found = ray_library().available_resources()
            free, free_gpus = int(found.get("CPU", 0)), int(found.get("GPU", 0))
            enough = free >= wanted and (not self._use_gpu or free_gpus >= wanted)
            if enough or time.monotonic() > until:
                return free, free_gpus
            time.sleep(0.2)

    def _connect(self) -> None:
        if self._address is None:
            # read when Ray is first imported
            os.environ.update(ALONE)
        ray = ray_library()
        if ray.is_initialized():
            return
        if self._address is not None:
            _require_listener(self._address)
        passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        options: dict[str, Any] = {"runtime_env": {"env_vars": passed}} if passed else {}
        if self._address is None:
            options["include_dashboard"] = False
        try:
            ray.init(
                address=self._address or "local",
                log_to_driver=False,
                configure_logging=False,
                **options,
            )
        # Ray raises a bare Exception when a node does not start in time
        except Exception as error:
            reason = (str(error) or repr(error)).splitlines()[0].rstrip(".")
            if self._address is None:
                raise RipcurrentError(
                    f"Ray cannot be started: {reason}.",
                    "A machine that is too busy to start it within 30 seconds is the usual cause. Leave --executor ray "
                    "out, or try again.",
                ) from error
            raise _unreachable(self._address, reason) from error
        self._started = True
        if self._address is None and (found := ray.nodes()[0]["NodeManagerAddress"]) != LOOPBACK:
            raise RipcurrentError(
                f"Ray would listen on {found}, where other machines reach it.",
                "It was imported before ripcurrent could say otherwise: start Ray yourself and name its address.",
            )


def _require_listener(address: str) -> None:
    """Refuse an address where nobody listens: Ray itself tries for minutes on end."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()
    # a port beyond 65535 is an OverflowError
    except (OSError, OverflowError) as error:
        raise _unreachable(address, str(error)) from error


def _unreachable(address: str, reason: str) -> RipcurrentError:
    return RipcurrentError(
        f"Ray cannot be reached at {address}: {reason}.",
        "Check the address with `ray status` (a cluster with tokens: with RAY_AUTH_MODE=token), or leave --ray-address "
        "out for this machine alone.",
    )
