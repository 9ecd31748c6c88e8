"""A scan that is killed and resumed, beside the same scan undisturbed: are their scores the same, and what did it cost.

Used by ``python -m bench.scale --rows 3000 --interrupt 2``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

LOOK_EVERY = 0.05
"""Seconds between two looks at a scan: how many shards are there, and what it holds."""

Command = Callable[[Path], Sequence[str]]
"""The scan as a command line, given its run folder."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process of a scan, to its end or to its being killed."""

    ended: str
    """How: ``finished``, or ``killed after K of N shards``."""
    seconds: float
    """From its start on, loading included."""
    peak_bytes: int
    """Its largest resident set."""
    rows_peak_bytes: int = 0
    """The largest that was seen with a first shard done, when loading no longer counts."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """An undisturbed scan and an interrupted one."""

    rows: int
    """Rows scanned."""
    shards: int
    """Shards that they make."""
    undisturbed: Process
    """The one process of the undisturbed scan."""
    interrupted: list[Process]
    """The processes of the interrupted one, in order."""
    kills: int
    """How many were asked for."""
    last_rows: int
    """Rows that the last process scored itself."""
    differences: list[str]
    """What differs in the scores, a line for each column; empty when every value of every column is the same."""
    same_bytes: bool
    """Whether the two files are the same byte for byte, metadata included."""

    @property
    def passed(self) -> bool:
        """As often killed as asked for, and every score the same."""
        return not self.differences and len(self.interrupted) == self.kills + 1

    def as_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return {**asdict(self), "passed": self.passed}


def compare(command: Command, folder: Path, rows: int, shards: int, kills: int) -> Comparison:
    """Run a scan once undisturbed and once killed ``kills`` times at even distances; both from nothing."""
    whole, broken = folder / "undisturbed", folder / "interrupted"
    for run in (whole, broken):
        if run.exists():
            shutil.rmtree(run)
    print("undisturbed:", flush=True)
    undisturbed = run_to(command(whole), whole, shards, None)
    processes: list[Process] = []
    for number in range(1, kills + 1):
        # further than the last process came, or nothing would be resumed
        kill_at = max(round(shards * number / (kills + 1)), shards_done(broken) + 1)
        print(f"interrupted: to be killed after {kill_at} of {shards} shards", flush=True)
        processes.append(run_to(command(broken), broken, shards, kill_at))
        if processes[-1].ended == "finished":
            break
    else:
        print("interrupted: to the end", flush=True)
        processes.append(run_to(command(broken), broken, shards, None))
    manifest = json.loads((broken / "manifest.json").read_text(encoding="utf-8"))
    files = [run / "scores.parquet" for run in (whole, broken)]
    return Comparison(
        rows=rows,
        shards=shards,
        undisturbed=undisturbed,
        interrupted=processes,
        kills=kills,
        last_rows=manifest["timings"]["rows_scored_in_this_call"],
        differences=differences(*(pq.read_table(file) for file in files)),
        same_bytes=files[0].read_bytes() == files[1].read_bytes(),
    )


def run_to(command: Sequence[str], run: Path, shards: int, kill_at: int | None) -> Process:
    """Run a scan to its end, or kill it (SIGKILL) as soon as its folder holds ``kill_at`` finished shards."""
    began = time.perf_counter()
    # its progress is on stderr and stays; its summary would only be in the way
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    killed_at = None
    before = shards_done(run)
    peak = rows_peak = 0
    try:
        while True:
            held, at_most = _memory(process.pid)
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            peak = max(peak, at_most)
            done = shards_done(run)
            if done > before:
                rows_peak = max(rows_peak, held)
            if kill_at is not None and killed_at is None and done >= kill_at:
                process.send_signal(signal.SIGKILL)
                killed_at = done
            else:
                time.sleep(LOOK_EVERY)
    except BaseException:
        process.kill()
        raise
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode == 0:
        ended = "finished"
    elif process.returncode == -signal.SIGKILL and killed_at is not None:
        ended = f"killed after {killed_at} of {shards} shards"
    else:
        sys.exit(f"The scan into {run} ended with {process.returncode}; give the same command again.")
    # the kernel's own count includes what this process, which started it, has taken
    peak = peak or usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Process(ended, seconds, peak, rows_peak)


def _memory(pid: int) -> tuple[int, int]:
    """What a process holds and the most that it has held, in bytes; zeros where the system does not tell."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0, 0
    found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", text, re.MULTILINE))
    return int(found.get("VmRSS", 0)) * 1024, int(found.get("VmHWM", 0)) * 1024


def shards_done(run: Path) -> int:
    """Shards of the pass over all rows that a run folder holds, whole."""
    return len(list((run / "signals").glob("shard-*.done")))


def differences(one: pa.Table, other: pa.Table) -> list[str]:
    """Columns that are not the same to the bit, in words; NaN is the same as NaN, and null as null."""
    if one.schema.names != other.schema.names or one.schema.types != other.schema.types:
        return ["the tables have other columns"]
    if one.num_rows != other.num_rows:
        return [f"the tables have {one.num_rows} and {other.num_rows} rows"]
    found = []
    for name in one.column_names:
        left, right = one[name].combine_chunks(), other[name].combine_chunks()
        unequal = int(np.sum(~_equal(left, right)))
        if unequal:
            found.append(f"{name}: {unequal} of {one.num_rows} values differ")
    return found


def _equal(left: pa.Array, right: pa.Array) -> np.ndarray[Any, np.dtype[np.bool_]]:
    missing = left.is_null().to_numpy(zero_copy_only=False), right.is_null().to_numpy(zero_copy_only=False)
    values = [array.to_numpy(zero_copy_only=False) for array in (left, right)]
    same = values[0] == values[1]
    if pa.types.is_floating(left.type):
        same |= np.isnan(values[0]) & np.isnan(values[1])
    result: np.ndarray[Any, np.dtype[np.bool_]] = np.where(missing[0] | missing[1], missing[0] & missing[1], same)
    return result


def lines_of(found: Comparison) -> list[str]:
    """The comparison as a table with a verdict, for the terminal."""
    lines = [f"{'':32} {'minutes':>8} {'peak MB':>8}"]
    together = Process(
        "interrupted, together",
        sum(process.seconds for process in found.interrupted),
        max(process.peak_bytes for process in found.interrupted),
    )
    last = found.interrupted[-1]
    parts = [*found.interrupted[:-1], Process(f"to the end ({found.last_rows} rows)", last.seconds, last.peak_bytes)]
    for process, name in (
        (found.undisturbed, "undisturbed"),
        *((process, f"  {process.ended}") for process in parts),
        (together, together.ended),
    ):
        lines.append(f"{name:32} {process.seconds / 60:>8.2f} {process.peak_bytes / 1e6:>8.0f}")
    times = "once" if found.kills == 1 else "twice" if found.kills == 2 else f"{found.kills} times"
    if len(found.interrupted) <= found.kills:
        lines.append(f"it ended before it could be killed {times}: give more rows or smaller shards")
    lines += [f"scores.parquet: {difference}" for difference in found.differences]
    if not found.differences:
        bytes_too = "the same byte for byte" if found.same_bytes else "other bytes in the file, though"
        lines.append(f"scores.parquet: every value of every column the same; {bytes_too}")
    verdict = "pass" if found.passed else "FALL SHORT"
    lines.append(f"{found.rows} rows, killed {times}, resumed, the same result: {verdict}")
    return lines
