"""How often is an arm called worse than its control where both differ in luck alone?

Answers are simulated: a prompt has its own difficulty, and a run its own shift, both normal on the logit scale. Their
sizes give a base rate of a third and the run-to-run spread that was measured on the embedded model, 4.6 points. The
verdict by runs is `ripcurrent.statistics.run_difference`; beside it is what a permutation over prompts would say, which
takes the runs for fixed. Power is that of a true difference of 10 points.

    python -m research.null_verdicts --out research/findings/null_verdicts.csv
"""

import argparse
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from research.tables import Floats, write_table
from ripcurrent.statistics import run_difference

BASE, PROMPT_SPREAD, RUN_SHIFT = -1.2, 1.8, 0.25
RUNS, PROMPTS, EFFECT, FLIPS = (1, 3, 5), (60, 179), 0.10, 999


def outcomes(prompts: Floats, shifts: Floats, random: np.random.Generator) -> Floats:
    """1 where a request is answered, shape ``(prompts, runs)``, from logits of prompts and shifts of runs."""
    shares = 1 / (1 + np.exp(-(prompts[:, None] + shifts[None, :])))
    return (random.random(shares.shape) < shares).astype(np.float64)


def mean_rate(shift: float) -> float:
    """The rate over prompts and runs, by a fine grid of normal quantiles."""
    logits = BASE + shift + np.hypot(PROMPT_SPREAD, RUN_SHIFT) * np.random.default_rng(0).standard_normal(200_000)
    return float((1 / (1 + np.exp(-logits))).mean())


def shift_of(effect: float) -> float:
    """The shift in logits that adds ``effect`` to the rate, by bisection."""
    low, high = 0.0, 3.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_rate(middle) - mean_rate(0.0) < effect else (low, middle)
    return low


def run_spread(random: np.random.Generator) -> float:
    """Standard deviation of runs' rates on the same 179 prompts."""
    tables = (
        outcomes(BASE + PROMPT_SPREAD * random.standard_normal(179), RUN_SHIFT * random.standard_normal(20), random)
        for _ in range(400)
    )
    return float(np.sqrt(np.mean([table.mean(axis=0).var(ddof=1) for table in tables])))


def worse_over_prompts(arm: Floats, control: Floats, random: np.random.Generator) -> bool:
    """Whether a two-sided permutation of the signs of prompts' mean differences calls the arm worse at 5 %."""
    differences = arm.mean(axis=1) - control.mean(axis=1)
    signs = random.integers(0, 2, (FLIPS, len(differences))) * 2 - 1
    extreme = (np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9).sum()
    return bool((extreme + 1) / (FLIPS + 1) < 0.05 and differences.sum() > 0)


def worse_by_runs(arm: Floats, control: Floats) -> bool:
    """Whether the verdict by runs calls the arm worse; of single runs it is none."""
    found = run_difference(arm, control)
    return found.by_runs and found.p < 0.05 and found.difference > 0


def called_worse(runs: int, prompts: int, shift: float, times: int, random: np.random.Generator) -> tuple[float, float]:
    """Shares of simulated pairs that are called worse, by runs and over prompts."""
    found = []
    for _ in range(times):
        ease = BASE + PROMPT_SPREAD * random.standard_normal(prompts)
        arm = outcomes(ease, shift + RUN_SHIFT * random.standard_normal(runs), random)
        control = outcomes(ease, RUN_SHIFT * random.standard_normal(runs), random)
        found.append((worse_by_runs(arm, control), worse_over_prompts(arm, control, random)))
    by_runs, over_prompts = np.mean(found, axis=0)
    return float(by_runs), float(over_prompts)


def main() -> None:
    """Simulate, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=4000, help="simulated pairs of arms for each line")
    parser.add_argument("--out", type=Path, help="CSV file; the terminal when left out")
    options = parser.parse_args()
    random, shift = np.random.default_rng(0), shift_of(EFFECT)
    spread, rows = run_spread(random), []
    for prompts in PROMPTS:
        for runs in RUNS:
            false = called_worse(runs, prompts, 0.0, options.times, random)
            power = called_worse(runs, prompts, shift, options.times, random)
            for place, method in enumerate(("by runs, Student's t", "over prompts, sign flips")):
                rows.append(
                    {
                        "question": "How often is an arm called worse that differs from its control in luck alone?",
                        **{"prompts": prompts, "runs_an_arm": runs, "method": method, "simulations": options.times},
                        "run_spread_points": f"{100 * spread:.1f}",
                        "called_worse_percent": f"{100 * false[place]:.1f}",
                        "found_percent_at_10_points": f"{100 * power[place]:.1f}",
                        **{"date": datetime.now(UTC).date().isoformat(), "version": version("ripcurrent")},
                    }
                )
    write_table(rows, options.out)


if __name__ == "__main__":
    main()
