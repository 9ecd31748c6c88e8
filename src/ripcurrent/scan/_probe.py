"""A short probe of a scan: its rate and memory on a few of the dataset's own batches, and what that predicts."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ripcurrent.anchors import load_anchors
from ripcurrent.data import Row
from ripcurrent.gradients import FeatureReader, GradientPass, SignalKind, in_memory, plan_batches
from ripcurrent.models import LONGEST_GROUPED, ChatModel, cache_folder, peak_bytes, process_peak, reset_peak
from ripcurrent.progress import Progress
from ripcurrent.scan._anchor_passes import anchor_passes, own_directions
from ripcurrent.scan._budget_trial import TRIAL_BATCHES, BatchRate, batch_rates, tried_budgets
from ripcurrent.scan._memory import plan_path, require_room_for_directions, scan_directions, within_memory
from ripcurrent.scan._options import ScanOptions
from ripcurrent.scan._prepared_anchors import SETS_AT_ONCE, directions_are_cached, encode_for_gradient
from ripcurrent.scan._probe_directions import LikeDirections
from ripcurrent.scan._score import dot_column
from ripcurrent.scan._signal_stage import PreparedRow, SignalStage

PROBE_ROWS = 24
"""About so many rows are measured."""

PROBE_BATCHES = 4
"""At least so many batches are measured, where there are so many: a rate from one or two is mostly chance."""

PROBE_SECONDS = 20.0
"""No further batch is measured after so long."""

SHARDS_AGAIN = 3
"""What was measured is computed again as so many shards, or as many as the scan has: each adds a little to the peak."""

LARGEST_BATCHES = 2
"""So many of each kind of batch that may make the peak run first, unmeasured, however slow the machine."""

ANCHOR_PASSES = 3
"""Passes over every anchor while directions are computed: norms, their sum, similarities."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a scan will take, predicted from a probe of a few batches."""

    signals: SignalKind
    """Which methods the scan runs."""
    seconds: float
    """The whole scan: loading, planning, anchors and rows. Directions that are in the cache already cost nothing."""
    loading_seconds: float
    """Loading the model, as measured."""
    planning_seconds: float
    """Measuring what a budget holds (``--memory``); 0 without one."""
    anchor_seconds: float
    """Measuring the anchors, predicted from their tokens."""
    row_seconds: float
    """Scoring the rows in all passes, predicted from their tokens."""
    tokens_per_second: float
    """Tokens scored in a second, padding not counted; all passes counted as one."""
    peak_memory_bytes: int
    """Peak memory of the process, or on CUDA of the device's allocations."""
    probed_rows: int
    """Rows that were measured."""
    probed_tokens: int
    """Their tokens."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a scan has to do."""

    rows: Sequence[PreparedRow]
    """A sample of the usable rows, or with ``windows`` of single windows of them."""
    lengths: Sequence[int]
    """Their tokens."""
    count: float
    """Usable rows, extrapolated."""
    tokens: float
    """Their tokens, extrapolated."""
    loading_seconds: float
    """How long the model took to load."""
    shard_rows: int
    """Rows of a shard: batches are made of these."""
    stream: Callable[[], Iterable[Row]]
    """Reads the dataset."""


@dataclass(frozen=True, slots=True)
class _Planned:
    """A stage, and how it came about."""

    stage: SignalStage
    """What scores rows."""
    seconds: float
    """Finding what the budget holds."""
    expected_peak: int
    """Peak memory that its plan expects; 0 without a budget."""


def _unplanned(stage: SignalStage) -> _Planned:
    return _Planned(stage, 0.0, 0)


