"""Do the differences of an experiment hold over runs? Computed again from its stored outcomes.

    python -m research.over_runs research/findings/demo_proof riskiest=random riskiest=same_lengths --out over_runs.csv

A pair is an arm and its control. The run is the unit: Welch's interval over run rates with the prompts' part added.
"""

import argparse
from pathlib import Path

from research.tables import write_table
from ripcurrent.experiment import BASE, HARMFUL, read_outcomes
from ripcurrent.statistics import run_difference


def table(folder: Path, pairs: list[tuple[str, str]]) -> list[dict[str, object]]:
    """By judge and pair: rates of the runs of both, and their difference in points."""
    arms = read_outcomes(folder)
    lines: list[dict[str, object]] = []
    for judge in arms[BASE].runs[0].verdicts:
        tables = {name: of.table(judge, HARMFUL) for name, of in arms.items()}
        for arm, control in pairs:
            found = run_difference(tables[arm], tables[control])
            rates = {
                side: " ".join(f"{100 * one:.1f}" for one in tables[name].mean(axis=0))
                for side, name in (("base", BASE), ("control_runs", control), ("arm_runs", arm))
            }
            lines.append(
                {
                    **{"judge": judge, "arm": arm, "control": control, "requests": len(tables[arm]), **rates},
                    "difference": round(100 * found.difference, 1),
                    **{"low": round(100 * found.low, 1), "high": round(100 * found.high, 1)},
                }
            )
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("pair", nargs="+", help="ARM=CONTROL")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    write_table(table(given.folder, [tuple(one.split("=", 1)) for one in given.pair]), given.out)
