"""What batches of made-up rows take at their peak."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ripcurrent.data import EncodedRow
from ripcurrent.gradients import SHORTEST_SHARE
from ripcurrent.models import LONGEST_GROUPED, give_back_freed_memory, is_out_of_memory, peak_bytes, reset_peak
from ripcurrent.scan._signal_stage import SignalStage

SMALLEST_PROBE = 64
"""Tokens of the first batch that is tried."""


def probe_peaks(stage: SignalStage, wanted: int, limit: float) -> list[tuple[int, float]]:
    """Tokens and peak bytes of batches of doubling length up to ``wanted``; none that is expected to pass ``limit``.

    The longest row whose attention probabilities are kept is among them: it may take more than a longer one.
    """
    tried: list[tuple[int, float]] = []
    tokens = min(SMALLEST_PROBE, wanted)
    while True:
        peak = _peak_of(stage, tokens)
        # ran out though it was expected to fit, as on a card that others use: the edge is between it and the last
        while tried and peak == math.inf and tokens > tried[-1][0] * 1.1:
            middle = (tried[-1][0] + tokens) // 2
            found = _peak_of(stage, middle)
            if found == math.inf:
                tokens = middle
            else:
                tried.append((middle, found))
        tried.append((tokens, peak))
        if tokens >= wanted or tried[-1][1] > limit:
            return tried
        following = min(2 * tokens, wanted)
        if tokens < LONGEST_GROUPED < following:
            following = LONGEST_GROUPED
        if len(tried) > 1 and peak_at(tried, following) > limit:
            # as far as is expected to fit, so that the edge is measured and not only guessed
            following = largest_within(tried, limit, following)
            if following <= tokens * 1.1:
                return tried
        tokens = following


def for_several_rows(
    stage: SignalStage, budget: int, limit: float, tried: Sequence[tuple[int, float]]
) -> tuple[int, float]:
    """The token budget at which several rows fit too, at most ``budget``, and the most that was found to fit.

    The backward pass keeps the attention probabilities of rows of up to 448 tokens, and none of longer ones, so rows
    of that length may take more than longer ones; and several shorter ones have norms and sums of their own each. So
    batches of rows of that length, half, a quarter and an eighth of it are run, twice as many each time. None is run
    that is expected to pass the limit.
    """
    most = 0.0
    for tokens in (LONGEST_GROUPED, LONGEST_GROUPED // 2, LONGEST_GROUPED // 4, LONGEST_GROUPED // 8):
        rows, wanted = 1, budget // tokens
        if not wanted:
            # no batch has such a row
            continue
        peak = peak_at(tried, tokens)
        a_row = max(0.0, (peak - tried[0][1]) * tokens / max(1, tokens - tried[0][0]))
        while rows < wanted:
            following = min(2 * rows, wanted)
            expected = peak + a_row * (following - rows)
            found = _peak_of(stage, tokens, following) if expected <= limit else expected
            if found > limit:
                # rows a little shorter come to as many tokens, and take as much
                budget = rows * tokens
                break
            a_row = max(a_row, (found - peak) / (following - rows))
            rows, peak = following, found
        most = max(most, peak)
    return budget, most


def _peak_of(stage: SignalStage, tokens: int, rows: int = 1) -> float:
    # no row is longer than the scan's longest, for which the model has positions
    rows, tokens = rows * -(-tokens // stage.max_tokens), min(tokens, stage.max_tokens)
    device = stage.chat_model.device
    generator = np.random.default_rng(tokens)
    vocabulary = int(stage.chat_model.model.get_input_embeddings().weight.shape[0])
    bearing = np.ones(tokens, dtype=np.bool_)
    bearing[0] = False
    # rows that begin alike for just so long that it is shared (signals/_shared_linear.py), where copies are largest
    alike = min(tokens - 1, math.ceil(SHORTEST_SHARE * rows * tokens / max(1, rows - 1)))
    drawn = generator.integers(0, vocabulary, (rows, tokens)).astype(np.int32)
    drawn[:, :alike] = drawn[0, :alike]
    made = [
        EncodedRow(
            index=0,
            status="ok",
            tokens=of_row,
            loss_mask=bearing,
            truncated=False,
            prompt_tokens=1,
            response_tokens=tokens - 1,
            last_prompt=0,
            last_content=tokens - 1,
        )
        for of_row in drawn
    ]
    # what earlier batches left would be counted with this one's, as it is not between two batches of the scan
    give_back_freed_memory()
    reset_peak(device)
    try:
        stage.measure(made)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return math.inf
    return float(peak_bytes(device))


def peak_at(tried: Sequence[tuple[int, float]], tokens: float) -> float:
    """Peak bytes at a length: between measured ones on a line, beyond the last on the curve that the last ones bend."""
    sizes, peaks = [n for n, _ in tried], [peak for _, peak in tried]
    if tokens <= sizes[-1]:
        return float(np.interp(tokens, sizes, peaks))
    if len(tried) == 1:
        return peaks[0] * (tokens / sizes[0]) ** 2
    slope = max(0.0, (peaks[-1] - peaks[-2]) / (sizes[-1] - sizes[-2]))
    # attention grows with the square, so the slope at most doubles when the length does
    further = tokens - sizes[-1]
    return peaks[-1] + slope * further * (1 + further / (2 * sizes[-1]))


def peak_up_to(tried: Sequence[tuple[int, float]], tokens: float) -> float:
    """The largest peak of any length up to that."""
    return max([peak_at(tried, tokens), *(peak for size, peak in tried if size <= tokens)])


def largest_within(tried: Sequence[tuple[int, float]], limit: float, most: int) -> int:
    """The largest number of tokens, up to ``most``, whose expected peak is within ``limit``; 0 when none is."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if peak_at(tried, middle) <= limit:
            low = middle
        else:
            high = middle - 1
    return low
