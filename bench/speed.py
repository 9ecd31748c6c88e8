"""Speed of gradient scoring on the embedded model: ``python -m bench.speed [--full] [--json FILE]``.

As it is, 24 long and 60 short rows, the best of two repetitions, and 10 of the long ones once for the reference's way.
``--full`` takes 96, 240 and 50 rows and three repetitions.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from bench.loops import BatchOneLoop, ReferenceWay
from bench.measure import batches_of, line, machine, matmul_peak, options, sample, useful_flops
from ripcurrent.gradients import Batch, FeatureReader, GradientPass, stack_directions
from ripcurrent.models import load_model

TOKEN_BUDGET = 512
LONG, SHORT = "rows/alpaca_en_demo.json", "rows/instruction-data.json"
SETS = {LONG: 24, SHORT: 60}
REFERENCE_ROWS = 10
RATIOS: dict[str, tuple[str, dict[str, tuple[float, float]]]] = {
    "loop": ("times the batch-1 loop", {LONG: (1.8, 2.0), SHORT: (4.0, 5.0)}),
    "reference": ("times the reference's way", {LONG: (15.0, 20.0)}),
    "forwards": ("plain forward passes", {LONG: (4.6, 4.0), SHORT: (5.5, 5.5)}),
    "representation": ("plain forward passes, representation only", {LONG: (1.1, 1.05), SHORT: (1.1, 1.05)}),
    "of_matmul_peak": ("of the matmul peak, useful FLOPs", {}),
    "loop, arithmetic alone": ("times the batch-1 loop, arithmetic alone", {}),
}
"""Each ratio's label and, by file, a first goal and the one after it."""
LESS_IS_BETTER = ("forwards", "representation")


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    chat_model = load_model("embedded", device="cpu", dtype="bfloat16")
    gradient_pass, features = GradientPass(chat_model), FeatureReader(chat_model)
    generator = torch.Generator().manual_seed(0)
    shapes = gradient_pass.layers.parameter_shapes()
    plain = [{name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} for _ in range(3)]
    directions = stack_directions(gradient_pass.layers, plain[:2], chat_model.dtype)
    loop, reference = BatchOneLoop(chat_model, plain[:2]), ReferenceWay(chat_model, plain)
    del plain
    peak, threads = matmul_peak(chat_model.device), torch.get_num_threads()
    print(f"torch {torch.__version__}, {threads} threads, bf16, budget {TOKEN_BUDGET} tokens")
    print(f"matmul peak measured: {peak / 1e9:.0f} GFLOP/s", flush=True)
    figures: dict[str, object] = {"machine": machine(), "threads": threads, "matmul_flops": peak}
    for name, few in SETS.items():
        rows = sample(chat_model, name, 4 * few if given.full else few)
        batches = batches_of(rows, TOKEN_BUDGET, chat_model.device)
        best = _interleaved(
            {
                "forward": partial(plain_forward, gradient_pass, batches),
                "scan": partial(each, partial(gradient_pass.measure, directions=directions), batches),
                "representation": partial(each, features.forward, batches),
                "loop": partial(loop.run, rows),
            },
            repetitions=3 if given.full else 2,
        )
        if name in RATIOS["reference"][1]:
            wanted = 50 if given.full else REFERENCE_ROWS
            few_rows = rows[:: max(1, len(rows) // wanted)][:wanted]
            began = time.perf_counter()
            reference.run(few_rows)
            best["reference"] = (time.perf_counter() - began) * len(rows) / len(few_rows)
        tokens = sum(len(row.tokens) for row in rows) / len(rows)
        figures[name] = report(name, len(rows), tokens, best, useful_flops(chat_model.model, rows) / peak)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


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


def _interleaved(functions: dict[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """Best time of each, all of them in turn in every repetition, after one unmeasured forward pass."""
    functions["forward"]()
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(repetitions):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            best[name] = min(best[name], time.perf_counter() - began)
    return best


def report(name: str, rows: int, mean_tokens: float, best: dict[str, float], arithmetic: float) -> dict[str, object]:
    """Print each ratio with its goals; ``best`` are seconds, ``arithmetic`` those of the useful FLOPs alone."""
    scan = best["scan"]
    ratios = {key: best[key] / scan for key in ("loop", "reference") if key in best}
    ratios |= {"forwards": scan / best["forward"], "representation": best["representation"] / best["forward"]}
    ratios |= {"of_matmul_peak": arithmetic / scan, "loop, arithmetic alone": best["loop"] / arithmetic}
    print(f"\n{name}: {rows} rows, mean {mean_tokens:.0f} tokens, {rows / scan:.1f} rows/s")
    for key, (label, goals) in RATIOS.items():
        if key in ratios:
            print(line(label, ratios[key], goals.get(name), more=key not in LESS_IS_BETTER))
    return {"rows": rows, "mean_tokens": mean_tokens, "seconds": best, "rows_per_second": rows / scan, **ratios}


if __name__ == "__main__":
    main()
