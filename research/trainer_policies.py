"""Does it matter to a ranking whose trained tokens are scored?

    python -m research.trainer_policies runs/completion runs/trl --out trainer_policies.csv

The runs are scans of the same rows by the same model and anchors, each with another ``--trainer``. The first is
compared with each of the others. Nothing is trained.
"""

import argparse
from pathlib import Path

import numpy as np

from research.tables import write_table
from ripcurrent.scan import ScanRun
from ripcurrent.statistics import spearman

COLUMNS = ("gradient_bidirectional", "gradient_harmful", "representation_bidirectional", "gradient_norm", "loss")


def compared(first: ScanRun, other: ScanRun, top: int) -> list[dict[str, object]]:
    """One line a column: how alike the two scans rank the rows that both score."""
    both = first.scored & other.scored
    lines: list[dict[str, object]] = []
    for column in COLUMNS:
        one, two = (run.floats(column)[both] for run in (first, other))
        riskiest = [set(np.argsort(-values, kind="stable")[:top].tolist()) for values in (one, two)]
        protective = [set(np.argsort(values, kind="stable")[:top].tolist()) for values in (one, two)]
        lines.append(
            {
                "first": first.options.trainer,
                "other": other.options.trainer,
                "rows": int(both.sum()),
                "column": column,
                "spearman": round(spearman(one, two), 3),
                f"riskiest_{top}_in_common": len(riskiest[0] & riskiest[1]),
                f"protective_{top}_in_common": len(protective[0] & protective[1]),
            }
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--top", type=int, default=100)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    first, *others = map(ScanRun.open, given.runs)
    write_table([line for other in others for line in compared(first, other, given.top)], given.out)


if __name__ == "__main__":
    main()
