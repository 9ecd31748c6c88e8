"""Which batches this machine scores fastest: the same rows in batches of several sizes, timed side by side.

A scan itself does not choose by timing unless asked to (``_timed_batches.py``): budgets that followed the clock would
give other batches, and other roundings, at another hour (``docs/numerics.md``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ripcurrent.gradients import Halving
from ripcurrent.models import FreedMemory, give_back_freed_memory, peak_bytes, reset_peak
from ripcurrent.scan._signal_stage import PreparedRow, SignalStage

FACTORS = (0.5, 1, 2, 4)
"""Budgets that are tried, times the scan's own."""

TRIAL_BATCHES = 2
"""Rows of so many batches of the largest budget are timed in each budget."""

REPETITIONS = 2
"""The fastest of so many counts, all budgets in turn in each."""


@dataclass(frozen=True, slots=True)
class BatchRate:
    """How fast rows are scored in batches of one budget."""

    token_budget: int
    """Padded tokens a batch at most, or one row."""
    threads: int
    """Processor threads."""
    tokens_per_second: float
    """Tokens scored in a second, padding not counted."""
    peak_memory_bytes: int
    """Peak memory of the process meanwhile, or on CUDA of the device's allocations."""
    ran_out: bool
    """Whether a batch of that size ran out of memory and was measured in halves."""


def tried_budgets(budget: int) -> list[int]:
    """Budgets to try beside one, smallest first."""
    return sorted({max(16, round(factor * budget)) for factor in FACTORS})


def batch_rates(stage: SignalStage, rows: Sequence[PreparedRow]) -> list[BatchRate]:
    """Time the rows in every budget, then in the fastest one with half the processor threads.

    ``rows`` should be of about one length, as those of a shard's batches are.
    """
    threads = torch.get_num_threads()
    settings = [(budget, threads) for budget in tried_budgets(stage.token_budget)]
    found = _timed(stage, rows, settings)
    if stage.chat_model.device.type == "cpu" and threads > 1:
        best = fastest(found)
        try:
            found += _timed(stage, rows, [(best.token_budget, threads // 2)])
        finally:
            torch.set_num_threads(threads)
    return found


def fastest(rates: Sequence[BatchRate]) -> BatchRate:
    """The fastest of those that fit into memory, or of all where none does."""
    return max([rate for rate in rates if not rate.ran_out] or rates, key=lambda rate: rate.tokens_per_second)


def _timed(stage: SignalStage, rows: Sequence[PreparedRow], settings: Sequence[tuple[int, int]]) -> list[BatchRate]:
    """One rate a setting of budget and threads."""
    device = stage.chat_model.device
    tokens = sum(len(piece.tokens) for row in rows for piece in row.pieces)
    seconds: dict[tuple[int, int], float] = {}
    peaks: dict[tuple[int, int], int] = {}
    ran_out: set[tuple[int, int]] = set()
    for _ in range(REPETITIONS):
        for budget, threads in settings:
            torch.set_num_threads(threads)
            give_back_freed_memory()
            reset_peak(device)
            own = replace(stage, token_budget=budget, halving=Halving(), freed=FreedMemory())
            began = time.perf_counter()
            own.compute(rows)
            spent = time.perf_counter() - began
            if own.halving.batches_halved:
                ran_out.add((budget, threads))
            seconds[budget, threads] = min(spent, seconds.get((budget, threads), spent))
            peaks[budget, threads] = max(peak_bytes(device), peaks.get((budget, threads), 0))
    return [BatchRate(*each, tokens / seconds[each], peaks[each], each in ran_out) for each in settings]