class Probe:
    """A few batches of a scan, run by the very stage that a scan runs, and what they say of all of it.

    The directions are random ones of the right shapes, so that no anchor has to be measured first.
    """

    def __init__(
        self, chat_model: ChatModel, load: Load, options: ScanOptions, told: Progress, *, try_budgets: bool = False
    ) -> None:
        """Prepare, and measure nothing yet."""
        self._chat_model, self._load, self._options, self._told = chat_model, load, options, told
        self._try_budgets = try_budgets
        self.batch_rates: list[BatchRate] = []
        """With ``try_budgets``, filled by :meth:`estimates`: rates in batches of several sizes."""
        self._anchor_set = load_anchors(options.anchors)
        self._anchor_rows = encode_for_gradient(self._anchor_set, chat_model, options)
        self._anchor_tokens = sum(len(row.tokens) for row in self._anchor_rows)
        width = int(chat_model.model.config.get_text_config().hidden_size)
        anchors = len(self._anchor_set.anchors)
        self._plain = SignalStage(
            chat_model=chat_model,
            token_budget=options.batch_tokens,
            features=FeatureReader(chat_model, layer=options.layer, position=options.position),
            anchor_features=np.full((anchors, width), 1 / math.sqrt(width), dtype=np.float32),
            max_tokens=options.max_tokens,
            loss_on=options.loss_on,
            row_tokens=options.row_tokens,
            windows=options.windows,
        )

    def estimates(self) -> list[Estimate]:
        """The scan's; with ``signals="all"`` one of representations alone before it, and so with a prefilter."""
        _reset_peak(self._chat_model.device)
        found = []
        alone = None
        # representations first: the process's peak only ever rises
        if self._options.wants_representation:
            self._told.step("probing representations")
            # with gradients it is they that a budget is planned for
            planned = _unplanned(self._plain) if self._options.wants_gradient else self._planned(lambda _: self._plain)
            alone = _estimate("representation", planned.stage, self._load)
            if self._try_budgets and not self._options.wants_gradient:
                self._try(planned.stage)
            alone = _adding(alone, planned, anchors=self._anchor_tokens / alone.tokens_per_second)
            if self._options.memory is None or not self._options.wants_gradient:
                found.append(alone)
        if self._options.wants_gradient:
            found.append(self._with_gradients(alone))
        return found

    def _with_gradients(self, alone: Estimate | None) -> Estimate:
        options, load = self._options, self._load
        self._told.step("probing gradients")
        gradient_pass = GradientPass(self._chat_model)
        like = LikeDirections(gradient_pass, self._anchor_set, self._anchor_rows)
        cached = directions_are_cached(self._anchor_set, self._chat_model, options)
        if not cached:
            require_room_for_directions(sum(map(math.prod, like.shapes_of_a_set().values())), self._chat_model, options)

        def make_stage(mapped_in: Path | None) -> SignalStage:
            directions: list[Any] = list(like.of_scan())
            return replace(
                self._plain,
                gradient_pass=gradient_pass,
                directions=scan_directions(gradient_pass, directions, self._chat_model, mapped_in),
                direction_columns=("dot_harmful", "dot_safe"),
                features=self._plain.features if options.wants_representation else None,
                anchor_features=self._plain.anchor_features if options.wants_representation else None,
            )

        planned = self._planned(make_stage, like.bytes_of_scan())
        stage = planned.stage
        if options.prefilter is not None:
            stage = replace(stage, features=None, anchor_features=None)
        found = _estimate(options.signals, stage, load)
        rate = found.tokens_per_second
        planned = replace(planned, stage=self._plain)
        del stage
        if options.prefilter is not None and alone is not None:
            found = _of_two_passes(found, alone, load, options)
        if options.per_anchor:
            found = self._with_anchor_passes(found, gradient_pass)
        anchors = 0.0 if cached else ANCHOR_PASSES * self._anchor_tokens / rate
        anchors += 0.0 if alone is None else alone.anchor_seconds
        if not cached:
            self._told.step("probing the anchors' directions")
            like.compute(SETS_AT_ONCE if options.memory is None else 1)
        found = replace(found, peak_memory_bytes=_peak(self._chat_model.device))
        if self._try_budgets:  # last, as larger batches pass the scan's own peak
            self._try(self._planned(make_stage).stage)
        return _adding(found, planned, anchors=anchors)

    def _try(self, stage: SignalStage) -> None:
        self._told.step("timing batches of several sizes")
        _, batches = chosen_batches(self._load, max(tried_budgets(stage.token_budget)), self._load.shard_rows)
        self.batch_rates = batch_rates(stage, [row for batch in batches[:TRIAL_BATCHES] for row in batch])

    def _planned(self, make_stage: Callable[[Path | None], SignalStage], directions_bytes: int = 0) -> _Planned:
        """The stage as a scan has it: with a budget, what that budget holds, measured as the scan does it."""
        if self._options.memory is None:
            with in_memory("The directions"):
                return _unplanned(make_stage(None))
        began = time.perf_counter()
        cache_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_folder()) as name:
            folder = Path(name)
            stage, plan = within_memory(
                plan_path(folder),
                self._load.stream,
                self._options,
                self._chat_model,
                lambda mapped: make_stage(folder if mapped else None),
                self._told.step,
                directions_bytes,
            )
        return _Planned(stage, time.perf_counter() - began, plan.expected_peak)

    def _with_anchor_passes(self, found: Estimate, gradient_pass: GradientPass) -> Estimate:
        """The same with the further passes of ``--per-anchor``, the first of which is probed."""
        self._told.step("probing a pass for some anchors")
        first, *others = anchor_passes(gradient_pass, self._anchor_rows)
        began = time.perf_counter()
        stage = replace(
            self._plain,
            gradient_pass=gradient_pass,
            directions=own_directions(gradient_pass, self._anchor_rows, first),
            direction_columns=tuple(dot_column(place) for place in first.places),
            features=None,
            anchor_features=None,
        )
        stacking = time.perf_counter() - began
        seconds = stacking + self._load.tokens / _estimate("gradient", stage, self._load).tokens_per_second
        further = seconds * (1 + len(others))
        rows = found.row_seconds + further
        return replace(
            found, seconds=found.seconds + further, row_seconds=rows, tokens_per_second=self._load.tokens / rows
        )


