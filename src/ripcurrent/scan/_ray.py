"""Scores shards in Ray Data's actor pool: on this machine, or on a cluster by its address."""

from __future__ import annotations

import os
import pickle
import socket
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import asdict
from itertools import pairwise
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.scan._executor import Stage
from ripcurrent.scan._ray_worker import Attempts, Stored, Worker, ray_library
from ripcurrent.scan._shards import Shard

Item = TypeVar("Item")

TASKS = 10_000
"""Ray tasks of one run at most; a larger run gives several shards to a task."""
ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""A Ray of this machine alone listens on 127.0.0.1: no other machine reaches it. Linux's default is another address."""
LOOPBACK = "127.0.0.1"
PATIENCE = 20.0
"""Seconds that a cluster's address may take to answer, and that resources may take to be free."""
PASSED_ON = ("RIPCURRENT_CACHE", "HF_HOME", "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM")
"""Environment variables that workers take over from the driver."""


class Machine(NamedTuple):
    """What Ray may give out on a machine of the cluster."""

    cores: int
    gpus: int


def cores_each(machines: Sequence[Machine], workers: int, *, with_gpu: bool) -> int:
    """The most cores that every worker can have so that all find a place on one machine; 0 where they do not."""

    def places(cores: int) -> int:
        return sum(min(one.cores // cores, one.gpus) if with_gpu else one.cores // cores for one in machines)

    most = max((one.cores for one in machines), default=0)
    return next((cores for cores in range(most, 0, -1) if places(cores) >= workers), 0)


class RayPool:
    """Worker processes, each of which makes the stage once. Ray is started or joined when first needed.

    Tables come back to this process, so workers need the dataset and the model at the paths that it names, but not the
    run folder.
    """

    def __init__(self, *, workers: int | None = None, address: str | None = None, use_gpu: bool = False) -> None:
        """``workers`` are one for each GPU or machine unless named; without an address Ray is of this machine alone."""
        if workers is not None and workers < 1:
            raise RipcurrentError(f"--workers {workers} leaves nobody to work.", "Name 1 or more.")
        self._workers, self._address, self._use_gpu = workers, address, use_gpu
        self._started = False
        self.reports: dict[str, dict[str, int]] = {}
        """The largest numbers that each worker's stage reported, by machine and process."""

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._started:
            ray_library().shutdown()
            self._started = False

    def put(self, value: Any) -> Stored:
        """A value in the cluster's object store, once for all workers."""
        self._connect()
        return Stored(ray_library().put(value))

    def score_shards(
        self,
        shards: Sequence[Shard],
        open_items: Callable[[int], Iterable[Item]],
        rows: int,
        make_stage: Callable[[], Stage[Item]],
    ) -> Generator[tuple[Shard, pa.Table]]:
        """The shards' tables, each when any worker has it. A worker that dies is replaced, its shards given out again.

        Args:
            shards: The shards.
            open_items: Streams the dataset's items from one on. It is pickled and called in workers.
            rows: Items of the dataset.
            make_stage: Makes the stage. It is pickled and called once in each worker.

        Raises:
            RipcurrentError: Ray is not installed or cannot be reached, a worker's own error, or workers that died over
                the same task again and again.
        """
        self._connect()
        ray = ray_library()
        workers, cores = self._pool(len(shards))
        attempts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Attempts).remote()
        # an item is a task's shards, and a batch an item: Ray joins blocks that are smaller than a batch
        tasks = min(len(shards), TASKS)
        cuts = [len(shards) * number // tasks for number in range(tasks + 1)]
        items = [{"shards": [asdict(one) for one in shards[cut:end]]} for cut, end in pairwise(cuts)]
        context = ray.data.DataContext.get_current().copy()
        context.enable_progress_bars = False
        # a worker's every shard comes back by itself, not when its task has a large block together
        context.target_max_block_size = 1
        with ray.data.DataContext.current(context):
            results = ray.data.from_items(items, override_num_blocks=tasks).map_batches(
                Worker,
                batch_size=1,
                batch_format="pyarrow",
                fn_constructor_args=(open_items, rows, make_stage, attempts, cores),
                compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
                num_cpus=cores,
                num_gpus=1 if self._use_gpu else None,
            )
        pending = set(shards)
        for batch in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for packed in batch["answer"].to_pylist():
                shard, table, error, worker, report = pickle.loads(packed)
                if error is not None:
                    raise error
                # with several tasks in flight an older report may come later
                kept = self.reports.setdefault(worker, {})
                kept.update({key: max(value, kept.get(key, value)) for key, value in report.items()})
                # a shard that two workers computed, one of them taken for dead, counts once
                if shard in pending:
                    pending.remove(shard)
                    yield shard, table
        if pending:
            raise RipcurrentError(f"Ray ended without {len(pending)} shards.", "Run the same scan again.")

    def _pool(self, shards: int) -> tuple[int, int]:
        """Number of workers, and CPU cores for each.

        Raises:
            RipcurrentError: They do not fit, or other work holds what they need: it would be waited for without end.
        """
        nodes = [node["Resources"] for node in ray_library().nodes() if node["Alive"]]
        machines = [Machine(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes]
        gpus = sum(one.gpus for one in machines)
        workers = self._workers or (max(1, gpus) if self._use_gpu else len(machines))
        each = cores_each(machines, workers, with_gpu=self._use_gpu)
        has = f"{sum(one.cores for one in machines)} CPU cores" + (f" and {gpus} GPUs" if self._use_gpu else "")
        if each < 1:
            raise RipcurrentError(
                f"The cluster has {has}, too few for {workers} workers.", "Give a smaller --workers, or --device cpu."
            )
        until, room, cores = time.monotonic() + PATIENCE, -1, 0
        # what an earlier pool of this process gives back is waited for
        while room < min(workers, shards) and (room < 0 or time.monotonic() < until):
            time.sleep(0.0 if room < 0 else 0.2)
            free = ray_library().available_resources()
            cores = int(free.get("CPU", 0))
            room = min(cores, int(free.get("GPU", 0))) if self._use_gpu else cores
        fewest = min(self._workers or 1, shards)
        if room < fewest:
            raise RipcurrentError(
                f"Other work holds the cluster of {has}: there is room for {room} of {fewest} workers.",
                "Wait for that work (`ray status` shows it), or give a smaller --workers.",
                code=ExitCode.NOT_MEASURED,
            )
        workers = min(workers, shards, room)
        return workers, min(each, cores // workers)

    def _connect(self) -> None:
        if self._address is None:
            os.environ.update(ALONE)
        ray = ray_library()
        if ray.is_initialized():
            return
        if self._address is not None:
            _require_listener(self._address)
        options: dict[str, Any] = {} if self._address else {"include_dashboard": False}
        if passed := {name: os.environ[name] for name in PASSED_ON if name in os.environ}:
            options["runtime_env"] = {"env_vars": passed}
        try:
            ray.init(address=self._address or "local", log_to_driver=False, configure_logging=False, **options)
        # Ray raises a bare Exception when a node does not start in time
        except Exception as error:
            reason = (str(error) or repr(error)).splitlines()[0].rstrip(".")
            if self._address is not None:
                raise _unreachable(self._address, reason) from error
            raise RipcurrentError(
                f"Ray cannot be started: {reason}.",
                "A machine that is too busy to start it within 30 seconds is the usual cause. Leave --executor ray "
                "out, or try again.",
            ) from error
        self._started = True
        if self._address is None and (found := ray.nodes()[0]["NodeManagerAddress"]) != LOOPBACK:
            raise RipcurrentError(
                f"Ray would listen on {found}, where other machines reach it.",
                "It was imported before ripcurrent could say otherwise: start Ray yourself and name its address.",
            )


def _require_listener(address: str) -> None:
    """Refuse an address where nobody listens: Ray itself tries for minutes on end."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
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
