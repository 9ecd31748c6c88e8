"""Memory and time by number of rows: ``python -m bench.scale [--rows 1000,10000,100000] [--out FOLDER]``.

Generated rows of realistic lengths, scanned end to end by representation alone on the embedded model, each number of
rows in a process of its own. What was finished in the folder is not run again, and a scan that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SIZES = "1000,10000,100000"
MEAN_TOKENS = 60
SPREAD = 0.6
"""Standard deviation of the logarithm of a response's length, about that of instruction sets."""
FLAT = 1.10
"""The largest scan may take so many times the smallest's peak memory."""
WORDS = (
    "about after again along answer autumn because before begin between boat bread bridge bring build carry change "
    "children choose city clear close cloud cold colour come corner count country day dinner door draw early earth "
    "evening every family farm field find first floor follow forest friend garden give glass green group grow hand "
    "happy harbour heavy help hill history hold home horse hour house idea island keep kitchen lake large later learn "
    "leave letter light line listen little long market measure meet middle mill minute moment moon morning mountain "
    "music name near never night north number ocean often open orange paper part path people picture place plant "
    "point quiet rain read ready river road room round salt school season second seed short simple slow small snow "
    "song south spring square stone story street summer sure table tea thing think three time town train travel tree "
    "under until valley village visit voice wait walk warm water weather week west while wind window winter wood word "
    "work world write year yellow young"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default=SIZES, help="numbers of rows, smallest first, with commas between")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-scale"), help="where rows, runs and figures go")
    arguments = parser.parse_args()
    sizes = sorted({int(part) for part in arguments.rows.split(",")})
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = [_measured(rows, arguments.out) for rows in sizes]
    return _report(found)


def generated_rows(count: int, words_a_row: float, seed: int = 0) -> Iterator[dict[str, str]]:
    """Rows of plain words: a question, and an answer whose length is log-normal around ``words_a_row``, 512 at most."""
    generator, vocabulary = np.random.default_rng(seed), WORDS.split()
    for number in range(count):
        length = words_a_row * generator.lognormal(-(SPREAD**2) / 2, SPREAD)
        words = generator.choice(vocabulary, int(np.clip(length, 2, 512)))
        yield {
            "instruction": f"Write about the {' and the '.join(words[:2])}, part {number}.",
            "output": " ".join(words).capitalize() + ".",
        }


def _words_for(mean_tokens: float) -> float:
    """Words of an answer at which rows have so many tokens on average, template and question included."""
    from ripcurrent.data import Message, Row, encode_rows
    from ripcurrent.models import load_model

    def mean_at(words: float) -> float:
        rows = (
            Row(n, "", (Message("user", r["instruction"]), Message("assistant", r["output"])), None, r)
            for n, r in enumerate(generated_rows(400, words))
        )
        return float(np.mean([len(row.tokens) for row in encode_rows(rows, tokenizer)]))

    tokenizer = load_model("embedded").tokenizer
    low, high = mean_at(8), mean_at(24)
    return max(3.0, 8 + (mean_tokens - low) * 16 / (high - low))


def _measured(rows: int, folder: Path) -> dict[str, Any]:
    """The figures of a scan of so many rows: those that are there, or those of a scan made or completed now."""
    figures = folder / f"rows-{rows}.json"
    if figures.exists():
        print(f"{rows} rows: as measured before ({figures})", flush=True)
        return dict(json.loads(figures.read_text(encoding="utf-8")))
    dataset = folder / f"rows-{rows}.jsonl"
    if not dataset.exists():
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="utf-8") as file:
            for row in generated_rows(rows, _words_for(MEAN_TOKENS)):
                file.write(json.dumps(row) + "\n")
        Path(file.name).replace(dataset)
    run = folder / f"run-{rows}"
    resumed = (run / "signals").exists()
    print(f"{rows} rows: scanning{', going on where it stopped' if resumed else ''}", flush=True)
    command = [sys.executable, "-m", "ripcurrent", "scan", str(dataset), "--out", str(run)]
    command += ["--signals", "representation", "--quiet"]
    began = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"The scan of {rows} rows ended with {process.returncode}; give the same command again to go on.")
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    timings = manifest["timings"]
    measured = {
        "rows": rows,
        "mean_tokens": _mean_tokens(run / "scores.parquet"),
        "seconds": None if resumed else seconds,
        "rows_in_this_call": timings["rows_scored_in_this_call"],
        "rows_per_second": timings["rows_scored_in_this_call"] / timings["signals"] if timings["signals"] else None,
        "seconds_besides_rows": seconds - timings["signals"],
        "peak_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "bytes_on_disk": sum(file.stat().st_size for file in run.rglob("*") if file.is_file()),
        "dtype": manifest["model"]["dtype"],
        "versions": manifest["versions"],
    }
    figures.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    return measured


def _mean_tokens(scores: Path) -> float:
    import pyarrow.parquet as pq

    table = pq.read_table(scores, columns=["prompt_tokens", "response_tokens"])
    return float(np.mean(table["prompt_tokens"].to_numpy() + table["response_tokens"].to_numpy()))


def _report(found: list[dict[str, Any]]) -> int:
    print(f"\nrepresentation only, embedded model, {found[0]['dtype']}, a process each, peak of the whole scan")
    print(f"{'rows':>8} {'tokens':>7} {'minutes':>8} {'rows/s':>7} {'peak MB':>8} {'disk MB':>8}")
    for one in found:
        minutes = "resumed" if one["seconds"] is None else f"{one['seconds'] / 60:.1f}"
        print(
            f"{one['rows']:>8} {one['mean_tokens']:>7.1f} {minutes:>8} {one['rows_per_second'] or 0:>7.1f} "
            f"{one['peak_bytes'] / 1e6:>8.0f} {one['bytes_on_disk'] / 1e6:>8.1f}"
        )
    if len(found) > 1:
        ratio = found[-1]["peak_bytes"] / found[0]["peak_bytes"]
        verdict = "pass" if ratio <= FLAT else "FALL SHORT"
        print(f"peak memory, most rows over fewest: {ratio:.2f}   goal ≤ {FLAT}  {verdict}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
