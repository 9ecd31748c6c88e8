"""What runs in Ray's processes: workers that make a stage once and score the shards they are given."""

from __future__ import annotations

import json
import logging
import os
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
"""Ray's settings unless the environment has others; it reads them when first imported.

Its own warnings stay out of the terminal, and workers are as nice as this process.
"""

ATTEMPTS = 4
"""Number of workers that may die over one task before the run stops."""

RESULT = ("number", "table", "error", "worker", "report")
"""Columns of a worker's answer: the shard, its table as an Arrow stream, or an error as JSON; who it is, and what its
stage reports as JSON."""


def ray_library() -> Any:
    """Ray with Ray Data, quiet and reporting nothing.

    Raises:
        MissingExtraError: It is not installed.
    """
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
        """The value."""
        return ray_library().get(self._reference)


class Attempts:
    """Counts how often each task was begun, in a process of its own, so that the count outlives workers."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, number: int) -> int:
        """Count one more beginning; returns the count."""
        self._begun[number] += 1
        return self._begun[number]


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
                yield self._answer(shard.number, _as_stream(table), None)
        except RipcurrentError as error:
            yield self._answer(None, None, _error_as_text(error))

    def _count(self, shards: Sequence[Shard]) -> None:
        """Refuse to begin what has killed as many workers as may die of it."""
        if ray_library().get(self._attempts.begin.remote(shards[0].number)) > ATTEMPTS:
            raise RipcurrentError(
                f"{ATTEMPTS} workers died one after another as they loaded the model or scored rows "
                f"{shards[0].start} to {shards[-1].start + shards[-1].rows - 1}.",
                "Most often they lack memory: name fewer --workers, and the scan goes on; a smaller --token-budget or "
                "--max-tokens makes another scan, with another --out.",
                code=ExitCode.NOT_MEASURED,
            )

    def _answer(self, number: int | None, table: bytes | None, error: str | None) -> pa.Table:
        report = json.dumps({} if self._stage is None else self._stage.report())
        values = (number, table, error, f"{socket.gethostname()}:{os.getpid()}", report)
        types = (pa.int64(), pa.large_binary(), pa.large_string(), pa.string(), pa.string())
        return pa.table({n: pa.array([v], t) for n, v, t in zip(RESULT, values, types, strict=True)})


def _error_as_text(error: RipcurrentError) -> str:
    changed = isinstance(error, DatasetChangedError)
    return json.dumps({"message": error.message, "hint": error.hint, "code": int(error.code), "changed": changed})


def error_from(text: str) -> RipcurrentError:
    """The error that a worker sent as JSON."""
    found = json.loads(text)
    if found["changed"]:
        return DatasetChangedError(found["message"])
    return RipcurrentError(found["message"], found["hint"], code=ExitCode(found["code"]))


def _as_stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    stream: bytes = sink.getvalue().to_pybytes()
    return stream
