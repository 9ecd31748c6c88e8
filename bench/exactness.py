"""Exactness against one-row autograd on the embedded model: ``python -m bench.exactness [--full]``.

As it is, 16 rows in five batch budgets, with directions from 16 others; ``--full`` takes 48 rows.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.loops import Oracle
from bench.measure import judged, options, sample
from ripcurrent.data import EncodedRow
from ripcurrent.gradients import GradientPass, make_batch, norm_of, plan_batches, set_direction, stack_directions
from ripcurrent.models import load_model
from ripcurrent.statistics import spearman

FILE = "rows/alpaca_en_demo.json"
ROWS, FULL_ROWS, DIRECTION_ROWS = 16, 48, 16
BUDGETS = {"float32": (512, 1024, 4096), "bfloat16": (512, 1024)}
FIGURES = {
    "cosine": ("float32", "largest cosine difference", ".1e", 2e-5),
    "norm": ("float32", "largest relative norm difference", ".1e", 1e-4),
    "spearman": ("bfloat16", "Spearman", ".6f", 0.999),
}
"""Each figure's type in which it has a goal, what it is, its format and the goal; of Spearman more is better."""


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    exact = load_model("embedded", device="cpu", dtype="float32")
    gradient_pass = GradientPass(exact)
    rows, sets = split(sample(exact, FILE, (FULL_ROWS if given.full else ROWS) + DIRECTION_ROWS))
    directions = [set_direction(gradient_pass, chosen).gradient for chosen in sets]
    lengths = np.array([norm_of(direction) for direction in directions])
    dots, norms = Oracle(exact.model).products(rows, directions)
    expected = dots / norms[:, None] / lengths
    print(f"{len(rows)} rows of {FILE}, directions of 8 rows each, cosines against one-row autograd in float32")
    worst: dict[str, dict[str, float]] = {}
    for dtype, budgets in BUDGETS.items():
        if dtype != "float32":
            gradient_pass = GradientPass(load_model("embedded", device="cpu", dtype=dtype))
        stacked = stack_directions(gradient_pass.layers, directions, gradient_pass.dtype)
        for budget in budgets:
            dots, squared = np.zeros((len(rows), 2)), np.zeros(len(rows))
            for places in plan_batches([len(row.tokens) for row in rows], budget):
                signals = gradient_pass.measure(make_batch([rows[p] for p in places], gradient_pass.device), stacked)
                dots[places], squared[places] = signals.dots, signals.squared_norm
            found = dots / np.sqrt(squared)[:, None] / lengths
            figures = {
                "cosine": float(np.abs(found - expected).max()),
                "norm": float(np.abs(np.sqrt(squared) / norms - 1).max()),
                "spearman": min(spearman(found[:, n], expected[:, n]) for n in (0, 1)),
            }
            print(f"  {dtype:<9} budget {budget:>5}: {said(dtype, figures)}", flush=True)
            before = worst.setdefault(dtype, figures)
            worst[dtype] = {key: (min if key == "spearman" else max)(before[key], figures[key]) for key in figures}
    if given.json:
        given.json.write_text(json.dumps({"rows": len(rows), "file": FILE, **worst}, indent=2) + "\n", "utf-8")


def split(sampled: Sequence[EncodedRow]) -> tuple[list[EncodedRow], list[list[EncodedRow]]]:
    """Rows to compare, and those of the two directions, spread among them."""
    apart = np.linspace(0, len(sampled) - 1, DIRECTION_ROWS).round().astype(int)
    rows = [row for place, row in enumerate(sampled) if place not in apart]
    return rows, [[sampled[place] for place in chosen] for chosen in (apart[::2], apart[1::2])]


def verdict(key: str, value: float) -> str:
    """Whether a figure meets its goal."""
    return judged(value, (FIGURES[key][3],), more=key == "spearman")


def said(dtype: str, figures: Mapping[str, float]) -> str:
    """The figures, each with its goal where it has one in this type."""
    return ", ".join(
        f"{label} {figures[key]:{shown}}" + (f" ({verdict(key, figures[key])})" if dtype == of else "")
        for key, (of, label, shown, _) in FIGURES.items()
    )


if __name__ == "__main__":
    main()
