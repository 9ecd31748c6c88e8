"""Scores shards in Ray Data's actor pool: on this machine, or on a cluster by its address."""

import logging
import os
import pickle
import socket
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from ripcurrent.errors import DatasetChangedError, ExitCode, MissingExtraError, RipcurrentError
from ripcurrent.scan._executor import ShardReader, Stage, score_shards
from ripcurrent.scan._shards import Shard

NO_REPORTS = {"RAY_USAGE_STATS_ENABLED": "0"}
"""Nothing is reported to Ray's makers, whatever the environment says."""
ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""A Ray of this machine alone listens on 127.0.0.1: no other machine reaches it. Linux's default is another address."""
SETTINGS = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": "1",
    "RAY_worker_niceness": "0",
}
"""Unless the environment has others: Ray's warnings stay out of the terminal, a machine's workers share the directions'
memory, and they are as nice as this process."""
PASSED_ON = ("RIPCURRENT_CACHE", "HF_HOME", "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM")
"""Environment variables that workers take over from the driver."""
LOOPBACK = "127.0.0.1"
TASKS = 10_000
"""Ray tasks of one run at most; a larger run gives several shards to a task."""
ATTEMPTS = 4
"""Number of workers that may die over one task before the run stops."""
ANSWERS_WITHIN = 20.0
"""Seconds that a cluster's address may take to answer."""
STARTS_WITHIN = 120.0
"""Seconds that the workers may take to start: other work may hold what they need."""


@contextmanager
def ray_cluster(address: str | None) -> Iterator[Any]:
    """Ray with Ray Data, of this machine alone or joined at an address, until the block ends; one that runs stays.

    Raises:
        RipcurrentError: Ray is not installed, cannot be reached, or would listen to other machines.
    """
    # read when Ray is first imported
    os.environ.update(NO_REPORTS if address else {**NO_REPORTS, **ALONE})
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    for logger in ("ray", "ray.data"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    # the tensors that workers share are only read
    warnings.filterwarnings("ignore", "Zero-copy tensor")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("ray[data]", "ray") from error
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {} if address else {"include_dashboard": False}
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    try:
        if address is not None:
            _require_listener(address)
        ray.init(
            address=address or "local",
            log_to_driver=False,
            configure_logging=False,
            runtime_env={"env_vars": passed},
            **options,
        )
    # Ray raises a bare Exception when a node does not start in time
    except Exception as error:
        reason = (str(error) or repr(error)).splitlines()[0].rstrip(".")
        if address is not None:
            raise RipcurrentError(
                f"Ray cannot be reached at {address}: {reason}.",
                "Check the address with `ray status` (a cluster with tokens: with RAY_AUTH_MODE=token), or leave "
                "--ray-address out for this machine alone.",
            ) from error
        raise RipcurrentError(
            f"Ray cannot be started: {reason}.",
            "A machine that is too busy to start it within 30 seconds is the usual cause. Leave --executor ray out, or "
            "try again.",
        ) from error
    try:
        if address is None and (found := ray.nodes()[0]["NodeManagerAddress"]) != LOOPBACK:
            raise RipcurrentError(
                f"Ray would listen on {found}, where other machines reach it.",
                "It was imported before ripcurrent could say otherwise: start Ray yourself and name its address.",
            )
        yield ray
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Fail at once where nobody listens: Ray itself tries for minutes on end."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWERS_WITHIN).close()


def score_on_ray(
    ray: Any,
    shards: Sequence[Shard],
    open_items: Callable[[int], Iterable[Any]],
    rows: int,
    make_stage: Callable[[], Stage],
    reports: dict[str, Counter[str]],
    workers: int | None = None,
    *,
    use_gpu: bool = False,
) -> Generator[tuple[Shard, pa.Table]]:
    """The shards' tables, each when any worker has it. A worker that dies is replaced, its shards given out again.

    Tables come back to this process, so workers need the dataset and the model, but not the run folder. ``open_items``
    streams the dataset's ``rows`` items from one on; it and ``make_stage`` are pickled and called in workers. These are
    one for each GPU, or without ``use_gpu`` for each machine, unless their number is named. ``reports`` takes the
    largest numbers that each one's stage reports, by machine and process.

    Raises:
        RipcurrentError: The cluster has no room, a worker's own error, or workers that died over the same task again
            and again.
    """
    workers, threads = places(ray.nodes(), workers, len(shards), use_gpu=use_gpu)
    attempts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Attempts).remote()
    # an item is a task's shards, and a batch an item: Ray joins blocks that are smaller than a batch
    each = -(-len(shards) // TASKS)
    items = [{"shards": [asdict(one) for one in shards[at : at + each]]} for at in range(0, len(shards), each)]
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    # a worker's every shard comes back by itself, not when its task has a large block together
    context.target_max_block_size = 1
    context.wait_for_min_actors_s = STARTS_WITHIN
    with ray.data.DataContext.current(context):
        results = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            Worker,
            batch_size=1,
            batch_format="pyarrow",
            fn_constructor_args=(open_items, rows, make_stage, attempts, threads, Path.cwd()),
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
            # so that all find a place beside other work; Ray spreads them over the machines
            num_cpus=1,
            num_gpus=1 if use_gpu else None,
        )
    pending = set(shards)
    try:
        for batch in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for packed in batch["answer"].to_pylist():
                shard, table, error, worker, report = pickle.loads(packed)
                if error is not None:
                    raise error
                # the larger of each number: with several tasks in flight an older report may come later
                reports[worker] = reports.get(worker, Counter[str]()) | Counter[str](report)
                # a shard that two workers computed, one of them taken for dead, counts once
                if shard in pending:
                    pending.remove(shard)
                    yield shard, table
    except ray.exceptions.GetTimeoutError as error:
        raise RipcurrentError(
            f"Other work holds the cluster: it has no room for {workers} workers.",
            "Wait for that work (`ray status` shows it), or give a smaller --workers.",
            code=ExitCode.NOT_MEASURED,
        ) from error


