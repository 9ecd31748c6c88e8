"""What runs in Ray's processes: workers that hold a stage and run shards, and the count of what killed them."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, runtime_checkable

import pyarrow as pa

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.scan._executor import PreparingStage, Stage
from ripcurrent.scan._ray_library import ray_library
from ripcurrent.scan._shards import Shard

if TYPE_CHECKING:
    import numpy.typing as npt

Item = TypeVar("Item")

ATTEMPTS = 4
"""How many workers may die over one shard before the run stops."""


class StoredArray:
    """An array in Ray's object store."""

    def __init__(self, reference: Any) -> None:
        self._reference = reference

    def get(self) -> npt.NDArray[Any]:
        """The array, read-only and shared with the other workers of this machine."""
        array: npt.NDArray[Any] = ray_library().get(self._reference)
        return array


class Attempts:
    """Counts how often each thing was begun, in a process of its own, so that the count outlives workers."""

    def __init__(self) -> None:
        self._begun: dict[int, int] = {}

    def begin(self, number: int) -> int:
        """Count one more beginning; returns how many there were with it since the last success."""
        self._begun[number] = self._begun.get(number, 0) + 1
        return self._begun[number]

    def succeed(self, number: int) -> None:
        """Forget the beginnings so far."""
        self._begun.pop(number, None)


MAKING = -1
"""In place of a shard's number: making the stage, which loads the model."""

RESULT = ("number", "table", "error", "worker", "report")
"""Columns of what a worker gives back: the shard's number, its table as an Arrow stream, or an error as JSON; who it
is, and what its stage has to report so far as JSON."""


@runtime_checkable
class Reporting(Protocol):
    """A stage that has more to tell than its tables."""

    def report(self) -> dict[str, int]:
        """Numbers by name, of all that it did so far."""


@runtime_checkable
class Skipping(Protocol):
    """A stream that steps over items more cheaply than by giving them."""

    def skip(self, count: int) -> None:
        """Step over so many items, or as many as are left."""


class Worker(Generic[Item]):
    """One of the pool's processes: holds the stage, reads shards' rows and runs it."""

    def __init__(
        self,
        open_items: Callable[[int], Iterable[Item]],
        make_stage: Callable[[], Stage[Item]],
        attempts: Any,
        threads: int,
        workers: int,
    ) -> None:
        self._open_items = open_items
        self._attempts = attempts
        self._items: Iterator[Item] = iter(())
        self._at: int | None = None
        self._stage: Stage[Item] | None = None
        self._error: RipcurrentError | None = None
        _use_threads(threads)
        try:
            # every worker of the pool may be making its stage at once
            self._count(MAKING, ATTEMPTS * workers, "before they had loaded the model")
            self._stage = make_stage()
            ray_library().get(attempts.succeed.remote(MAKING))
        except RipcurrentError as error:
            self._error = error

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """The results of a task's shards, one after another; while one is computed, the next is read and prepared."""
        shards = [shard for task in batch["shards"].to_pylist() for shard in json.loads(task)]
        with ThreadPoolExecutor(1, "next-shard") as ahead:
            coming = ahead.submit(self._prepared, **shards[0])
            for place, described in enumerate(shards):
                waiting = coming
                if place + 1 < len(shards):
                    coming = ahead.submit(self._prepared, **shards[place + 1])
                yield self._one(**described, waiting=waiting)

    def _prepared(self, number: int, start: int, rows: int) -> list[Any]:
        """A shard's items as the stage's second step wants them; nothing where there is no stage."""
        if self._stage is None:
            return []
        items = self._read(start, rows)
        return list(self._stage.prepare(items)) if isinstance(self._stage, PreparingStage) else items

    def _one(self, number: int, start: int, rows: int, waiting: Future[list[Any]]) -> pa.Table:
        table, error = None, self._error
        if self._stage is not None:
            compute = self._stage.compute if isinstance(self._stage, PreparingStage) else self._stage
            try:
                self._count(number, ATTEMPTS, f"over rows {start} to {start + rows - 1}")
                table = _as_stream(compute(waiting.result()))
                # a task of several shards is redone whole when its worker dies: those that were done are no cause
                self._attempts.succeed.remote(number)
            except RipcurrentError as raised:
                error = raised
        types = (pa.int64(), pa.large_binary(), pa.large_string(), pa.string(), pa.string())
        report = json.dumps(self._stage.report() if isinstance(self._stage, Reporting) else {})
        who = f"{socket.gethostname()}:{os.getpid()}"
        values = (number, table, None if error is None else _error_as_text(error), who, report)
        return pa.table({n: pa.array([v], t) for n, v, t in zip(RESULT, values, types, strict=True)})

    def _count(self, number: int, most: int, where: str) -> None:
        """Refuse to begin what has killed as many workers as may die of it."""
        begun = ray_library().get(self._attempts.begin.remote(number))
        if begun > most:
            raise RipcurrentError(
                f"{most} workers died one after another {where}.",
                "Most often they lack memory: name fewer --workers, and the scan goes on; a smaller --token-budget or "
                "--max-tokens makes another scan, with another --out.",
                code=ExitCode.NOT_MEASURED,
            )

    def _read(self, start: int, rows: int) -> list[Item]:
        # shards come in rising order as a rule: reading on is cheaper than opening the dataset anew
        if self._at is None or not self._at <= start:
            self._items, self._at = iter(self._open_items(start)), start
        others = start - self._at
        if isinstance(self._items, Skipping):
            self._items.skip(others)
        else:
            for _ in islice(self._items, others):
                pass
        items = list(islice(self._items, rows))
        self._at = start + rows
        if len(items) != rows:
            raise RipcurrentError(
                f"On {socket.gethostname()} the dataset has {len(items)} rows from row {start} on, not {rows}.",
                "Every machine must read the same file: put it on a shared disk.",
            )
        return items


def task_of(shards: Sequence[Shard]) -> dict[str, str]:
    """A worker's task: shards that it computes one after another."""
    return {"shards": json.dumps([{"number": one.number, "start": one.start, "rows": one.rows} for one in shards])}


def _error_as_text(error: RipcurrentError) -> str:
    return json.dumps({"message": error.message, "hint": error.hint, "code": int(error.code)})


def error_from(text: str) -> RipcurrentError:
    """The error that a worker sent as JSON."""
    found = json.loads(text)
    return RipcurrentError(found["message"], found["hint"], code=ExitCode(found["code"]))


def _as_stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    stream: bytes = sink.getvalue().to_pybytes()
    return stream


def _use_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
