"""What a memory pass over a transient gradient costs, in flops of a matrix product: ``python -m bench.layers``.

The figures behind ``COSTS`` in ``signals/ghost/linear.py``, on this machine (``--device cuda``: on its GPU) and in
bfloat16; and on a processor the fused attention kernel beside the grouped products of ``models/_attention.py``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from bench.arithmetic import timed
from ripcurrent.gradients.kernels.linear import Ways, transient_products
from ripcurrent.models._attention import grouped_attention
from ripcurrent.models._device import sum_in_float32

SHAPES = {
    "cpu": ((3072, 576), (576, 1536), (960, 576), (576, 576)),
    "cuda": ((16384, 2048), (2048, 8192), (28672, 4096), (4096, 14336), (6144, 4096)),
}
"""Layers of the embedded model, and of Llama's 1B and 8B: out, in."""
ROWS_BY_TOKENS = ((18, 57), (6, 180), (2, 442))
REPETITIONS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    device = torch.device(parser.parse_args().device)
    # as the product's own models are
    sum_in_float32()
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, bfloat16; best of repeated runs")
    print(
        "rows × tokens  out × in     ghost dots  form only  with dots  with norm   dot pass  norm pass (flops/element)"
    )
    for rows, tokens in ROWS_BY_TOKENS:
        for out, inner in SHAPES.get(device.type, SHAPES["cuda"]):
            _layer(rows, tokens, out, inner, device)
    if device.type != "cpu":
        return
    print("\nattention of 9 heads on 3, width 64, forward and backward, ms: fused, grouped")
    for rows, tokens in ROWS_BY_TOKENS:
        _attention(rows, tokens)


def _layer(rows: int, tokens: int, out: int, inner: int, device: torch.device) -> None:
    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device).bfloat16()

    def transient(*, dots: bool, norm: bool) -> float:
        ways = Ways(transient_dots=dots, transient_norm=norm)
        return timed(device, lambda: transient_products(a, b, directions, ways), REPETITIONS)

    a, b, directions = random(rows, tokens, inner), random(rows, tokens, out), random(2, out, inner)
    ghost = timed(device, lambda: [b @ direction for direction in directions], REPETITIONS)
    form, dots, norm = (transient(dots=d, norm=n) for d, n in ((False, False), (True, False), (False, True)))
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

    cpu = torch.device("cpu")
    times = [timed(cpu, partial(both_ways, forward), REPETITIONS) for forward in (fused, grouped)]
    print(f"{rows:>4} × {tokens:<6} " + "  ".join(f"{seconds * 1e3:.2f}" for seconds in times))


if __name__ == "__main__":
    main()