def _of_two_passes(deep: Estimate, cheap: Estimate, load: Load, options: ScanOptions) -> Estimate:
    """A prefilter's two passes as one: of representations over all rows, of gradients over those picked and drawn.

    Picked rows are taken to be as long as the others.
    """
    assert options.prefilter is not None
    drawn = min(1.0, options.prefilter_sample / load.count)
    share = options.prefilter + (1 - options.prefilter) * drawn
    rows = load.tokens / cheap.tokens_per_second + share * load.tokens / deep.tokens_per_second
    return replace(
        deep,
        seconds=deep.seconds - deep.row_seconds + rows,
        row_seconds=rows,
        tokens_per_second=load.tokens / rows,
    )


def chosen_batches(load: Load, token_budget: int, shard_rows: int) -> tuple[list[PreparedRow], list[list[PreparedRow]]]:
    """Rows to warm up with, those of the largest batches, and batches to measure, spread over the lengths."""
    shard = min(len(load.rows), shard_rows)
    # spread over the sample, as a file may be sorted; its longest row is among them, since it may make the peak
    spread = {int((number + 0.5) * len(load.rows) / shard) for number in range(shard)}
    longest = max(range(len(load.rows)), key=load.lengths.__getitem__)
    sample = sorted(spread | {longest})
    plan = [
        [sample[place] for place in places]
        for places in plan_batches([load.lengths[row] for row in sample], token_budget)
    ]
    count = min(len(plan), max(PROBE_BATCHES, round(PROBE_ROWS * len(plan) / shard)))
    places = [int((number + 0.5) * len(plan) / count) for number in range(count)]
    # a slow machine stops early, so the middle of the lengths comes first
    places.sort(key=lambda place: abs(place - len(plan) / 2))
    scores = [_kept_scores(len(batch), load.lengths[batch[0]]) for batch in plan]
    most = sorted(range(len(plan)), key=lambda place: -scores[place])[:LARGEST_BATCHES]
    largest = sorted({*range(min(LARGEST_BATCHES, len(plan))), *most})
    first = [load.rows[row] for place in largest for row in plan[place]]
    return first, [[load.rows[row] for row in plan[place]] for place in places]


def _kept_scores(rows: int, tokens: int) -> int:
    """Attention scores of a batch and head that a processor's backward pass keeps in every layer: none of long rows.

    So a batch of one row of 440 tokens takes more than one of 512.
    """
    return rows * tokens**2 if tokens <= LONGEST_GROUPED else 0


def _estimate(signals: SignalKind, stage: SignalStage, load: Load) -> Estimate:
    """The estimate of a stage, anchors left out. Rows are prepared already, as a scan does that beside the batches."""
    first, batches = chosen_batches(load, stage.token_budget, load.shard_rows)
    stage.compute(first)
    seconds, tokens, rows = 0.0, 0, 0
    done: list[PreparedRow] = []
    for batch in batches:
        began = time.perf_counter()
        table = stage.compute(batch)
        seconds += time.perf_counter() - began
        tokens += sum(table["prompt_tokens"].to_pylist()) + sum(table["response_tokens"].to_pylist())
        rows += len(batch)
        done += batch
        if seconds > PROBE_SECONDS:
            break
    if stage.gradient_pass is not None and stage.chat_model.device.type == "cpu":
        # as shards too: what batches of many shapes leave before it is given back is part of the peak
        for _ in range(min(SHARDS_AGAIN, math.ceil(load.count / load.shard_rows))):
            stage.compute([*first, *done])
    rate = tokens / seconds
    return Estimate(
        signals=signals,
        seconds=load.loading_seconds + load.tokens / rate,
        loading_seconds=load.loading_seconds,
        planning_seconds=0.0,
        anchor_seconds=0.0,
        row_seconds=load.tokens / rate,
        tokens_per_second=rate,
        peak_memory_bytes=_peak(stage.chat_model.device),
        probed_rows=rows,
        probed_tokens=tokens,
    )


def _adding(estimate: Estimate, planned: _Planned, *, anchors: float) -> Estimate:
    """The estimate with what comes before the rows."""
    return replace(
        estimate,
        seconds=estimate.seconds + anchors + planned.seconds,
        anchor_seconds=anchors,
        planning_seconds=planned.seconds,
        peak_memory_bytes=max(estimate.peak_memory_bytes, planned.expected_peak),
    )


def _reset_peak(device: torch.device) -> None:
    # of the process the whole peak counts, loading included
    if device.type == "cuda":
        reset_peak(device)


def _peak(device: torch.device) -> int:
    return peak_bytes(device) if device.type == "cuda" else process_peak()
