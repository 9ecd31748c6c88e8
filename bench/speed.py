"""Speed of gradient scoring on the embedded model: ``python -m bench.speed [--full | --quick] [--json FILE]``.

As it is, 24 long and 60 short rows, the best of two repetitions, and 10 of the long ones once for the reference's way.
``--full`` takes 96, 240 and 50 rows and three repetitions, ``--quick`` one repetition.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.arithmetic import matmul_peak, useful_flops
from bench.goals import line
from bench.rivals import BatchOneLoop, ReferenceWay
from bench.rows import sample
from ripcurrent.data import EncodedRow
from ripcurrent.gradients import Batch, FeatureReader, GradientPass, make_batch, plan_batches, stack_directions
from ripcurrent.models import load_model

TOKEN_BUDGET = 512
SETS = {"rows/alpaca_en_demo.json": 24, "rows/instruction-data.json": 60}
FULL_SETS = {"rows/alpaca_en_demo.json": 96, "rows/instruction-data.json": 240}
GOALS: dict[str, dict[str, tuple[float, float] | None]] = {
    "rows/alpaca_en_demo.json": {
        "loop": (1.8, 2.0),
        "forwards": (4.6, 4.0),
        "reference": (15.0, 20.0),
        "representation": (1.1, 1.05),
    },
    "rows/instruction-data.json": {
        "loop": (4.0, 5.0),
        "forwards": (5.5, 5.5),
        "reference": None,
        "representation": (1.1, 1.05),
    },
}
"""For each ratio a first goal, and the one after it."""
REFERENCE_ROWS, FULL_REFERENCE_ROWS = 10, 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--full", action="store_true", help="four times the rows, three repetitions")
    size.add_argument("--quick", action="store_true", help="one repetition")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    chat_model = load_model("embedded", device="cpu", dtype="bfloat16")
    gradient_pass, features = GradientPass(chat_model), FeatureReader(chat_model)
    generator = torch.Generator().manual_seed(0)
    shapes = gradient_pass.layers.parameter_shapes()
    plain = [{name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} for _ in range(3)]
    directions = stack_directions(gradient_pass.layers, list(plain[:2]), chat_model.dtype)
    loop = BatchOneLoop(chat_model, plain[:2])
    reference = ReferenceWay(chat_model, plain)
    del plain
    figures: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }
    peak = matmul_peak(chat_model.device)
    figures["matmul_flops"] = peak
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, bf16, budget {TOKEN_BUDGET} tokens")
    print(f"matmul peak measured: {peak / 1e9:.0f} GFLOP/s", flush=True)
    repetitions = 3 if arguments.full else 1 if arguments.quick else 2
    for name, count in (FULL_SETS if arguments.full else SETS).items():
        rows = sample(chat_model, name, count)
        plan = plan_batches([len(row.tokens) for row in rows], TOKEN_BUDGET)
        batches = [make_batch([rows[place] for place in places], chat_model.device) for places in plan]

        timed: dict[str, Callable[[], object]] = {
            "forward": partial(plain_forward, gradient_pass, batches),
            "scan": partial(each, partial(gradient_pass.measure, directions=directions), batches),
            "representation": partial(each, features.forward, batches),
            "loop": partial(loop.run, rows, "sdpa"),
            "loop, our attention": partial(loop.run, rows, chat_model.model.config._attn_implementation),
        }
        best = _interleaved(timed, repetitions)
        wanted = GOALS[name]["reference"]
        reference_rate = None
        if wanted is not None:
            taken = _spread(rows, FULL_REFERENCE_ROWS if arguments.full else REFERENCE_ROWS)
            began = time.perf_counter()
            reference.run(taken)
            reference_rate = len(taken) / (time.perf_counter() - began)
        flops = useful_flops(chat_model.model, rows)
        figures[name] = _report(name, rows, best, reference_rate, flops / peak)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def plain_forward(gradient_pass: GradientPass, batches: list[Batch]) -> None:
    """A plain forward pass in our batches, with the head at loss-bearing positions only."""
    layers = gradient_pass.layers
    with torch.inference_mode():
        for batch in batches:
            hidden = layers.base(input_ids=batch.ids, use_cache=False).last_hidden_state
            row, token = batch.loss_mask[:, 1:].nonzero(as_tuple=True)
            torch.nn.functional.linear(hidden[row, token], layers.head.weight)


def each(function: Callable[[Batch], object], batches: list[Batch]) -> None:
    """Call ``function`` on every batch."""
    for batch in batches:
        function(batch)


def _interleaved(timed: dict[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """Best time of each, all of them in turn in every repetition, after one unmeasured forward pass."""
    timed["forward"]()
    best = dict.fromkeys(timed, float("inf"))
    for _ in range(repetitions):
        for name, function in timed.items():
            began = time.perf_counter()
            function()
            best[name] = min(best[name], time.perf_counter() - began)
    return best


def _spread(rows: list[EncodedRow], count: int) -> list[EncodedRow]:
    return rows[:: max(1, len(rows) // count)][:count]


def _report(
    name: str, rows: list[EncodedRow], best: dict[str, float], reference_rate: float | None, arithmetic: float
) -> dict[str, Any]:
    tokens = sum(len(row.tokens) for row in rows)
    rate = len(rows) / best["scan"]
    found = {
        "loop": best["loop"] / best["scan"],
        "loop, our attention": best["loop, our attention"] / best["scan"],
        "forwards": best["scan"] / best["forward"],
        "representation": best["representation"] / best["forward"],
        "reference": None if reference_rate is None else rate / reference_rate,
        "of_matmul_peak": arithmetic / best["scan"],
    }
    print(
        f"\n{name}: {len(rows)} rows, mean {tokens / len(rows):.0f} tokens, {rate:.1f} rows/s, seconds {_rounded(best)}"
    )
    lines = [
        ("times the batch-1 loop", found["loop"], GOALS[name]["loop"], True),
        ("times the same loop on our attention", found["loop, our attention"], None, True),
        ("times the reference's way", found["reference"], GOALS[name]["reference"], True),
        ("plain forward passes", found["forwards"], GOALS[name]["forwards"], False),
        ("plain forward passes, representation only", found["representation"], GOALS[name]["representation"], False),
        ("of the matmul peak, useful FLOPs", found["of_matmul_peak"], None, True),
        ("times the batch-1 loop, arithmetic alone", best["loop"] / arithmetic, None, True),
    ]
    for label, value, goal, more in lines:
        if value is not None:
            print(line(label, value, goal, more=more))
    return {"rows": len(rows), "mean_tokens": tokens / len(rows), "seconds": best, "rows_per_second": rate, **found}


def _rounded(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in values.items())


if __name__ == "__main__":
    main()
