"""Do representation scores rank rows as gradient scores do, and is that more than response length?

    python -m research.mechanism alpaca=runs/alpaca short=runs/short --out states_and_gradients.csv

Each pool is a finished scan with both signals. Nothing is trained.
"""

import argparse
from pathlib import Path

import numpy as np

from research.tables import interval, partial_spearman, write_table
from ripcurrent.scan import GRADIENT_COLUMNS, REPRESENTATION_COLUMNS, ScanRun
from ripcurrent.statistics import spearman


def pool_rows(name: str, run: ScanRun, seed: int) -> list[dict[str, object]]:
    """Spearman of every representation column with every gradient column of a scan, plain and given length."""
    length = run.floats("response_tokens")
    rows: list[dict[str, object]] = []
    for left in (column for column in REPRESENTATION_COLUMNS if column in run.columns):
        for right in (column for column in GRADIENT_COLUMNS if column in run.columns):
            usable = run.scored & np.isfinite(run.floats(left)) & np.isfinite(run.floats(right))
            if usable.sum() < 4:
                continue
            columns = [values[usable] for values in (run.floats(left), run.floats(right), length)]
            low, high = interval(spearman, *columns[:2], seed=seed)
            given_low, given_high = interval(partial_spearman, *columns, seed=seed)
            rows.append(
                {
                    "dataset": name,
                    "rows": int(usable.sum()),
                    "column": left,
                    "against": right,
                    "spearman": spearman(*columns[:2]),
                    "low": low,
                    "high": high,
                    "spearman_given_length": partial_spearman(*columns),
                    "given_length_low": given_low,
                    "given_length_high": given_high,
                }
            )
    return rows


def main() -> None:
    """Read the pools and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pools", nargs="+", metavar="NAME=FOLDER", help="finished scans")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--out", type=Path, help="CSV file; the terminal unless given")
    arguments = parser.parse_args()
    pools = [pool.partition("=") for pool in arguments.pools]
    rows = [row for name, _, folder in pools for row in pool_rows(name, ScanRun.open(folder), arguments.seed)]
    write_table(rows, arguments.out)


if __name__ == "__main__":
    main()
