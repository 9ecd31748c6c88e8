"""Who computes a scan's shards: this process, or workers of a Ray cluster."""

import logging
import os
import pickle
import socket
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from ripcurrent.data import Dataset, Row
from ripcurrent.errors import DatasetChangedError, ExitCode, MissingExtraError, RipcurrentError
from ripcurrent.gradients import Directions, in_memory
from ripcurrent.models import ChatModel
from ripcurrent.progress import SilentProgress
from ripcurrent.scan._options import Execution, ScanOptions
from ripcurrent.scan._passes import ScanPasses, SignalStage
from ripcurrent.scan._scan_model import load_scan_model
from ripcurrent.scan._shards import Shard, ShardReader, Tables, score_shards


def scorer(
    execution: Execution, rows: Dataset, options: ScanOptions, count: int, stage: SignalStage
) -> Callable[[Sequence[Shard]], Tables]:
    """How shards of ``count`` rows are scored. Under Ray the stage's model and directions are given up."""
    if execution.executor == "local":
        return partial(score_shards, read=ShardReader(rows.iter_from, count), stage=stage)
    on_gpu = stage.chat_model.device.type == "cuda"

    def score(shards: Sequence[Shard]) -> Tables:
        with ray_cluster(execution.ray_address) as ray:
            found = stage.directions and on_device(stage.directions, torch.device("cpu"))
            elsewhere = RemoteScan(
                # of several, its own GPU
                options.model_copy(update={"device": stage.chat_model.device.type}),
                rows.path,
                rows.sampled_hash(),
                identity_of(stage.chat_model),
                partial(ray.get, ray.put(found)),
                stage.anchor_features,
            )
            # a worker may need this very GPU
            release_stage(stage)
            reader = ShardReader(elsewhere.rows, count)
            for shard, table in score_on_ray(ray, shards, reader, elsewhere.stage, execution.workers, use_gpu=on_gpu):
                stage.on_rows(shard.rows)
                yield shard, table

    return score


@dataclass(frozen=True, slots=True)
class RemoteScan:
    """What another process needs to score the same rows the same way, small enough to send."""

    options: ScanOptions
    path: str
    """The dataset's, from the folder that the scan was started in."""
    sampled: str | None
    """The dataset's `sampled_hash` there."""
    identity: Mapping[str, str]
    """What `identity_of` gives there."""
    directions: Callable[[], Directions | None]
    anchor_features: npt.NDArray[np.float32] | None

    def rows(self, start: int) -> Iterator[Row]:
        """The rows from the ``start``-th on; an error where the dataset is another one here."""
        options = self.options
        rows = options.open(self.path)
        if rows.sampled_hash() != self.sampled:
            raise RipcurrentError(
                f"On {socket.gethostname()} {self.path} is another file than where the scan was started.",
                "Every machine must read the same file: put it on a shared disk.",
            )
        return rows.iter_from(start)

    def stage(self) -> SignalStage:
        """Load the model and make the stage; an error where they do not fit, or scores would differ here."""
        here = socket.gethostname()
        with in_memory(f"The model and the directions on {here}"):
            chat_model = load_scan_model(self.options)
            for what, own in identity_of(chat_model).items():
                if own != self.identity[what]:
                    raise RipcurrentError(
                        f"{here} would give other scores than the process that started the scan: its {what} is "
                        f"{own}, there it is {self.identity[what]}.",
                        "Every machine needs the same model files and package versions: put the model on a shared "
                        "disk, and name --dtype where machines differ.",
                    )
            found = self.directions()
            found = found and on_device(found, chat_model.device)
            return ScanPasses(chat_model, self.options).stage_of(found, self.anchor_features, SilentProgress())


def identity_of(chat_model: ChatModel) -> dict[str, str]:
    """All that a row's scores depend on beside the options, by name."""
    return {
        **{f"version of {package}": version(package) for package in ("ripcurrent", "torch", "transformers")},
        "model's fingerprint": str(chat_model.fingerprint),
        "chat template": str(chat_model.template_sha256),
        "tokenizer": str(chat_model.tokenizer_sha256),
        "compute type": str(chat_model.dtype),
    }


def on_device(found: Directions, device: torch.device) -> Directions:
    """The directions on a device; those that are there share their memory."""
    parts: tuple[Mapping[Any, Tensor], ...] = (found.linear, found.other, found.term_weights, found.entry_of)
    return Directions(found.count, *({key: tensor.to(device) for key, tensor in part.items()} for part in parts))


def release_stage(stage: SignalStage) -> None:
    """Give back the memory of a stage's model and directions, which cannot be used after this."""
    stage.chat_model.model.to("meta")
    if stage.directions is not None:
        for tensor in (*stage.directions.linear.values(), *stage.directions.other.values()):
            # that of a mapped file is no memory of this process
            if tensor.untyped_storage().resizable():
                tensor.untyped_storage().resize_(0)
    if stage.chat_model.device.type == "cuda":
        torch.cuda.empty_cache()


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
DEATHS = 4
"""Number of workers that may die over one shard before the run stops."""
STARTS_WITHIN = 120.0
"""Seconds that the workers may take to start: other work may hold what they need."""


