"""What does `check` say of adapters that TRL trained on the demo's riskiest rows, and on its most protective ones?

    python -m research.checked_adapters collect "embedded,1e-3,riskiest=runs/top-0 runs/top-1" … --out outcomes.parquet
    python -m research.checked_adapters table outcomes.parquet --out checks.csv

Each group is a model, a recipe and rows, with the run folder of a check for each training. Outcomes are kept for each
request and run: verdicts, and no answers. The table has the difference of each run, as `check` gave it, and of the runs
together, the run being the unit.
"""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from research.tables import collect_or_table
from ripcurrent.evaluate import EvaluationRun, open_check
from ripcurrent.statistics import run_difference


def outcomes(group: str, folders: str) -> list[dict[str, object]]:
    """A line for each model of each check, request and judge; a base is the same in every check of a group."""
    lines: list[dict[str, object]] = []
    for number, folder in enumerate(folders.split()):
        found = open_check(folder)
        sides: list[tuple[str, EvaluationRun]] = [("after", found.after[0])]
        if number == 0:
            sides.append(("before", found.before))
        lines += [
            {
                **dict(zip(("model", "recipe", "rows"), group.split(","), strict=True)),
                **{"side": side, "run": number, "prompt_id": prompt.id, "axis": prompt.axis},
                **{"judge": judge, "label": verdict.label, "verdict": found.manifest.verdict},
            }
            for side, of in sides
            for judge, verdicts in of.verdicts.items()
            for prompt, verdict in zip(of.prompts, verdicts, strict=True)
        ]
    return lines


def table(path: Path) -> list[dict[str, object]]:
    """By group and judge: before, each run after, their difference over runs, and what `check` said of each run."""
    labels: dict[tuple[str, str, str, str], dict[tuple[str, int], dict[str, bool]]] = {}
    said: dict[tuple[str, str, str], dict[int, str]] = {}
    for row in pq.read_table(path).to_pylist():
        if row["side"] == "after":
            said.setdefault((row["model"], row["recipe"], row["rows"]), {})[row["run"]] = row["verdict"]
        if row["axis"] == "harmful":
            of = labels.setdefault((row["model"], row["recipe"], row["rows"], row["judge"]), {})
            of.setdefault((row["side"], row["run"]), {})[row["prompt_id"]] = row["label"] == "compliance"
    lines: list[dict[str, object]] = []
    for (model, recipe, rows, judge), of in labels.items():
        prompts = sorted(of["before", 0])
        tables = {key: np.array([one[prompt] for prompt in prompts], dtype=float) for key, one in of.items()}
        before = tables.pop(("before", 0))[:, None]
        after = np.stack([tables[key] for key in sorted(tables)], axis=1)
        found = run_difference(after, before, fixed=True)
        lines.append(
            {
                **{"model": model, "recipe": recipe, "rows": rows, "judge": judge, "requests": len(prompts)},
                "before": round(100 * float(before.mean()), 1),
                "after": " ".join(f"{100 * one:.1f}" for one in after.mean(axis=0)),
                "difference": round(100 * found.difference, 1),
                **{"low": round(100 * found.low, 1), "high": round(100 * found.high, 1), "over_runs": found.by_runs},
                "check_said": " ".join(one for _, one in sorted(said[model, recipe, rows].items())),
            }
        )
    return lines


if __name__ == "__main__":
    collect_or_table(__doc__, outcomes, table)
