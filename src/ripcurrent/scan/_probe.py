"""A few real batches of a scan, timed, and what they say of all of it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ripcurrent.anchors import load_anchors
from ripcurrent.gradients import SignalKind
from ripcurrent.models import ChatModel, peak_bytes
from ripcurrent.progress import Progress
from ripcurrent.scan._options import ScanOptions
from ripcurrent.scan._passes import ScanPasses
from ripcurrent.scan._prepared_anchors import prepare_anchors
from ripcurrent.scan._signal_stage import PreparedRow

PROBE_SECONDS = 20.0
"""No further batch is timed after this."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a scan will take."""

    signals: SignalKind
    """Which methods the scan runs."""
    seconds: float
    """The whole scan: loading, anchors and rows. Directions that are in the cache cost nothing."""
    loading_seconds: float
    """Loading the model, as measured."""
    anchor_seconds: float
    """Measuring the anchors, as measured."""
    row_seconds: float
    """Scoring the rows, predicted from their tokens."""
    tokens_per_second: float
    """Tokens scored in a second, padding not counted."""
    peak_memory_bytes: int
    """Peak memory of the process, or on CUDA of the device's allocations."""
    probed_rows: int
    """Rows that were timed."""
    probed_tokens: int
    """Their tokens."""


def estimate_scan(
    chat_model: ChatModel,
    options: ScanOptions,
    sample: Sequence[PreparedRow],
    tokens: float,
    loading_seconds: float,
    progress: Progress,
) -> Estimate:
    """Measure the anchors, time batches of a sample, and multiply by the dataset's ``tokens``."""
    passes = ScanPasses(chat_model, options)
    began = time.perf_counter()
    anchors = prepare_anchors(
        load_anchors(options.anchors), chat_model, options, passes.gradient_pass, passes.features, on_step=progress.step
    )
    anchor_seconds = time.perf_counter() - began
    progress.step("timing batches")
    rows, done, spent = 0, 0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        stage = passes.stage(anchors, Path(folder), progress)
        # longest rows first: they make the peak, and what is done once in a process is done with them
        ordered = sorted(sample, key=lambda row: -_tokens(row))
        stage.compute(ordered[:1])
        for batch in _batches(sample, options.batch_tokens):
            began = time.perf_counter()
            stage.compute(batch)
            spent += time.perf_counter() - began
            rows, done = rows + len(batch), done + sum(map(_tokens, batch))
            if spent > PROBE_SECONDS:
                break
        del stage
    rate = done / spent
    return Estimate(
        signals=options.signals,
        seconds=loading_seconds + anchor_seconds + tokens / rate,
        loading_seconds=loading_seconds,
        anchor_seconds=anchor_seconds,
        row_seconds=tokens / rate,
        tokens_per_second=rate,
        peak_memory_bytes=peak_bytes(chat_model.device),
        probed_rows=rows,
        probed_tokens=done,
    )


def _tokens(row: PreparedRow) -> int:
    return sum(len(piece.tokens) for piece in row.pieces)


def _batches(sample: Sequence[PreparedRow], budget: int) -> list[list[PreparedRow]]:
    """Some rows in their own order, about four batches at a time, as a shard is measured."""
    groups: list[list[PreparedRow]] = [[]]
    for row in sample:
        if groups[-1] and sum(map(_tokens, groups[-1])) + _tokens(row) > 4 * budget:
            groups.append([])
        groups[-1].append(row)
    return groups[:6]
