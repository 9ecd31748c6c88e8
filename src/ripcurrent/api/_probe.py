"""A short probe of a scan: its rate and memory on a few of the dataset's own batches, and what that predicts."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ripcurrent.anchors import load_anchors
from ripcurrent.api._anchors import SETS_AT_ONCE, directions_are_cached, encode_for_gradient
from ripcurrent.api._memory import peak_bytes, process_peak, reset_peak
from ripcurrent.api._options import ScanOptions
from ripcurrent.api._progress import Progress
from ripcurrent.data import EncodedRow, Row
from ripcurrent.engine import plan_batches
from ripcurrent.models import ChatModel
from ripcurrent.signals import (
    FeatureReader,
    GradientPass,
    SignalKind,
    SignalStage,
    make_batch,
    stack_directions,
    zero_gradient,
)
from ripcurrent.signals._anchor_gradients import ANCHOR_TOKEN_BUDGET

PROBE_ROWS = 24
"""About so many rows are measured."""

PROBE_BATCHES = 4
"""At least so many batches are measured, where there are so many: a rate from one or two is mostly chance."""

PROBE_SECONDS = 20.0
"""No further batch is begun after so long."""

DIRECTIONS = 2
"""Directions of a scan: harmful and safe."""

ANCHOR_PASSES = 3
"""Passes over every anchor while directions are computed: norms, their sum, similarities."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a scan will take, predicted from a probe of a few batches."""

    signals: SignalKind
    """Which methods the scan runs."""
    seconds: float
    """The whole scan: loading, anchors and rows. Directions that are in the cache already cost nothing."""
    loading_seconds: float
    """Loading the model, as measured."""
    anchor_seconds: float
    """Measuring the anchors, predicted from their tokens."""
    row_seconds: float
    """Scoring the rows, predicted from their tokens."""
    tokens_per_second: float
    """Tokens scored in a second, padding not counted."""
    peak_memory_bytes: int
    """Peak memory of the process, or on CUDA of the device's allocations."""
    probed_rows: int
    """Rows that were measured."""
    probed_tokens: int
    """Their tokens."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a scan has to do."""

    rows: Sequence[Row]
    """A sample of the usable rows."""
    lengths: Sequence[int]
    """Their tokens."""
    tokens: float
    """Tokens of all usable rows, extrapolated."""
    loading_seconds: float
    """How long the model took to load."""


def probe(chat_model: ChatModel, load: Load, options: ScanOptions, told: Progress) -> list[Estimate]:
    """Predict a scan from a few batches, run by the very stage that a scan runs.

    The directions are random ones of the right shapes, so no anchor has to be measured first. With
    ``signals="all"`` two estimates come back: of representations alone and of both.

    Raises:
        RipcurrentError: The model has a layer whose gradient is not covered.
    """
    batches = _chosen_batches(load, options)
    anchor_set = load_anchors(options.anchors)
    anchor_rows = encode_for_gradient(anchor_set, chat_model, options)
    anchor_tokens = sum(len(row.tokens) for row in anchor_rows)
    features = FeatureReader(chat_model, layer=options.layer, position=options.position)
    width = int(chat_model.model.config.get_text_config().hidden_size)
    plain = SignalStage(
        chat_model=chat_model,
        token_budget=options.batch_tokens,
        features=features,
        anchor_features=np.full((len(anchor_set.anchors), width), 1 / math.sqrt(width), dtype=np.float32),
        max_tokens=options.max_tokens,
        loss_on=options.loss_on,
        row_tokens=options.row_tokens,
    )
    _reset_peak(chat_model.device)
    estimates = []
    alone = None
    # representations first: the process's peak only ever rises
    if options.wants_representation:
        told.step("probing representations")
        alone = _estimate("representation", plain, batches, load)
        alone = _with_anchors(alone, anchor_tokens / alone.tokens_per_second)
        estimates.append(alone)
    if options.wants_gradient:
        told.step("probing gradients")
        gradient_pass = GradientPass(chat_model)
        shapes = gradient_pass.catalogue.parameter_shapes()
        directions = [RandomDirection(shapes, seed) for seed in range(DIRECTIONS)]
        stage = replace(
            plain,
            gradient_pass=gradient_pass,
            directions=stack_directions(gradient_pass.catalogue, list(directions), chat_model.dtype),
            direction_columns=("dot_harmful", "dot_safe"),
            features=features if options.wants_representation else None,
            anchor_features=plain.anchor_features if options.wants_representation else None,
        )
        both = _estimate(options.signals, stage, batches, load)
        passes = ANCHOR_PASSES * anchor_tokens / both.tokens_per_second + (alone.anchor_seconds if alone else 0.0)
        if not directions_are_cached(anchor_set, chat_model, options):
            told.step("probing the anchors' directions")
            del stage
            _compute_like_directions(gradient_pass, anchor_rows, len(anchor_set.sets))
            both = replace(both, peak_memory_bytes=_peak(chat_model.device))
        estimates.append(_with_anchors(both, passes))
    return estimates