def places(
    nodes: Sequence[Mapping[str, Any]], workers: int | None, shards: int, *, use_gpu: bool
) -> tuple[int, dict[str, int]]:
    """Number of workers, and threads for each by machine: an equal share of its cores.

    Raises:
        RipcurrentError: The cluster has too few GPUs or cores, whatever other work does.
    """
    kind, what = ("GPU", "GPUs") if use_gpu else ("CPU", "CPU cores")
    alive = {node["NodeID"]: node["Resources"] for node in nodes if node["Alive"]}
    machines = {name: node for name, node in alive.items() if node.get(kind, 0) >= 1}
    there = sum(int(node[kind]) for node in machines.values())
    workers = workers or max(1, there if use_gpu else len(machines))
    if workers > there:
        raise RipcurrentError(
            f"The cluster has {there} {what}, too few for {workers} workers.",
            "Give a smaller --workers, or --device cpu.",
        )
    workers = min(workers, shards)
    beside = -(-workers // len(machines))
    return workers, {name: max(1, int(node.get("CPU", 1)) // beside) for name, node in machines.items()}


class Attempts(Counter[int]):
    """Counts how often each task was begun, in a process of its own, so that the count outlives workers."""

    def begin(self, number: int) -> int:
        """Count one more beginning; returns the count."""
        self[number] += 1
        return self[number]


class Worker:
    """One of the pool's processes."""

    def __init__(
        self,
        open_items: Callable[[int], Iterable[Any]],
        rows: int,
        make_stage: Callable[[], Stage],
        attempts: Any,
        threads: Mapping[str, int],
        folder: Path,
    ) -> None:
        import ray
        import torch

        torch.set_num_threads(threads.get(ray.get_runtime_context().get_node_id(), 1))
        # relative paths are the driver's
        with suppress(OSError):
            os.chdir(folder)
        self._read = ShardReader(open_items, rows)
        self._make_stage = make_stage
        self._begun: Callable[[int], int] = lambda number: ray.get(attempts.begin.remote(number))
        self._stage: Stage | None = None

    def __call__(self, task: pa.Table) -> Iterator[pa.Table]:
        """The answers to a task's shards, one after another."""
        shards = [Shard(**one) for row in task["shards"].to_pylist() for one in row]
        try:
            self._count(shards)
            if self._stage is None:
                # not in the constructor: a process that dies here counts among the task's attempts
                self._stage = self._make_stage()
            for shard, table in score_shards(shards, self._read, self._stage):
                yield self._answer(shard, table, None)
        except DatasetChangedError as error:
            yield self._answer(None, None, error)
        except RipcurrentError as error:
            # not every kind of it can be made again from a pickle
            yield self._answer(None, None, RipcurrentError(error.message, error.hint, code=error.code))

    def _answer(self, shard: Shard | None, table: pa.Table | None, error: RipcurrentError | None) -> pa.Table:
        report = {} if self._stage is None else self._stage.report()
        # a shard with its table, or what ended the work; machine and process; what the stage reports so far
        answer = (shard, table, error, f"{socket.gethostname()}:{os.getpid()}", report)
        return pa.table({"answer": pa.array([pickle.dumps(answer)], pa.large_binary())})

    def _count(self, shards: Sequence[Shard]) -> None:
        """Refuse to begin what has killed as many workers as may die of it."""
        if self._begun(shards[0].number) > ATTEMPTS:
            raise RipcurrentError(
                f"{ATTEMPTS} workers died one after another as they loaded the model or scored rows "
                f"{shards[0].start} to {shards[-1].start + shards[-1].rows - 1}.",
                "Most often they lack memory: lower --workers, and the scan goes on; a smaller --token-budget or "
                "--max-tokens makes another scan, with another --out.",
                code=ExitCode.NOT_MEASURED,
            )
