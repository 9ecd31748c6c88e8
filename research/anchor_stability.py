"""How far does a ranking by representation depend on which anchors there are?

    python -m research.anchor_stability runs/alpaca --out anchor_stability.csv

Draws the anchors of every set with replacement from a finished scan's cosines. Nothing is computed again.
"""

import argparse
from pathlib import Path

import numpy as np

from research.tables import Floats, write_table
from ripcurrent.scan import ScanRun, representation_scores
from ripcurrent.statistics import spearman


def riskiest(name: str, values: Floats, top: int) -> set[int]:
    """Places of the riskiest rows; a row that is near the safe anchors is less risky."""
    return set(np.argsort(values if name == "representation_safe" else -values, kind="stable")[:top].tolist())


def stability(run: ScanRun, draws: int, top: int, seed: int) -> list[dict[str, object]]:
    """Of each representation score: how its ranking and its rows' values move under redrawn anchors."""
    order = [name for name, _ in run.manifest.anchors.order]
    own = {name: [place for place, one in enumerate(order) if one == name] for name in dict.fromkeys(order)}
    parts = [cosines[run.scored[rows]] for rows, cosines in run.cosines()]
    cosines = np.concatenate(parts).astype(np.float64)
    random = np.random.default_rng(seed)
    original = representation_scores(cosines, own, run.options.avg_n)
    redrawn = [
        representation_scores(
            cosines, {name: random.choice(of, len(of)).tolist() for name, of in own.items()}, run.options.avg_n
        )
        for _ in range(draws)
    ]
    rows: list[dict[str, object]] = []
    for name, values in original.items():
        drawn = np.array([one[name] for one in redrawn])
        first = riskiest(name, values, top)
        kept = [len(first & riskiest(name, one, top)) / len(first) for one in drawn]
        correlations = [spearman(values, one) for one in drawn]
        widths = np.diff(np.quantile(drawn, [0.025, 0.975], axis=0), axis=0)[0]
        rows.append(
            {
                "dataset": run.manifest.dataset.name,
                "score": name,
                "rows": len(values),
                "draws": draws,
                "spearman": float(np.mean(correlations)),
                "spearman_at_5th_percentile": float(np.quantile(correlations, 0.05)),
                f"of_{top}_riskiest_that_stay": float(np.mean(kept)),
                "at_5th_percentile": float(np.quantile(kept, 0.05)),
                "row_interval_sd": float(np.median(widths) / values.std()),
            }
        )
    return rows


def main() -> None:
    """Read the scan and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a finished scan with representation scores")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--top", type=int, default=100, help="riskiest rows to follow")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="CSV file; the terminal unless given")
    arguments = parser.parse_args()
    write_table(stability(ScanRun.open(arguments.run), arguments.draws, arguments.top, arguments.seed), arguments.out)


if __name__ == "__main__":
    main()
