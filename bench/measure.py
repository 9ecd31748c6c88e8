"""What the benches share: samples of rows, times, a machine's arithmetic, goals, and a table kept in a page."""

import argparse
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ripcurrent.data import EncodedRow, encode_rows, read_rows
from ripcurrent.gradients import Batch, make_batch, plan_batches
from ripcurrent.models import ChatModel


def options(about: str | None) -> argparse.ArgumentParser:
    """A bench's options: how much it measures."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="many more rows, three repetitions")
    return parser


def sample(chat_model: ChatModel, name: str, count: int) -> list[EncodedRow]:
    """``count`` rows of a file in the folder RIPCURRENT_DATA, as long and short as the file's, in its order.

    One row from the middle of each of ``count`` equal parts by length, so that the mean length is the file's, on which
    every figure of speed depends. Ends the run with a clear line when the file is not there.
    """
    path = Path(os.environ.get("RIPCURRENT_DATA", "")) / name
    if "RIPCURRENT_DATA" not in os.environ or not path.exists():
        sys.exit(f"{name} is needed: set RIPCURRENT_DATA to the folder described in docs/data.md.")
    encoded = [row for row in encode_rows(read_rows(path), chat_model.tokenizer) if row.status == "ok"]
    by_length = np.argsort([len(row.tokens) for row in encoded], kind="stable")
    middles = (np.arange(count) + 0.5) * len(encoded) / count
    return [encoded[place] for place in np.unique(by_length[middles.astype(int)])]


def batches_of(rows: Sequence[EncodedRow], budget: int, device: torch.device) -> list[Batch]:
    """Rows in the batches of a scan."""
    plan = plan_batches([len(row.tokens) for row in rows], budget)
    return [make_batch([rows[place] for place in places], device) for places in plan]


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
    """Seconds, the best of ``repetitions``, after one unmeasured."""
    seconds = []
    for _ in range(repetitions + 1):
        _wait(device)
        began = time.perf_counter()
        function()
        _wait(device)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_peak(device: torch.device) -> float:
    """FLOP/s of a large product in bfloat16."""
    size = 8192 if device.type == "cuda" else 1024
    one, other = (torch.randn(size, size, device=device).to(torch.bfloat16) for _ in range(2))
    product = torch.empty_like(one)
    return 2 * size**3 / timed(device, partial(torch.mm, one, other, out=product))


def judged(value: float, goals: Sequence[float], *, more: bool) -> str:
    """One goal, or a first one and the one after it, and whether they are met; ``more`` where more is better."""
    met = [value >= goal if more else value <= goal for goal in goals]
    verdict = "pass" if all(met) else "first goal passed, FALLS SHORT of the second" if met[0] else "FALLS SHORT"
    wanted = " and ".join(f"{'≥' if more else '≤'} {goal:g}" for goal in goals)
    return f"goal{'s' * (len(goals) > 1)} {wanted}: {verdict}"


def line(label: str, value: float, goals: Sequence[float] | None = None, *, more: bool = False) -> str:
    """A figure with its goals, where it has some."""
    return f"  {label:<60} {value:7.3f}" + (f"   {judged(value, goals, more=more)}" if goals else "")


def put_between(path: Path, name: str, text: str) -> None:
    """Write ``text`` between a page's marks of that name; as the whole file where it has none."""
    marks = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    if all(mark in page for mark in marks):
        before, rest = page.split(marks[0], 1)
        text = f"{before}{marks[0]}\n\n{text}\n{marks[1]}{rest.split(marks[1], 1)[1]}"
    path.write_text(text, encoding="utf-8")


def machine() -> str:
    """The CPU's name."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    return named[1].strip() if named else platform.processor() or platform.machine()
