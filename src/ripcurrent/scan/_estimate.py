"""What a scan will take: a few of its batches timed, and multiplied."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from ripcurrent.anchors import AnchorSet, load_anchors
from ripcurrent.gradients import SignalKind, anchor_directions, in_memory
from ripcurrent.models import cache_folder, peak_bytes, process_peak
from ripcurrent.progress import Progress, SilentProgress
from ripcurrent.scan._memory import fitting_stage
from ripcurrent.scan._passes import ScanPasses
from ripcurrent.scan._prepared_anchors import SETS_AT_ONCE, directions_are_cached, encode_for_gradient, prepare_anchors
from ripcurrent.scan._signal_stage import PreparedRow, SignalStage

THIRDS = 3
"""Rows are timed by thirds of their lengths: short ones cost more per token, long ones more for attention."""
TIMED_BATCHES = 2
"""Batches that are timed of each third."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a scan will take, predicted from a few batches."""

    signals: SignalKind
    """Which methods the scan runs."""
    seconds: float
    """The whole scan: loading, anchors and rows. Directions that are in the cache already cost nothing."""
    loading_seconds: float
    """Loading the model, as measured."""
    anchor_seconds: float
    """Measuring the anchors, of which one set's direction is measured."""
    row_seconds: float
    """Scoring the rows."""
    tokens_per_second: float
    """Tokens scored in a second, padding not counted."""
    peak_memory_bytes: int
    """Peak memory of the process, or on CUDA of the device's allocations."""
    probed_rows: int
    """Rows that were timed."""
    probed_tokens: int
    """Their tokens."""


def estimate_scan(
    passes: ScanPasses, sample: Sequence[PreparedRow], rows: float, loading: float, progress: Progress
) -> Estimate:
    """Time a few batches of a sample's rows, and predict the scan of so many ``rows``.

    Raises:
        RipcurrentError: The directions or a row do not fit into memory, or not within ``--memory``.
    """
    chat_model, options = passes.chat_model, passes.options
    anchor_set = load_anchors(options.anchors)
    began = time.perf_counter()
    anchors = prepare_anchors(anchor_set, chat_model, options, None, passes.features)
    feature_seconds = time.perf_counter() - began
    cache_folder().mkdir(parents=True, exist_ok=True)
    with in_memory("The anchors' directions"), tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
        stored, forming_seconds, anchor_tokens = _directions(passes, anchor_set, progress)
        itemsize = chat_model.dtype.itemsize
        held = sum(one[name].numel() * itemsize for one in stored for name in one)

        def make(mapped: bool) -> SignalStage:
            directions = passes.directions(stored, Path(folder) if mapped else None)
            return passes.stage_of(directions, anchors.features, SilentProgress())

        of_sample = (row.row for row in sample)
        stage, _ = fitting_stage(make, options, lambda _, decide: decide(), of_sample, held, chat_model.device)
        seconds, timed = _time_rows(stage, sample)
    peak = peak_bytes(chat_model.device) if chat_model.device.type == "cuda" else process_peak()
    if anchor_tokens:
        # anchors are compared with more directions at once than rows are
        peak += max(0, min(SETS_AT_ONCE, len(anchor_set.sets)) - 2) * held // 2
    rate = sum(map(_tokens, sample)) / seconds
    anchor_seconds = feature_seconds + forming_seconds + anchor_tokens / rate
    row_seconds = rows * seconds / len(sample)
    return Estimate(
        signals=options.signals,
        seconds=loading + anchor_seconds + row_seconds,
        loading_seconds=loading,
        anchor_seconds=anchor_seconds,
        row_seconds=row_seconds,
        tokens_per_second=rate,
        peak_memory_bytes=peak,
        probed_rows=len(timed),
        probed_tokens=sum(map(_tokens, timed)),
    )


def _directions(
    passes: ScanPasses, anchor_set: AnchorSet, progress: Progress
) -> tuple[Sequence[Mapping[str, Tensor]], float, int]:
    """Two directions, the seconds to form all that there are, and the tokens that then go through one more pass.

    They come from the cache; where it has none, the harmful one is formed and stands for both.
    """
    chat_model, options, gradient_pass = passes.chat_model, passes.options, passes.gradient_pass
    if gradient_pass is None:
        return (), 0.0, 0
    if directions_are_cached(anchor_set, chat_model, options):
        return prepare_anchors(anchor_set, chat_model, options, gradient_pass, None).both_directions(), 0.0, 0
    progress.step("forming one direction")
    rows = encode_for_gradient(anchor_set, chat_model, options)
    sets = [[rows[place] for place in anchor_set.places(name)] for name in anchor_set.sets]
    lengths = [sum(len(row.tokens) for row in own) for own in sets]
    began = time.perf_counter()
    gradient = next(iter(anchor_directions(gradient_pass, sets))).gradient
    seconds = (time.perf_counter() - began) * sum(lengths) / lengths[0]
    # as the cache keeps it
    kept = {name: t.to(chat_model.dtype) if t.dim() == 2 else t for name, t in gradient.items()}
    return (kept, kept), seconds, sum(lengths)


def _time_rows(stage: SignalStage, sample: Sequence[PreparedRow]) -> tuple[float, list[PreparedRow]]:
    """Seconds that the sample would take, and the rows that were timed: batches from the middle of each third."""
    ordered = sorted(sample, key=lambda row: (_tokens(row), row.row.index))
    # first calls are slow, and the longest rows make the peak
    stage.compute(ordered[-max(1, stage.token_budget // max(1, _tokens(ordered[-1]))) :])
    seconds, timed = 0.0, []
    for third in np.array_split(np.arange(len(ordered)), min(THIRDS, len(ordered))):
        order = sorted(third, key=lambda place: abs(place - third.mean()))
        size = np.cumsum([_tokens(ordered[place]) for place in order])
        most = max(1, int(np.searchsorted(size, TIMED_BATCHES * stage.token_budget, side="right")))
        chosen = [ordered[place] for place in sorted(order[:most])]
        began = time.perf_counter()
        stage.compute(chosen)
        per_token = (time.perf_counter() - began) / sum(map(_tokens, chosen))
        seconds += per_token * sum(_tokens(ordered[place]) for place in third)
        timed += chosen
    return seconds, timed


def _tokens(row: PreparedRow) -> int:
    """Tokens of a row, or of all its windows."""
    return sum(len(piece.tokens) for piece in row.pieces)
