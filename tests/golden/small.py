"""Small files, and the command line in a process of its own."""

import json
import multiprocessing
import os
import runpy
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from tests.scan_fixtures import good_rows as plain_rows
from tests.scan_fixtures import write_jsonl

__all__ = ["plain_rows", "write_jsonl"]

PATIENCE = 180.0
"""Seconds that one command may take on a busy machine."""


def asked_prompts() -> list[dict[str, str]]:
    """Forty harmful requests, and ten each that only sound dangerous and that are plain."""
    return [
        {"id": f"{axis}-{n}", "prompt": f"{axis} request {n}", "axis": axis, "category": "theft"}
        for axis, count in (("harmful", 40), ("sounds_dangerous", 10), ("plain", 10))
        for n in range(count)
    ]


def read_jsonl(path: Path) -> list[Any]:
    """Read JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@dataclass(frozen=True)
class Said:
    """What one command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Its standard output, which must be one JSON object on one line."""
        (line,) = self.out.splitlines()
        value = json.loads(line)
        assert isinstance(value, dict)
        return value


FORKS = multiprocessing.get_context("forkserver")
"""Commands are forked from a process that has imported the libraries, which takes longer than most commands do."""
FORKS.set_forkserver_preload(["torch", "transformers", "peft", "trl", "datasets", "altair", "pyarrow.parquet"])


@dataclass(frozen=True)
class Begun:
    """A command that runs."""

    process: ForkServerProcess
    streams: Path
    """Folder of the files that it writes its standard output and standard error into."""

    def end(self) -> Said:
        """Wait for it."""
        self.process.join(PATIENCE)
        assert self.process.exitcode is not None, "the command does not end"
        said = Said(self.process.exitcode, *((self.streams / name).read_text(encoding="utf-8") for name in "12"))
        shutil.rmtree(self.streams)
        return said


def _run(arguments: list[str], environment: dict[str, str], streams: Path) -> None:
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (1, 2):
        os.dup2(os.open(streams / str(number), os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = ["ripcurrent", *arguments]
    runpy.run_module("ripcurrent", run_name="__main__")


def begin(*arguments: object, **environment: str) -> Begun:
    """Start ``ripcurrent`` with these arguments."""
    there = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", **environment}
    streams = Path(mkdtemp(prefix="ripcurrent-streams-"))
    process = FORKS.Process(target=_run, args=([*map(str, arguments)], there, streams))
    process.start()
    return Begun(process, streams)


def ripcurrent(*arguments: object, **environment: str) -> Said:
    """Run ``ripcurrent`` with these arguments."""
    return begin(*arguments, **environment).end()


def asked_for_json(*arguments: object, codes: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """Run a command with ``--json``; returns its object."""
    said = ripcurrent(*arguments, "--json")
    assert said.code in codes, said.err
    return said.json


def stop_once(there: Callable[[], bool], sign: signal.Signals, *arguments: object) -> Said:
    """Start a command and stop it by a signal as soon as something is there; it may not end by itself."""
    begun = begin(*arguments)
    until = time.monotonic() + PATIENCE
    while begun.process.is_alive() and not there():
        assert time.monotonic() < until, "the command leaves nothing to wait for"
        time.sleep(0.002)
    os.kill(begun.process.pid or 0, sign)
    said = begun.end()
    assert said.code in (-sign, 128 + sign), said
    return said


def any_file(folder: Path, *patterns: str) -> Callable[[], bool]:
    """Whether a folder holds a file of one of these patterns that is not empty."""

    def there() -> bool:
        try:
            return any(path.stat().st_size > 0 for pattern in patterns for path in folder.glob(pattern))
        except OSError:
            # a file was renamed while it was looked at
            return False

    return there