@dataclass(frozen=True, slots=True)
class RandomDirection(Mapping[str, torch.Tensor]):
    """A direction of random numbers that holds none of its matrices: each repeats one random row."""

    shapes: Mapping[str, tuple[int, ...]]
    """Parameter name to shape."""
    seed: int
    """Seed of the numbers."""

    def __getitem__(self, name: str) -> torch.Tensor:
        shape = self.shapes[name]
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(shape[-1], generator=generator).expand(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def _chosen_batches(load: Load, options: ScanOptions) -> list[list[Row]]:
    """Batches as a scan makes them of a shard: the longest one to warm up with, then some spread over the lengths."""
    shard = min(len(load.rows), options.shard_rows)
    # spread over the sample, as a file may be sorted; its longest row is among them, since it makes the peak
    spread = {int((number + 0.5) * len(load.rows) / shard) for number in range(shard)}
    longest = max(range(len(load.rows)), key=load.lengths.__getitem__)
    sample = sorted(spread | {longest})
    plan = [
        [sample[place] for place in places]
        for places in plan_batches([load.lengths[row] for row in sample], options.batch_tokens)
    ]
    count = min(len(plan), max(PROBE_BATCHES, round(PROBE_ROWS * len(plan) / shard)))
    places = [int((number + 0.5) * len(plan) / count) for number in range(count)]
    # a slow machine stops early, so the middle of the lengths comes first
    places.sort(key=lambda place: abs(place - len(plan) / 2))
    return [[load.rows[row] for row in plan[place]] for place in (0, *places)]


def _estimate(
    signals: SignalKind,
    stage: SignalStage,
    batches: Sequence[Sequence[Row]],
    load: Load,
) -> Estimate:
    """The estimate of a stage, anchors left out."""
    stage(batches[0])
    seconds, tokens, rows = 0.0, 0, 0
    for batch in batches[1:]:
        began = time.perf_counter()
        table = stage(batch)
        seconds += time.perf_counter() - began
        tokens += sum(table["prompt_tokens"].to_pylist()) + sum(table["response_tokens"].to_pylist())
        rows += len(batch)
        if seconds > PROBE_SECONDS:
            break
    rate = tokens / seconds
    return Estimate(
        signals=signals,
        seconds=load.loading_seconds + load.tokens / rate,
        loading_seconds=load.loading_seconds,
        anchor_seconds=0.0,
        row_seconds=load.tokens / rate,
        tokens_per_second=rate,
        peak_memory_bytes=_peak(stage.chat_model.device),
        probed_rows=rows,
        probed_tokens=tokens,
    )


def _with_anchors(estimate: Estimate, seconds: float) -> Estimate:
    return replace(estimate, seconds=estimate.seconds + seconds, anchor_seconds=seconds)


def _compute_like_directions(gradient_pass: GradientPass, rows: Sequence[EncodedRow], sets: int) -> None:
    """Take the memory that computing directions takes, on the largest batch of anchors, and give it back.

    A set's gradients are summed in float32, stored in a copy, and the anchors are compared with several sets at once.
    """
    places, *_ = plan_batches([len(row.tokens) for row in rows], ANCHOR_TOKEN_BUDGET)
    batch = make_batch([rows[place] for place in places], gradient_pass.device)
    total = zero_gradient(gradient_pass.catalogue)
    gradient_pass.accumulate(batch, torch.ones(batch.rows), total)
    copies = {name: tensor.to(gradient_pass.dtype) for name, tensor in total.items()}
    del total, copies
    shapes = gradient_pass.catalogue.parameter_shapes()
    random = [RandomDirection(shapes, seed) for seed in range(min(sets, SETS_AT_ONCE))]
    gradient_pass.measure(batch, stack_directions(gradient_pass.catalogue, list(random), gradient_pass.dtype))


def _reset_peak(device: torch.device) -> None:
    # of the process the whole peak counts, loading included
    if device.type == "cuda":
        reset_peak(device)


def _peak(device: torch.device) -> int:
    return peak_bytes(device) if device.type == "cuda" else process_peak()
