"""Memory and time by number of rows: ``python -m bench.scale [--rows 1000,10000,100000] [--out FOLDER]``.

Generated rows of about 60 tokens, scanned end to end on the embedded model, by representation alone unless
``--signals`` says otherwise, each number of rows in a process of its own. A scan whose figures are in the folder is not
run again, and one that was stopped goes on. ``--rows 3000 --interrupt 2`` asks something else: whether a scan that is
killed twice and resumed has the scores of one that is not.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SIGNALS = ("representation", "gradient", "all")
SHARD_ROWS = 256
WORDS_A_ROW, SPREAD = 30.0, 0.6
"""Mean words of an answer, and the standard deviation of its length's logarithm, about that of instruction sets."""
FLAT = 1.10
"""Goal: the memory of the largest scan over that of the smallest, once a first shard is done."""
LOOK_EVERY = 0.05
"""Seconds between two looks at a scan: its finished shards, and its memory."""
WORDS = (
    "after again answer autumn because before between boat bread bridge build carry change children city clear cloud "
    "colour corner count country day dinner door early earth evening family field first floor follow forest friend"
)


@dataclass(frozen=True, slots=True)
class Process:
    """One process of a scan, to its end or until it was killed."""

    killed_after: int | None
    """Shards that were finished when it was killed; None when it ended by itself."""
    seconds: float
    """From its start on, loading included."""
    peak_bytes: int
    """Its largest resident set."""
    rows_peak_bytes: int
    """The largest seen once a first shard was done, when loading no longer counts."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", default="1000,10000,100000", help="numbers of rows, with commas between (%(default)s)"
    )
    parser.add_argument("--signals", choices=SIGNALS, default=SIGNALS[0], help="which method runs (%(default)s)")
    parser.add_argument("--shard-rows", type=int, default=SHARD_ROWS, help="rows per shard on disk (%(default)s)")
    parser.add_argument("--interrupt", type=int, metavar="K", help="kill each scan K times, resume it, compare scores")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-scale"), help="where rows, runs and figures go")
    given = parser.parse_args()
    sizes = sorted({int(part) for part in given.rows.split(",")})
    shards = -(-sizes[0] // given.shard_rows)
    if given.interrupt is not None and not 1 <= given.interrupt < shards:
        parser.error(f"{sizes[0]} rows make {shards} shards: --interrupt takes 1 to {shards - 1}")
    given.out.mkdir(parents=True, exist_ok=True)
    if given.interrupt is not None:
        return max([_interrupted(rows, given) for rows in sizes])
    return report([_measured(rows, given) for rows in sizes])


def generated_rows(count: int) -> Iterator[dict[str, str]]:
    """Rows of plain words: a question, and an answer whose length is log-normal, 512 words at most."""
    generator, vocabulary = np.random.default_rng(0), WORDS.split()
    for number in range(count):
        length = WORDS_A_ROW * generator.lognormal(-(SPREAD**2) / 2, SPREAD)
        words = generator.choice(vocabulary, int(np.clip(length, 2, 512)))
        yield {
            "instruction": f"Write about the {' and the '.join(words[:2])}, part {number}.",
            "output": " ".join(words).capitalize() + ".",
        }


def _command(rows: int, run: Path, given: argparse.Namespace) -> list[str]:
    """The scan as a command line; its rows are written where they are not there yet."""
    dataset = given.out / f"rows-{rows}.jsonl"
    if not dataset.exists():
        part = dataset.with_suffix(".part")
        part.write_text("".join(json.dumps(row) + "\n" for row in generated_rows(rows)), encoding="utf-8")
        part.replace(dataset)
    scan = [sys.executable, "-m", "ripcurrent", "scan", str(dataset), "--out", str(run)]
    return [*scan, "--signals", given.signals, "--shard-rows", str(given.shard_rows)]


def run_to(command: Sequence[str], run: Path, kill_at: int | None) -> Process:
    """Run a scan to its end, or kill it (SIGKILL) as soon as its folder holds ``kill_at`` finished shards."""
    began = time.perf_counter()
    # its progress is on stderr and stays; its summary would only be in the way
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    killed_after, before, peak, rows_peak = None, shards_done(run), 0, 0
    try:
        while process.poll() is None:
            held, at_most = _memory(process.pid)
            peak = max(peak, at_most)
            done = shards_done(run)
            if done > before:
                rows_peak = max(rows_peak, held)
            if kill_at is not None and killed_after is None and done >= kill_at:
                process.send_signal(signal.SIGKILL)
                killed_after = done
            time.sleep(LOOK_EVERY)
    except BaseException:
        process.kill()
        raise
    if process.returncode and not (process.returncode == -signal.SIGKILL and killed_after is not None):
        sys.exit(f"The scan into {run} ended with {process.returncode}; give the same command again.")
    if process.returncode == 0:
        killed_after = None
    return Process(killed_after, time.perf_counter() - began, peak, rows_peak)


def _memory(pid: int) -> tuple[int, int]:
    """What a process holds and the most that it has held, in bytes; zeros where the system does not tell."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0, 0
    found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", text, re.MULTILINE))
    return int(found.get("VmRSS", 0)) * 1024, int(found.get("VmHWM", 0)) * 1024


def shards_done(run: Path) -> int:
    """Finished shards in a run folder."""
    return len(list((run / "signals").glob("shard-*.done")))


