"""What the scripts of this folder share: rank correlations with intervals, CSV files, and their two steps."""

import argparse
import csv
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ripcurrent.statistics import spearman

Floats = npt.NDArray[np.float64]


def interval(measure: Callable[..., float], *columns: Floats, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap over rows of a measure of columns."""
    random = np.random.default_rng(seed)
    places = (random.integers(len(columns[0]), size=len(columns[0])) for _ in range(draws))
    low, high = np.nanquantile([measure(*(column[at] for column in columns)) for at in places], [0.025, 0.975])
    return float(low), float(high)


def partial_spearman(x: Floats, y: Floats, given: Floats) -> float:
    """Rank correlation of two columns of finite values with a third (say, response length) held constant.

    First-order partial correlation of the ranks, ``(r_xy - r_xg r_yg) / sqrt((1 - r_xg^2)(1 - r_yg^2))``; NaN where
    ``given`` determines a column's ranks, as the rest would be rounding noise.
    """
    r_xy, r_xg, r_yg = spearman(x, y), spearman(x, given), spearman(y, given)
    unexplained = (1.0 - r_xg**2) * (1.0 - r_yg**2)
    return float(np.clip((r_xy - r_xg * r_yg) / np.sqrt(unexplained), -1.0, 1.0)) if unexplained > 1e-12 else np.nan


def write_table(rows: Sequence[Mapping[str, object]], out: Path | None) -> None:
    """Rows as CSV, to a file or to the terminal."""
    if not rows:
        sys.exit("There is nothing to write.")
    shown = [{key: f"{one:.4f}" if isinstance(one, float) else one for key, one in row.items()} for row in rows]
    target = sys.stdout if out is None else out.open("w", encoding="utf-8", newline="")
    table = csv.DictWriter(target, list(shown[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(shown)
    if out is not None:
        target.close()


def collect_or_table(
    about: str | None,
    outcomes: Callable[[str, str], list[dict[str, object]]],
    table: Callable[[Path], list[dict[str, object]]],
) -> None:
    """A script's two steps: outcomes of groups, given as NAME=FOLDERS, into Parquet; and that as a table."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("collect", "table"))
    parser.add_argument("given", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    if given.step == "table":
        write_table(table(Path(given.given[0])), given.out)
        return
    groups = (one.partition("=") for one in given.given)
    lines = [line for group, _, folders in groups for line in outcomes(group, folders)]
    pq.write_table(pa.Table.from_pylist(lines), given.out, compression="zstd")
