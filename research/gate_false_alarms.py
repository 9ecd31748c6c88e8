"""How often does a gate call added rows worse: rows like the others, and rows of which some are the riskiest?

A finished scan's rows are split at random into 300 added ones and the rest. Without a shift each call is a false alarm.
With one, some of the added rows are drawn from the riskiest tenth of their format and length, or are the riskiest
hundred of all.

    python -m research.gate_false_alarms runs/alpaca_2000 runs/alpaca_999 --out research/findings/gate.csv
"""

import argparse
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from research.tables import write_table
from ripcurrent.gate import Comparison, compare, strata_of
from ripcurrent.scan import ScanRun
from ripcurrent.select import FORMAT_TRAITS

ADDED, ALPHA = 300, 0.05
TENTH = (10, 20, 30, 60)
"""How many of the added rows come from the riskiest tenth."""


def rows_of(run: ScanRun) -> tuple[np.ndarray, np.ndarray]:
    """The score and the stratum of each row that has a score."""
    rows = run.ranked()
    traits = np.stack([run.flags(name)[rows] for name in FORMAT_TRAITS], axis=1)
    return run.scores(run.default_ranking)[rows], strata_of(
        traits @ (1 << np.arange(len(FORMAT_TRAITS))), run.floats("response_tokens")[rows]
    )


def riskiest_tenth(scores: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """The rows that are in the riskiest tenth of their stratum."""
    groups = (np.flatnonzero(strata == one) for one in np.unique(strata))
    return np.concatenate([rows[np.argsort(-scores[rows])][: len(rows) // 10] for rows in groups])


def split(
    scores: np.ndarray, strata: np.ndarray, risky: int, of: np.ndarray, random: np.random.Generator
) -> Comparison:
    """A comparison where so many of the added rows are of these, the others any."""
    chosen = random.choice(of, risky, replace=False)
    others = np.setdiff1d(np.arange(len(scores)), chosen)
    added = np.zeros(len(scores), dtype=bool)
    added[chosen] = added[random.choice(others, ADDED - risky, replace=False)] = True
    found = compare(scores, added, strata, alpha=ALPHA)
    assert found is not None
    return found


def main() -> None:
    """Split, and add lines to the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished scans")
    parser.add_argument("--times", type=int, default=1000, help="splits without a shift; with one a fifth of them")
    parser.add_argument("--out", type=Path, help="CSV file; the terminal when left out")
    options, lines = parser.parse_args(), []
    for run in map(ScanRun.open, options.runs):
        scores, strata = rows_of(run)
        about = {"dataset": run.manifest.dataset.name, "rows": len(scores), "model": run.manifest.model.name}
        tenth = riskiest_tenth(scores, strata)
        tenths = [("riskiest tenth of comparable rows", risky, tenth) for risky in TENTH if risky <= len(tenth)]
        for name, risky, of in [("", 0, tenth), *tenths, ("riskiest hundred of all", 100, np.arange(100))]:
            random, times = np.random.default_rng(risky), options.times // (5 if risky else 1)
            found = [split(scores, strata, risky, of, random) for _ in range(times)]
            line = about | {"score": run.default_ranking, "added_rows": ADDED, "risky_rows": risky, "risky_from": name}
            line |= {
                "splits": times,
                "called_worse_percent": f"{100 * np.mean([min(one.p) <= ALPHA for one in found]):.1f}",
            }
            shares = [one.detectable for one in found if one.detectable is not None]
            line["found_at_80_percent_power_from"] = f"{np.median(shares):.2f}"
            lines.append({**line, "date": datetime.now(UTC).date().isoformat(), "version": version("ripcurrent")})
    write_table(lines, options.out)


if __name__ == "__main__":
    main()