@contextmanager
def ray_cluster(address: str | None) -> Iterator[Any]:
    """Ray with Ray Data, of this machine alone or joined at an address, until the block ends; one that runs stays."""
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
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    options["runtime_env"] = {"env_vars": {name: os.environ[name] for name in PASSED_ON if name in os.environ}}
    try:
        if address is None:
            ray.init(address="local", include_dashboard=False, **options)
        else:
            host, colon, port = address.removeprefix("ray://").rpartition(":")
            # where nobody listens Ray itself tries for minutes on end
            if colon and port.isdecimal():
                socket.create_connection((host.strip("[]"), int(port)), timeout=20.0).close()
            ray.init(address=address, **options)
    # Ray raises a bare Exception when a node does not start in time
    except Exception as error:
        reason = (str(error) or repr(error)).splitlines()[0].rstrip(".")
        failed = f"reached at {address}" if address else "started"
        raise RipcurrentError(
            f"Ray cannot be {failed}: {reason}.",
            "Check the address with `ray status` (a cluster with tokens: with RAY_AUTH_MODE=token), or leave "
            "--ray-address out for this machine alone."
            if address
            else "A machine that is too busy to start it within 30 seconds is the usual cause. Leave --executor ray "
            "out, or try again.",
        ) from error
    try:
        if address is None and (found := ray.nodes()[0]["NodeManagerAddress"]) != "127.0.0.1":
            raise RipcurrentError(
                f"Ray would listen on {found}, where other machines reach it.",
                "It was imported before ripcurrent could say otherwise: start Ray yourself and name its address.",
            )
        yield ray
    finally:
        ray.shutdown()


def score_on_ray(
    ray: Any,
    shards: Sequence[Shard],
    read: ShardReader,
    make_stage: Callable[[], SignalStage],
    workers: int | None = None,
    *,
    use_gpu: bool = False,
    deaths: int = DEATHS,
) -> Tables:
    """The shards' tables, each when any worker has it. A worker that dies is replaced, its shards given out again.

    Workers are one for each GPU, or without ``use_gpu`` for each machine, unless their number is named.
    """
    workers, threads = places(ray.nodes(), workers, len(shards), use_gpu=use_gpu)
    attempts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Attempts).remote()
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.wait_for_min_actors_s = STARTS_WITHIN
    with ray.data.DataContext.current(context):
        # a task is one shard: Ray joins blocks that are smaller than a batch
        results = ray.data.from_items([asdict(one) for one in shards], override_num_blocks=len(shards)).map_batches(
            Worker,
            batch_size=1,
            batch_format="pyarrow",
            fn_constructor_args=(read, make_stage, attempts, deaths, threads, Path.cwd()),
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
            # so that all find a place beside other work; Ray spreads them over the machines
            num_cpus=1,
            num_gpus=1 if use_gpu else None,
        )
    pending = set(shards)
    try:
        for batch in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for packed in batch["answer"].to_pylist():
                shard, answer = pickle.loads(packed)
                if isinstance(answer, RipcurrentError):
                    raise answer
                # a shard that two workers computed, one of them taken for dead, counts once
                if shard in pending:
                    pending.remove(shard)
                    yield shard, answer
    except ray.exceptions.GetTimeoutError as error:
        raise RipcurrentError(
            f"Other work holds the cluster: it has no room for {workers} workers.",
            "Wait for that work (`ray status` shows it), or give a smaller --workers.",
            code=ExitCode.NOT_MEASURED,
        ) from error


def places(
    nodes: Sequence[Mapping[str, Any]], workers: int | None, shards: int, *, use_gpu: bool
) -> tuple[int, dict[str, int]]:
    """Number of workers, and threads for each by machine: an equal share of its cores."""
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
    """Counts how often each shard was begun, in a process of its own, so that the count outlives workers."""

    def begin(self, number: int) -> int:
        """Count one more beginning; returns the count."""
        self[number] += 1
        return self[number]


class Worker:
    """One of the pool's processes."""

    def __init__(
        self,
        read: ShardReader,
        make_stage: Callable[[], SignalStage],
        attempts: Any,
        deaths: int,
        threads: Mapping[str, int],
        folder: Path,
    ) -> None:
        import ray
        import torch

        torch.set_num_threads(threads.get(ray.get_runtime_context().get_node_id(), 1))
        # relative paths are the driver's
        with suppress(OSError):
            os.chdir(folder)
        self._read, self._make_stage, self._deaths = read, make_stage, deaths
        self._begun: Callable[[int], int] = lambda number: ray.get(attempts.begin.remote(number))
        self._stage: SignalStage | None = None

    def __call__(self, task: pa.Table) -> pa.Table:
        """A shard with its table, or with what ended the work."""
        (shard,) = (Shard(**one) for one in task.to_pylist())
        try:
            if self._begun(shard.number) > self._deaths:
                raise RipcurrentError(
                    f"{self._deaths} workers died one after another as they loaded the model or scored rows "
                    f"{shard.start} to {shard.start + shard.rows - 1}.",
                    "Most often they lack memory: lower --workers, and the scan goes on; a smaller --token-budget or "
                    "--max-tokens makes another scan, with another --out.",
                    code=ExitCode.NOT_MEASURED,
                )
            if self._stage is None:
                # not in the constructor: a process that dies here counts among the shard's attempts
                self._stage = self._make_stage()
            ((_, answer),) = score_shards([shard], self._read, self._stage)
        except RipcurrentError as error:
            # not every kind of it can be made again from a pickle
            known = isinstance(error, DatasetChangedError)
            answer = error if known else RipcurrentError(error.message, error.hint, code=error.code)
        return pa.table({"answer": pa.array([pickle.dumps((shard, answer))], pa.large_binary())})
