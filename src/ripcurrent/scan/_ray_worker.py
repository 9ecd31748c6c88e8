"""What runs in Ray's processes: workers that make a stage once and score the shards they are given."""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import pyarrow as pa

from ripcurrent.errors import DatasetChangedError, ExitCode, MissingExtraError, RipcurrentError
from ripcurrent.scan._executor import ShardReader, Stage, score_shards
from ripcurrent.scan._shards import Shard

Item = TypeVar("Item")

NO_REPORTS = {"RAY_USAGE_STATS_ENABLED": "0"}
"""Nothing is reported to Ray's makers, whatever the environment says."""
SETTINGS = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_worker_niceness": "0",
}
"""Unless the environment has others: Ray's warnings stay out of the terminal, workers are as nice as this process."""
ATTEMPTS = 4
"""Number of workers that may die over one task before the run stops."""

Answer = tuple[Shard | None, pa.Table | None, RipcurrentError | None, str, dict[str, int]]
"""A worker's: a shard with its table, or what ended the work; machine and process; what its stage reports so far."""


def ray_library() -> Any:
    """Ray with Ray Data, quiet and reporting nothing.

    Raises:
        MissingExtraError: It is not installed.
    """
    # read when Ray is first imported
    os.environ.update(NO_REPORTS)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    for logger in ("ray", "ray.data"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("ray[data]", "ray") from error
    return ray


class Stored:
    """A value in Ray's object store. Arrays in it are read-only and shared by a machine's workers."""

    def __init__(self, reference: Any) -> None:
        self._reference = reference

    def __call__(self) -> Any:
        return ray_library().get(self._reference)


class Attempts(Counter[int]):
    """Counts how often each task was begun, in a process of its own, so that the count outlives workers."""

    def begin(self, number: int) -> int:
        """Count one more beginning; returns the count."""
        self[number] += 1
        return self[number]


class Worker(Generic[Item]):
    """One of the pool's processes."""

    def __init__(
        self,
        open_items: Callable[[int], Iterable[Item]],
        rows: int,
        make_stage: Callable[[], Stage[Item]],
        attempts: Any,
        threads: int,
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self._read = ShardReader(open_items, rows)
        self._make_stage, self._attempts = make_stage, attempts
        self._stage: Stage[Item] | None = None

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
        answer: Answer = (shard, table, error, f"{socket.gethostname()}:{os.getpid()}", report)
        return pa.table({"answer": pa.array([pickle.dumps(answer)], pa.large_binary())})

    def _count(self, shards: Sequence[Shard]) -> None:
        """Refuse to begin what has killed as many workers as may die of it."""
        if ray_library().get(self._attempts.begin.remote(shards[0].number)) > ATTEMPTS:
            raise RipcurrentError(
                f"{ATTEMPTS} workers died one after another as they loaded the model or scored rows "
                f"{shards[0].start} to {shards[-1].start + shards[-1].rows - 1}.",
                "Most often they lack memory: lower --workers, and the scan goes on; a smaller --token-budget or "
                "--max-tokens makes another scan, with another --out.",
                code=ExitCode.NOT_MEASURED,
            )
