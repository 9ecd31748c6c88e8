"""What a memory pass over a transient gradient costs, in flops of a matrix product: ``python -m bench.layers``.

The figures behind ``COSTS`` in ``signals/ghost/linear.py``, on this machine and in bfloat16; and the fused attention
kernel beside the grouped products of ``models/_attention.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from ripcurrent.models._attention import grouped_attention
from ripcurrent.signals.ghost.linear import Ways, transient_products

SHAPES = ((3072, 576), (576, 1536), (960, 576), (576, 576))
ROWS_BY_TOKENS = ((18, 57), (6, 180), (2, 442))


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, bfloat16; best of repeated runs")
    print(
        "rows × tokens  out × in     ghost dots  form only  with dots  with norm   dot pass  norm pass (flops/element)"
    )
    for rows, tokens in ROWS_BY_TOKENS:
        for out, inner in SHAPES:
            _layer(rows, tokens, out, inner)
    print("\nattention of 9 heads on 3, width 64, forward and backward, ms: fused, grouped")
    for rows, tokens in ROWS_BY_TOKENS:
        _attention(rows, tokens)


def _layer(rows: int, tokens: int, out: int, inner: int) -> None:
    a, b = torch.randn(rows, tokens, inner).bfloat16(), torch.randn(rows, tokens, out).bfloat16()
    directions = torch.randn(2, out, inner).bfloat16()
    ghost = _best(lambda: [b @ direction for direction in directions])
    form = _best(lambda: transient_products(a, b, directions, Ways(transient_dots=False, transient_norm=False)))
    dots = _best(lambda: transient_products(a, b, directions, Ways(transient_dots=True, transient_norm=False)))
    norm = _best(lambda: transient_products(a, b, directions, Ways(transient_dots=False, transient_norm=True)))
    flops_per_second = 4.0 * rows * tokens * out * inner / ghost
    per_element = flops_per_second / (rows * out * inner)
    print(
        f"{rows:>4} × {tokens:<6} {out:>5} × {inner:<5} {ghost * 1e3:9.2f}  {form * 1e3:9.2f}  {dots * 1e3:9.2f}  "
        f"{norm * 1e3:9.2f}  {(dots - form) * per_element:9.0f}  {(norm - form) * per_element:9.0f}"
    )


def _attention(rows: int, tokens: int) -> None:
    module = nn.Module()
    query = torch.randn(rows, tokens, 9, 64).bfloat16().transpose(1, 2).requires_grad_()
    key, value = (torch.randn(rows, tokens, 3, 64).bfloat16().transpose(1, 2).requires_grad_() for _ in range(2))
    grads = torch.randn(rows, tokens, 9, 64).bfloat16()

    def fused() -> torch.Tensor:
        output = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return output.transpose(1, 2)

    def grouped() -> torch.Tensor:
        return grouped_attention(module, query, key, value, None)[0]

    def both_ways(forward: Callable[[], torch.Tensor]) -> None:
        torch.autograd.grad(forward(), (query, key, value), grads)

    times = [_best(partial(both_ways, forward)) for forward in (fused, grouped)]
    print(f"{rows:>4} × {tokens:<6} " + "  ".join(f"{seconds * 1e3:.2f}" for seconds in times))


def _best(run: Callable[[], object], repetitions: int = 10) -> float:
    run()
    best = float("inf")
    for _ in range(repetitions):
        began = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - began)
    return best


if __name__ == "__main__":
    main()
