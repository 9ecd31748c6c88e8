"""Where a scan's time goes, layer by layer and operation by operation: ``python -m bench.profile``.

One batch of each set, as a scan measures it: gradients with both directions and norms, and representations; the batch
is from the middle of the sample by length. First by the clock: the forward pass, the head, the products of each kind of
layer summed over blocks, and what is left of the backward pass. Then under PyTorch's profiler, as shares of the
processor time that operations take themselves.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from torch.profiler import ProfilerActivity, profile

from bench.rows import sample
from bench.speed import SETS, TOKEN_BUDGET
from ripcurrent.gradients import Batch, Directions, FeatureReader, GradientPass, make_batch, stack_directions
from ripcurrent.gradients._plan_batches import plan_batches
from ripcurrent.gradients._recorder import Measure
from ripcurrent.models import load_model

KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "linear", "matmul", "einsum"),
    "softmax and attention": ("softmax", "attention", "masked_fill"),
    "copies": ("copy", "_to_copy", "contiguous", "clone", "cat", "index_select", "gather", "embedding"),
    "sums": ("sum", "norm", "mean", "dot", "var", "cumsum"),
}
"""Words in the names of operations, the first kind that fits counts; what fits none is elementwise or other."""
SHOWN = 6
REPEATED = 5
FORWARD, BACKWARD = "forward pass", "backward pass, products left out"


def main() -> None:
    chat_model = load_model("embedded", device="cpu", dtype="bfloat16")
    gradient_pass, features = GradientPass(chat_model), FeatureReader(chat_model)
    shapes = gradient_pass.catalogue.parameter_shapes()
    generator = torch.Generator().manual_seed(0)
    plain = [{name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} for _ in range(2)]
    directions = stack_directions(gradient_pass.catalogue, plain, chat_model.dtype)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, bfloat16, one batch of {TOKEN_BUDGET} tokens")
    for name, count in SETS.items():
        rows = sample(chat_model, name, count)
        plan = plan_batches([len(row.tokens) for row in rows], TOKEN_BUDGET)
        places = plan[len(plan) // 2]
        batch = make_batch([rows[place] for place in places], chat_model.device)
        print(f"\n{name}: {len(places)} rows of {batch.ids.shape[1]} tokens")
        gradient_pass.measure(batch, directions, features)
        for line in _by_layer(gradient_pass, batch, directions, features):
            print(line)
        with profile(activities=[ProfilerActivity.CPU]) as recorded:
            gradient_pass.measure(batch, directions, features)
        spent = {one.key: one.self_cpu_time_total for one in recorded.key_averages()}
        whole = sum(spent.values())
        kinds: Counter[str] = Counter()
        for operation, microseconds in spent.items():
            kinds[_kind(operation)] += microseconds
        for kind, microseconds in kinds.most_common():
            print(f"  {kind:<24}{microseconds / whole:6.1%}")
        dearest = sorted(spent.items(), key=lambda one: -one[1])[:SHOWN]
        print("  dearest: " + ", ".join(f"{name} {time / whole:.1%}" for name, time in dearest))


def _by_layer(
    gradient_pass: GradientPass, batch: Batch, directions: Directions, features: FeatureReader
) -> Iterator[str]:
    """Milliseconds of the parts of one batch, the mean of ``REPEATED``."""
    spent: Counter[str] = Counter()

    def timed(real: Callable[..., Any], label: Callable[..., str]) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return real(*given, **named)
            finally:
                spent[label(*given)] += time.perf_counter() - began

        return run

    def of_group(consumer: Measure, number: int, group: Any, *rest: Any) -> str:
        return "products of " + ", ".join(site.name.rpartition(".")[2] for site in group.sites)

    base = gradient_pass.catalogue.base
    parts: list[tuple[Any, str, Callable[..., str]]] = [
        (Measure, "take_linear", of_group),
        (Measure, "take_scale", lambda *_: "products of norms"),
        (Measure, "take_table", lambda *_: "products of the embedding"),
        (GradientPass, "_measure_head", lambda *_: "products of the head"),
        (base, "forward", lambda *_: FORWARD),
        (torch.autograd, "backward", lambda *_: BACKWARD),
    ]
    with ExitStack() as stack:
        for owner, name, label in parts:
            stack.enter_context(mock.patch.object(owner, name, timed(getattr(owner, name), label)))
        began = time.perf_counter()
        for _ in range(REPEATED):
            gradient_pass.measure(batch, directions, features)
        whole = time.perf_counter() - began
    inside = sum(each for part, each in spent.items() if part.startswith("products") and "head" not in part)
    spent["head's logits, softmax and gradient"] = (
        whole - spent[FORWARD] - spent[BACKWARD] - spent["products of the head"]
    )
    spent[BACKWARD] -= inside
    for part, seconds in spent.most_common():
        yield f"  {part:<44}{seconds / REPEATED * 1e3:8.1f} ms {seconds / whole:6.1%}"


def _kind(operation: str) -> str:
    bare = operation.removeprefix("aten::")
    for kind, words in KINDS.items():
        if any(word == bare or (len(word) > 3 and word in bare) for word in words):
            return kind
    return "elementwise and other"


if __name__ == "__main__":
    main()
