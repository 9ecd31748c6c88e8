"""What a machine's matrix products reach, and what of it a scan cannot avoid."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from ripcurrent.data import EncodedRow


def useful_flops(model: Any, rows: Sequence[EncodedRow]) -> float:
    """What no exact method avoids: forward, backward to the inputs, and each weight's gradient or as much.

    Two FLOPs a multiply-add, three such products for every weight of a linear layer and token, the head's for
    loss-bearing tokens alone. Attention's own products are left out; what rows have in common counts in each.
    """
    tokens = sum(len(row.tokens) for row in rows)
    bearing = sum(int(row.loss_mask.sum()) for row in rows)
    linear = sum(module.weight.numel() for module in model.model.modules() if isinstance(module, torch.nn.Linear))
    return 6.0 * (linear * tokens + model.lm_head.weight.numel() * bearing)


def timed(device: torch.device, function: Callable[[], object], repetitions: int = 2) -> float:
    """Seconds, the best of so many, after one unmeasured."""
    best = float("inf")
    for repetition in range(repetitions + 1):
        _wait(device)
        began = time.perf_counter()
        function()
        _wait(device)
        if repetition:
            best = min(best, time.perf_counter() - began)
    return best


def matmul_peak(device: torch.device) -> float:
    """FLOP/s of a large product in bfloat16."""
    size = 8192 if device.type == "cuda" else 1024
    one, other = (torch.randn(size, size, device=device).to(torch.bfloat16) for _ in range(2))
    product = torch.empty_like(one)
    return 2 * size**3 / timed(device, partial(torch.mm, one, other, out=product))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