def _measured(rows: int, given: argparse.Namespace) -> dict[str, Any]:
    """The figures of a scan: those in the folder, or those of a scan made or completed now."""
    run = given.out / f"run-{rows}-{given.signals}-{given.shard_rows}"
    figures = run.with_suffix(".json")
    if figures.exists():
        return dict(json.loads(figures.read_text(encoding="utf-8")))
    resumed = (run / "signals").exists()
    print(f"{rows} rows: scanning{', going on where it stopped' if resumed else ''}", flush=True)
    process = run_to(_command(rows, run, given), run, None)
    timings = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["timings"]
    table = pq.read_table(run / "scores.parquet", columns=["prompt_tokens", "response_tokens"])
    measured = {
        "rows": rows,
        "signals": given.signals,
        "mean_tokens": float(np.mean(table["prompt_tokens"].to_numpy() + table["response_tokens"].to_numpy())),
        # of a scan that went on they are the last process's alone
        "seconds": None if resumed else process.seconds,
        "peak_bytes": None if resumed else process.peak_bytes,
        "rows_peak_bytes": process.rows_peak_bytes,
        "rows_per_second": timings["rows_scored_in_this_call"] / timings["signals"] if timings["signals"] else None,
        "bytes_on_disk": sum(file.stat().st_size for file in run.rglob("*") if file.is_file()),
    }
    figures.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    return measured


def report(measured: list[dict[str, Any]]) -> int:
    """Print the figures and whether memory stays flat; 1 where it does not."""
    print(f"\nsignals {measured[0]['signals']}, embedded model, a process each; peaks of all and past a first shard")
    print(f"{'rows':>8} {'tokens':>7} {'minutes':>8} {'rows/s':>7} {'peak MB':>8} {'rows MB':>8} {'disk MB':>8}")
    for one in measured:
        minutes = "resumed" if one["seconds"] is None else f"{one['seconds'] / 60:.1f}"
        peak = "–" if one["peak_bytes"] is None else f"{one['peak_bytes'] / 1e6:.0f}"
        print(
            f"{one['rows']:>8} {one['mean_tokens']:>7.1f} {minutes:>8} {one['rows_per_second'] or 0:>7.1f} {peak:>8} "
            f"{one['rows_peak_bytes'] / 1e6:>8.0f} {one['bytes_on_disk'] / 1e6:>8.1f}"
        )
    if len(measured) == 1:
        return 0
    if not all(one["rows_peak_bytes"] and one["peak_bytes"] for one in measured):
        print("memory with rows: no verdict, as not every scan was one process")
        return 0
    # loading takes the most where only representations are read, and would hide what grows with the rows
    ratio = measured[-1]["rows_peak_bytes"] / measured[0]["rows_peak_bytes"]
    verdict = "pass" if ratio <= FLAT else "FALLS SHORT"
    print(f"memory with rows, most rows over fewest: {ratio:.2f}   goal ≤ {FLAT}: {verdict}")
    return int(ratio > FLAT)


def _interrupted(rows: int, given: argparse.Namespace) -> int:
    """Scan undisturbed and interrupted, both from nothing, and compare the scores; 0 where they are the same."""
    whole, broken = (given.out / f"interrupted-{rows}" / name for name in ("undisturbed", "interrupted"))
    shutil.rmtree(whole.parent, ignore_errors=True)
    return compare(
        _command(rows, whole, given), _command(rows, broken, given), -(-rows // given.shard_rows), given.interrupt
    )


def compare(undisturbed: Sequence[str], interrupted: Sequence[str], shards: int, kills: int) -> int:
    """Run one command to its end and the other with ``kills`` kills; each names its run folder after ``--out``."""
    whole, broken = (Path(command[command.index("--out") + 1]) for command in (undisturbed, interrupted))
    processes = [run_to(undisturbed, whole, None)]
    for number in range(1, kills + 1):
        # further than the last process came, or nothing would be resumed
        kill_at = max(round(shards * number / (kills + 1)), shards_done(broken) + 1)
        processes.append(run_to(interrupted, broken, kill_at))
    processes.append(run_to(interrupted, broken, None))
    for process in processes:
        ended = "to the end" if process.killed_after is None else f"killed after {process.killed_after} of {shards}"
        print(f"{ended:32} {process.seconds / 60:>8.2f} minutes {process.peak_bytes / 1e6:>8.0f} MB")
    different = differences(*(pq.read_table(run / "scores.parquet") for run in (whole, broken)))
    print("\n".join(different or ["scores.parquet: every value of every column the same"]))
    killed = sum(process.killed_after is not None for process in processes)
    passed = not different and killed == kills
    print(f"killed {killed} times of {kills}, resumed, the same result: {'pass' if passed else 'FALLS SHORT'}")
    return int(not passed)


def differences(one: pa.Table, other: pa.Table) -> list[str]:
    """Columns that are not the same to the bit, a line each; NaN is the same as NaN, and null as null."""
    if one.schema.names != other.schema.names or one.schema.types != other.schema.types:
        return ["the tables have other columns"]
    if one.num_rows != other.num_rows:
        return [f"the tables have {one.num_rows} and {other.num_rows} rows"]
    pairs = ((name, one[name].to_pylist(), other[name].to_pylist()) for name in one.column_names)
    unequal = {name: sum(repr(a) != repr(b) for a, b in zip(left, right, strict=True)) for name, left, right in pairs}
    return [f"{name}: {count} of {one.num_rows} values differ" for name, count in unequal.items() if count]


if __name__ == "__main__":
    sys.exit(main())
