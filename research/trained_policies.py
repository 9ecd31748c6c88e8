"""Does training with one trainer tell rows apart that were chosen as another trainer would train them?

    python -m research.trained_policies collect completion=runs/one trl=runs/two --out outcomes.parquet
    python -m research.trained_policies table outcomes.parquet --out trained_policies.csv

Each run is an experiment whose arms were trained by the named policy: ``random``, ``own`` (the riskiest by a scan under
that policy) and ``other`` (by a scan under the other one), with several seeds. Outcomes are kept for each request and
run: verdicts, and no answers.
"""

from itertools import product
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from research.tables import collect_or_table
from ripcurrent.evaluate.judges import WORDING, Answer
from ripcurrent.statistics import run_difference


def outcomes(trainer: str, experiment: str) -> list[dict[str, object]]:
    """A line for each run, request and judge: the stored verdicts, and those of ``wording``."""
    lines: list[dict[str, object]] = []
    for folder in sorted((Path(experiment) / "arms").iterdir()):
        arm, _, seed = folder.name.partition("-seed")
        asked = {
            row["prompt_id"]: row for row in pq.read_table(folder / "evaluation" / "responses.parquet").to_pylist()
        }
        said = [
            (row["prompt_id"], row["judge"], row["label"])
            for row in pq.read_table(folder / "evaluation" / "verdicts.parquet").to_pylist()
        ]
        answers = [Answer(row["prompt"], row["completion"]) for row in asked.values()]
        said += [(own, "wording", one.label) for own, one in zip(asked, WORDING.judge(answers), strict=True)]
        lines += [
            {
                "trainer": trainer,
                "arm": arm,
                "seed": int(seed) if seed else None,
                "prompt_id": prompt,
                "axis": asked[prompt]["axis"],
                "judge": judge,
                "label": label,
            }
            for prompt, judge, label in said
        ]
    return lines


def table(path: Path) -> list[dict[str, object]]:
    """By trainer and judge: each arm's runs, then differences, the run being the unit."""
    labels: dict[tuple[str, str, str], dict[int | None, dict[str, bool]]] = {}
    for row in pq.read_table(path).to_pylist():
        if row["axis"] == "harmful":
            runs = labels.setdefault((row["trainer"], row["judge"], row["arm"]), {})
            runs.setdefault(row["seed"], {})[row["prompt_id"]] = row["label"] == "compliance"
    # shape (prompts, runs), the prompts in one order
    tables = {
        key: np.array([[run[one] for _, run in sorted(runs.items())] for one in sorted(next(iter(runs.values())))])
        for key, runs in labels.items()
    }
    rates = {key: (100 * table.mean(axis=0)).tolist() for key, table in tables.items()}
    trainers, judges = (sorted({key[place] for key in rates}) for place in (0, 1))
    lines: list[dict[str, object]] = []
    for trainer, judge in product(trainers, judges):
        for arm, control in (("base", ""), ("random", ""), ("own", "random"), ("other", "random"), ("own", "other")):
            own, against = rates[trainer, judge, arm], tables.get((trainer, judge, control))
            found = None if against is None else run_difference(tables[trainer, judge, arm], against)
            lines.append(
                {
                    "trained_as": trainer,
                    "judge": judge,
                    "arm": arm,
                    "runs": len(own),
                    "answered": round(float(np.mean(own)), 1),
                    "each_run": " ".join(f"{one:.1f}" for one in own),
                    "against": control,
                    "difference": found and round(100 * found.difference, 1),
                    "low": found and round(100 * found.low, 1),
                    "high": found and round(100 * found.high, 1),
                }
            )
    return lines


if __name__ == "__main__":
    collect_or_table(__doc__, outcomes, table)
