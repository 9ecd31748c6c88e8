"""``--token-budget auto``: batches of the size that this machine scores fastest, timed once and kept."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from ripcurrent.data import Row
from ripcurrent.errors import RipcurrentError
from ripcurrent.models import cache_folder
from ripcurrent.runs import write_json
from ripcurrent.scan._budget_trial import REPETITIONS, TRIAL_BATCHES, batch_rates, fastest, tried_budgets
from ripcurrent.scan._part import Part
from ripcurrent.scan._parts import plan_file
from ripcurrent.scan._signal_stage import PreparedRow, SignalStage

SAMPLE = 256
"""First rows of the scan, of which those of middling length are timed."""
WORTH = 10
"""A scan must have so many times the tokens that the timing scores, or it is done before timing pays."""
AS_FAST = 0.97
"""The smallest batches that reach this share of the fastest ones' speed are taken: larger ones need more memory."""


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """What was chosen for one kind of pass."""

    token_budget: int
    """Padded tokens per batch."""
    threads: int
    """Processor threads."""
    timed: list[dict[str, Any]]
    """Every size that was timed, as `BatchRate` has it; none where timing would not have paid."""


def batches_path(folder: Path, part: Part | None = None) -> Path:
    """Where a run folder has the plan of a scan, or of one of its parts."""
    return plan_file(folder, "batches", part)


def read_batches(path: Path) -> dict[str, Any]:
    """The plans of a run's passes by kind; empty where none was made."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def with_timed_batches(
    stage: SignalStage, plan_file: Path, rows: Iterable[Row], count: int, on_step: Callable[[str], None]
) -> SignalStage:
    """The stage with the batch size that is fastest here; the process's threads are set to what went with it.

    Taken from the run's own plan, or from an earlier scan by this machine with the same model over rows of such a
    length, or timed now. A stage whose batches are fixed, as the released code's, is left as it is.

    Args:
        stage: The pass's stage, with the device's usual token budget.
        plan_file: Where the plan is kept, as :func:`batches_path` names it.
        rows: Streams the rows that the pass sees.
        count: How many these are.
        on_step: Told of steps.
    """
    if stage.batch_rows is not None:
        return stage
    kind = _kind(stage)
    kept = read_batches(plan_file)
    if kind in kept:
        plan = BatchPlan(**kept[kind])
    else:
        on_step("timing batches of several sizes")
        plan = _chosen(stage, [row for row in stage.prepare(islice(rows, SAMPLE)) if _tokens(row)], count)
        write_json(plan_file, {**kept, kind: asdict(plan)})
    if plan.timed:
        # a scan may go on where there are fewer
        torch.set_num_threads(min(plan.threads, torch.get_num_threads()))
    return replace(stage, token_budget=plan.token_budget)


def _chosen(stage: SignalStage, rows: Sequence[PreparedRow], count: int) -> BatchPlan:
    usual = BatchPlan(stage.token_budget, torch.get_num_threads(), [])
    if not rows:
        return usual
    sizes = tried_budgets(stage.token_budget)
    sample = _middling(rows, TRIAL_BATCHES * max(sizes))
    settings = len(sizes) + (stage.chat_model.device.type == "cpu")
    scored = sum(map(_tokens, sample)) * settings * REPETITIONS
    if count * float(np.mean([_tokens(row) for row in rows])) < WORTH * scored:
        return usual
    cached = cache_folder() / "batches" / f"{_key(stage, sample)}.json"
    with ExitStack() as stack:
        # parts on one machine wait for the first of them; a cache that cannot be written is done without
        with suppress(OSError, NotImplementedError):
            cached.parent.mkdir(parents=True, exist_ok=True)
            if not cached.exists():
                stack.enter_context(FileLock(cached.with_suffix(".lock")))
        if cached.exists():
            return BatchPlan(**json.loads(cached.read_text(encoding="utf-8")))
        plan = _timed(stage, sample)
        with suppress(RipcurrentError):
            write_json(cached, asdict(plan))
        return plan


def _timed(stage: SignalStage, sample: Sequence[PreparedRow]) -> BatchPlan:
    rates = batch_rates(replace(stage, on_rows=lambda done: None), sample)
    best = fastest(rates)
    enough = [rate for rate in rates if not rate.ran_out and rate.tokens_per_second >= AS_FAST * best.tokens_per_second]
    taken = min(enough or [best], key=lambda rate: rate.token_budget)
    return BatchPlan(taken.token_budget, taken.threads, [asdict(rate) for rate in rates])


def _middling(rows: Sequence[PreparedRow], tokens: int) -> list[PreparedRow]:
    """Rows around the middle of the lengths, as those of a shard's batches are of about one, with so many tokens."""
    ordered = sorted(rows, key=_tokens)
    middle = len(ordered) // 2
    order = sorted(range(len(ordered)), key=lambda place: abs(place - middle))
    held = np.cumsum([_tokens(ordered[place]) for place in order])
    return [ordered[place] for place in sorted(order[: int(np.searchsorted(held, tokens)) + 1])]


def _tokens(row: PreparedRow) -> int:
    return sum(len(piece.tokens) for piece in row.pieces if piece.status == "ok")


def _kind(stage: SignalStage) -> str:
    return "gradient" if stage.gradient_pass is not None else "representation"


def _key(stage: SignalStage, sample: Sequence[PreparedRow]) -> str:
    """Names what a timing hangs on: machine, model, pass, versions, and the rows' length to the next power of two."""
    model, device = stage.chat_model, stage.chat_model.device
    length = float(np.median([len(piece.tokens) for row in sample for piece in row.pieces]))
    parts = {
        "machine": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else [platform.node(), platform.machine(), os.cpu_count(), torch.get_num_threads()],
        "device": str(device),
        "model": [model.fingerprint, str(model.dtype), model.scope],
        "attention": model.model.config._attn_implementation,
        "pass": [_kind(stage), stage.features is not None, len(stage.direction_columns)],
        "length": round(math.log2(length)),
        "versions": [version("ripcurrent"), torch.__version__],
    }
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]
