"""A scan within a memory budget: directions in files where they do not fit, and what the manifest keeps of memory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import JsonValue

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.gradients import Directions, GradientPass, MappedStore, stack_directions
from ripcurrent.models import ChatModel, device_peak, memory_in_use
from ripcurrent.scan._environment import size
from ripcurrent.scan._options import ScanOptions

if TYPE_CHECKING:
    from ripcurrent.scan._prepared_anchors import PreparedAnchors

MARGIN = 0.9
"""Share of ``--memory`` that model and directions may fill; batches take the rest."""

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(text: str) -> int:
    """Bytes of a size such as ``8GB`` (powers of a thousand), ``8GiB`` (of 1,024) or a plain number from 1 MB up.

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*", text)
    unit = found[2].upper() or "B" if found else ""
    if found is None or unit not in _UNITS or float(found[1]) <= 0:
        raise ValueError("write a size such as 8GB, 500MB or 6GiB")
    if not found[2] and float(found[1]) < _UNITS["MB"]:
        raise ValueError(f"it has no unit: write {found[1]}GB or {found[1]}MB")
    return int(float(found[1]) * _UNITS[unit])


def scan_directions(
    gradient_pass: GradientPass, anchors: PreparedAnchors, chat_model: ChatModel, options: ScanOptions, folder: Path
) -> Directions:
    """The harmful and the safe direction: in memory, or in files without a name in ``folder`` where they do not fit."""
    stored = [anchors.direction("harmful"), anchors.direction("safe")]
    needed = memory_in_use(chat_model.device) + anchors.directions_bytes()
    if options.memory is None or needed <= options.memory * MARGIN:
        return stack_directions(gradient_pass.layers, stored, chat_model.dtype)
    store = MappedStore(folder)
    stacked = stack_directions(gradient_pass.layers, stored, chat_model.dtype, empty=store.empty, written=store.let_go)
    return store.directions(stacked, chat_model.device)


def memory_record(options: ScanOptions, devices: Sequence[torch.device], batches_halved: int) -> dict[str, JsonValue]:
    """What the manifest keeps of memory: batches halved, the peak on CUDA, and whether ``--memory`` was kept."""
    # of several, the fullest one's
    peak = max(map(device_peak, devices))
    record: dict[str, JsonValue] = {"batches_halved": batches_halved}
    if devices[0].type == "cuda":
        record["device_peak_bytes"] = peak
    if options.memory is not None:
        record |= {"memory": options.memory, "kept": peak <= options.memory}
    return record


def require_room_for_directions(elements: int, chat_model: ChatModel, options: ScanOptions) -> None:
    """Refuse to form an anchor set's direction where it and the copy that is stored pass the budget.

    Raises:
        RipcurrentError: they do; says how much is needed.
    """
    if options.memory is None:
        return
    needed = memory_in_use(chat_model.device) + elements * (4 + chat_model.dtype.itemsize)
    if needed > options.memory:
        smaller = {"all": ["--scope linear or lora"], "linear": ["--scope lora"]}
        ways = ["--signals representation", *smaller.get(options.scope, [])]
        raise RipcurrentError(
            f"Computing the anchors' directions takes {size(needed)}, more than --memory {size(options.memory)}.",
            "Compute them once where there is more memory (a scan with the same model, anchors and options on the same "
            f"kind of device) and bring RIPCURRENT_CACHE here; or use {' or '.join(ways)}.",
            code=ExitCode.NOT_MEASURED,
        )
