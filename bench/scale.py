"""Memory and time by number of rows: ``python -m bench.scale [--rows 1000,10000,100000] [--out FOLDER]``.

Generated rows of about 60 tokens, scanned end to end on the embedded model, by representation alone unless
``--signals`` says otherwise, each number of rows in a process of its own. A scan whose figures are in the folder is not
run again, and one that was stopped goes on.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

SIGNALS = ("representation", "gradient", "all")
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1000,10000,100000", help="with commas between (%(default)s)")
    parser.add_argument("--signals", choices=SIGNALS, default=SIGNALS[0], help="which method runs (%(default)s)")
    parser.add_argument("--shard-rows", type=int, default=256, help="rows per shard on disk (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-scale"), help="where rows, runs and figures go")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    sizes = sorted({int(part) for part in given.rows.split(",")})
    print(f"signals {given.signals}, embedded model, a process each", flush=True)
    return report([_measured(rows, given) for rows in sizes])


def generated_rows(count: int) -> Iterator[dict[str, str]]:
    """Rows of plain words: a question, and an answer whose length is log-normal, 512 words at most."""
    generator, vocabulary = np.random.default_rng(0), WORDS.split()
    for number in range(count):
        length = WORDS_A_ROW * generator.lognormal(-(SPREAD**2) / 2, SPREAD)
        words = generator.choice(vocabulary, int(np.clip(length, 2, 512)))
        question = f"Write about the {' and the '.join(words[:2])}, part {number}."
        yield {"instruction": question, "output": " ".join(words).capitalize() + "."}


def _measured(rows: int, given: argparse.Namespace) -> dict[str, Any]:
    """The figures of a scan: those in the folder, or those of a scan made or completed now."""
    run, dataset = given.out / f"run-{rows}-{given.signals}-{given.shard_rows}", given.out / f"rows-{rows}.jsonl"
    figures = run.with_suffix(".json")
    if figures.exists():
        return dict(json.loads(figures.read_text(encoding="utf-8")))
    if not dataset.exists():
        part = dataset.with_suffix(".part")
        part.write_text("".join(json.dumps(row) + "\n" for row in generated_rows(rows)), encoding="utf-8")
        part.replace(dataset)
    resumed = (run / "signals").exists()
    print(f"{rows} rows: scanning{', going on where it stopped' if resumed else ''}", flush=True)
    scan = [sys.executable, "-m", "ripcurrent", "scan", str(dataset), "--out", str(run), "--signals", given.signals]
    seconds, peak, rows_peak = watched([*scan, "--shard-rows", str(given.shard_rows)], run)
    timings = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["timings"]
    table = pq.read_table(run / "scores.parquet", columns=["prompt_tokens", "response_tokens"])
    measured = {
        "rows": rows,
        "mean_tokens": float(np.mean(table["prompt_tokens"].to_numpy() + table["response_tokens"].to_numpy())),
        # of a scan that went on they are the last process's alone
        "seconds": None if resumed else seconds,
        "peak_bytes": None if resumed else peak,
        "rows_peak_bytes": rows_peak,
        "rows_per_second": timings["rows_scored_in_this_call"] / timings["signals"] if timings["signals"] else None,
        "bytes_on_disk": sum(file.stat().st_size for file in run.rglob("*") if file.is_file()),
    }
    figures.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    return measured


def watched(command: Sequence[str], run: Path) -> tuple[float, int, int]:
    """Seconds of a scan, its largest resident set, and the largest once a first shard was done and loading was over."""
    began, before, peak, rows_peak = time.perf_counter(), _shards(run), 0, 0
    # its progress is on stderr and stays; its summary would only be in the way
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            held, at_most = _memory(process.pid)
            peak = max(peak, at_most)
            if _shards(run) > before:
                rows_peak = max(rows_peak, held)
            time.sleep(LOOK_EVERY)
    if process.returncode:
        sys.exit(f"The scan into {run} ended with {process.returncode}; give the same command again.")
    return time.perf_counter() - began, peak, rows_peak


def _memory(pid: int) -> tuple[int, int]:
    """What a process holds and the most that it has held, in bytes; zeros where the system does not tell."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0, 0
    found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", text, re.MULTILINE))
    return int(found.get("VmRSS", 0)) * 1024, int(found.get("VmHWM", 0)) * 1024


def _shards(run: Path) -> int:
    return len(list((run / "signals").glob("shard-*.done")))


def report(measured: list[dict[str, Any]]) -> int:
    """Print the figures and whether memory stays flat; 1 where it does not."""
    print(f"{'rows':>8} {'tokens':>7} {'minutes':>8} {'rows/s':>7} {'peak MB':>8} {'rows MB':>8} {'disk MB':>8}")
    for one in measured:
        minutes = "resumed" if one["seconds"] is None else f"{one['seconds'] / 60:.1f}"
        print(
            f"{one['rows']:>8} {one['mean_tokens']:>7.1f} {minutes:>8} {one['rows_per_second'] or 0:>7.1f} "
            f"{(one['peak_bytes'] or 0) / 1e6:>8.0f} {one['rows_peak_bytes'] / 1e6:>8.0f} "
            f"{one['bytes_on_disk'] / 1e6:>8.1f}"
        )
    if len(measured) == 1 or not all(one["rows_peak_bytes"] and one["peak_bytes"] for one in measured):
        print("memory with rows: no verdict without two scans of one process each")
        return 0
    # loading takes the most where only representations are read, and would hide what grows with the rows
    ratio = measured[-1]["rows_peak_bytes"] / measured[0]["rows_peak_bytes"]
    verdict = "pass" if ratio <= FLAT else "FALLS SHORT"
    print(f"memory with rows, most rows over fewest: {ratio:.2f}   goal ≤ {FLAT}: {verdict}")
    return int(ratio > FLAT)


if __name__ == "__main__":
    sys.exit(main())
