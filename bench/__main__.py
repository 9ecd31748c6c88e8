"""``python -m bench [--full] [--write PAGE]``: exactness, then speed, on the embedded model.

As it is, 16 rows for exactness; for speed 24 long and 60 short rows, the best of two repetitions, and 10 long rows for
the reference's way: to be done within 20 minutes on two cores. ``--full`` takes 48, 96, 240 and 50 rows and three
repetitions, about an hour.
"""

import datetime
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench.exactness import FIGURES, verdict
from bench.measure import judged, line, options, put_between
from bench.speed import LESS_IS_BETTER, RATIOS, SETS

MINUTES = 20.0
"""Goal for everything, unless it is the full run."""


def main() -> int:
    """Run each in a process of its own, so that none measures the other's memory; the first failure ends it."""
    parser = options(__doc__)
    parser.add_argument("--write", type=Path, help="put the figures as a table between this page's marks")
    given = parser.parse_args()
    full, began, figures = ["--full"] * given.full, time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        for module in ("bench.exactness", "bench.speed"):
            out = Path(folder) / f"{module}.json"
            code = subprocess.run([sys.executable, "-m", module, *full, "--json", str(out)], check=False).returncode
            if code:
                return code
            figures.append(json.loads(out.read_text(encoding="utf-8")))
    minutes = (time.perf_counter() - began) / 60
    print("\n" + line("minutes for exactness and speed", minutes, None if given.full else (MINUTES,)))
    if given.write:
        put_between(given.write, "bench", table(*figures))
    return 0


def table(exactness: dict[str, Any], speed: dict[str, Any]) -> str:
    """Every figure as Markdown, with its goals."""
    lines = [
        f"{datetime.date.today().isoformat()}; {speed['machine']}, {speed['threads']} threads, torch "
        f"{torch.__version__}, {speed['matmul_flops'] / 1e9:.0f} GFLOP/s in bfloat16 products.\n",
        "| figure | rows | value | goals |\n|---|---|---|---|",
    ]
    for key, (dtype, label, shown, _) in FIGURES.items():
        value = exactness[dtype][key]
        lines.append(f"| {label}, {dtype} | {exactness['rows']} rows | {value:{shown}} | {verdict(key, value)} |")
    for name in SETS:
        own = speed[name]
        rows = f"{own['rows']} of {own['mean_tokens']:.0f} tokens"
        lines.append(f"| rows a second | {rows} | {own['rows_per_second']:.2f} | |")
        for key, (label, goals) in RATIOS.items():
            if key in own:
                said = judged(own[key], goals[name], more=key not in LESS_IS_BETTER) if name in goals else ""
                lines.append(f"| {label} | {rows} | {own[key]:.2f} | {said} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
