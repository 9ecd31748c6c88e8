"""Other programs, and processes of ours: run, heard, and stopped with all that they started."""

import multiprocessing
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

from ripcurrent.errors import ExitCode, RipcurrentError

Env = Mapping[str, str]
_groups: set[int] = set()  # of the programs at work
_said: "list[Queue[str | None]]" = []  # in a process of `in_processes`: where what it says goes


def run_logged(words: Sequence[str], env: Env, log: Path, timeout: float | None = None) -> int | None:
    """Run a program, its output in a file; its status, None where ``timeout`` seconds ended it and what it started."""
    how = {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "start_new_session": True}
    with log.open("wb") as output:
        process = subprocess.Popen(words, env=env, stdout=output, **how)  # type: ignore[call-overload]
        _groups.add(process.pid)
        try:
            return int(process.wait(timeout))
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            _groups.discard(process.pid)


def last_lines(log: Path) -> list[str]:
    """The ten last lines of a program's output that say something, without what moves a terminal."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", log.read_text(encoding="utf-8", errors="replace")).replace("\r", "\n")
    lines = ("".join(one if one.isprintable() else " " for one in line).rstrip() for line in text.split("\n"))
    return [line[:300] for line in lines if line][-10:]


def in_processes(
    call: Callable[..., None], tasks: Mapping[str, tuple[object, ...]], envs: Sequence[Env], hear: Callable[[str], None]
) -> Iterator[str]:
    """Do tasks in processes of their own, one for each of the environments; yields a task's name as it ends.

    ``hear`` gets what `say` says there. The first error stops all of them, as do an interruption and this one's end.
    """
    context, others = multiprocessing.get_context("spawn"), multiprocessing.active_children()
    free, said = context.Queue(), context.Queue()
    for env in envs:
        free.put(dict(env))
    threading.Thread(target=lambda: [*map(hear, iter(said.get, None))], daemon=True).start()
    pool = ProcessPoolExecutor(len(envs), context, _begin, (free, said))
    try:
        ends = {pool.submit(call, *given): name for name, given in tasks.items()}
        for end in as_completed(ends):
            end.result()
            yield ends[end]
        pool.shutdown()
    except BrokenProcessPool as error:
        hint = "Was there not enough memory? Give the same command with fewer --jobs: it goes on."
        raise RipcurrentError("A process was killed.", hint, code=ExitCode.NOT_MEASURED) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in {*multiprocessing.active_children()} - {*others}:
            child.terminate()
        said.put(None)


def say(what: str) -> None:
    """Tell the process that started this one."""
    _said[0].put(what)


def _begin(free: "Queue[dict[str, str]]", said: "Queue[str | None]") -> None:
    os.environ.update(free.get())
    _said.append(said)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    parent: Any = multiprocessing.parent_process()
    threading.Thread(target=lambda: _end(parent.join()), daemon=True).start()


def _end(*_: object) -> None:
    for group in _groups:
        os.killpg(group, signal.SIGKILL)
    os._exit(1)
