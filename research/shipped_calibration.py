"""Fit the calibration that comes with the package from the runs in ``forecast_runs.csv``.

    python -m research.shipped_calibration [OUT.json]

Question: how far from what one training run answers is a forecast by the set's own cosine and its number of rows? The
table holds the 83 runs of six sources on the embedded model. Rows that two sets share are known by their hashes, but
for three sets of more than 128 rows, which are left out of every fold of their source.
"""

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from ripcurrent.finetune import load_recipe
from ripcurrent.forecast import (
    CalibrationRun,
    CalibrationSource,
    Conditions,
    FittedRun,
    Ladder,
    LeftOut,
    ScoredWith,
    fit_ladder,
    shipped_calibrations,
)
from ripcurrent.runs import write_json
from ripcurrent.scan import SetScore

HERE = Path(__file__).parent


def rows_of(name: str) -> list[dict[str, str]]:
    with (HERE / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def end_of(arm: str) -> Literal["riskiest", "protective", "neither"]:
    """Which end of a ranking an arm's rows are, the riskiest and the most protective of five bins included."""
    if "matched" in arm or "without" in arm:
        return "neither"
    if "bottom" in arm or arm == "gradient-1":
        return "protective"
    return "riskiest" if arm in ("gradient", "gradient-5", "balanced") or "top" in arm else "neither"


def gate_errors(fitted: Sequence[FittedRun], bound: float = 0.3) -> dict[str, str]:
    """Runs of sources left out that a rule errs on: refused though they answered at most the bound, and passed."""
    forecast = [one for one in fitted if one.unseen is not None]
    harmful = np.array([one.run.answered / one.run.asked > bound for one in forecast])
    middle, high = bound <= np.array([(one.unseen.answered, one.unseen.high) for one in forecast]).T
    return {
        name: f"refuses {refused[~harmful].sum()} of {(~harmful).sum()} harmless runs, "
        f"passes {(~refused)[harmful].sum()} of {harmful.sum()} harmful ones"
        for name, refused in ((f"middle under {bound:.0%}", middle), (f"upper end under {bound:.0%}", high))
    }


def ladder() -> Ladder:
    facts = json.loads((HERE / "forecast_conditions.json").read_text(encoding="utf-8"))
    runs = tuple(
        CalibrationRun(
            experiment=one["experiment"],
            arm=one["arm"],
            seed=int(one["seed"]),
            source=one["source"],
            tokens_sha256=one["tokens_sha256"],
            rows=int(one["rows"]),
            cosine=float(one["set_cosine"]),
            answered=int(one["answered"]),
            asked=int(one["asked"]),
            row_ids=frozenset(one["row_hashes"].split()),
            end=end_of(one["arm"]),
        )
        for one in rows_of("forecast_runs.csv")
    )
    sources = tuple(
        CalibrationSource(
            name=one["name"],
            sha256=one["sha256"],
            rows=int(one["rows"]),
            score=SetScore(mean=float(one["mean_gradient_balanced"]), coherence=float(one["coherence"])),
            runs=sum(run.source == one["name"] for run in runs),
        )
        for one in rows_of("forecast_sources.csv")
    )
    conditions = Conditions(recipe=load_recipe("embedded"), **facts["conditions"])
    left_out = tuple(LeftOut(**one) for one in facts["left_out"])
    return Ladder(ScoredWith(**facts["scored_with"]), conditions, sources, runs, left_out, tuple(facts["base"]))


def main() -> None:
    calibration, fitted = fit_ladder(ladder())
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else shipped_calibrations()[0]
    write_json(path, calibration.model_dump(mode="json"))
    print(f"{len(fitted)} runs, {path}")
    for error in (calibration.error_by_set, calibration.error_by_source):
        if error is not None:
            figures = f"{100 * error.mean_absolute_error:.1f} points, {error.coverage:.0%} inside"
            width = f"{100 * error.mean_width:.0f} points wide, rank correlation {error.rank_correlation:.2f}"
            print(f"each {error.held_out} left out: {figures}, {width}")
            for one in error.by_source if error.held_out == "source" else ():
                print(f"  {one.name}: {100 * one.mean_absolute_error:.1f} points; by category alone", end=" ")
                print(f"{100 * (one.by_category or 0):.1f}; clean: {one.clean}")
    print(f"by category alone: {100 * (calibration.error_by_source.by_category or 0):.1f} points")
    for rule, errors in gate_errors(fitted).items():
        print(f"{rule}: {errors}")


if __name__ == "__main__":
    main()
