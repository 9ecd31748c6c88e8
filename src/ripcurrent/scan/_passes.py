"""What goes through the model: the passes over rows, and the stage that makes a shard's table of signals of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import tee
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ripcurrent.anchors import AnchorSet
from ripcurrent.data import Dataset, EncodedRow, Row, Traits, encode_rows, trained_text, traits_of
from ripcurrent.gradients import (
    BatchSignals,
    Directions,
    FeatureReader,
    GradientPass,
    Halving,
    MappedStore,
    in_memory,
    make_batch,
    plan_batches,
    stack_directions,
)
from ripcurrent.models import ChatModel, FreedMemory, describe
from ripcurrent.progress import Progress
from ripcurrent.runs import RunFolder
from ripcurrent.scan._columns import TRAIT_COLUMNS
from ripcurrent.scan._options import ScanOptions
from ripcurrent.scan._prepared_anchors import DirectionCache, PreparedAnchors, anchor_features, unit
from ripcurrent.scan._scan_model import MemoryPlan, fitting_stage
from ripcurrent.scan._separation import AnchorMeasurements

SignalColumns = dict[str, npt.NDArray[Any]]
"""Signal to its values, shape ``(rows,)`` or ``(rows, anchors)``."""
GRADIENT_SIGNALS = ("dot_harmful", "dot_safe", "squared_norm", "loss", "loss_first_10")
"""Columns of what a gradient pass measures: two inner products first."""


class ScanPasses:
    """A model with the passes that a scan's options ask for; a model that they do not cover is refused."""

    def __init__(self, chat_model: ChatModel, options: ScanOptions) -> None:
        self.chat_model = chat_model
        self.options = options.decided(chat_model.device.type)
        # now: Ray's workers may get the weights, and only shapes are left here
        self.model = describe(chat_model)
        self.memory_plan = MemoryPlan(self.options.batch_tokens, mapped_directions=False)
        """How memory is kept to; decided with the stage."""
        self.gradient_pass = GradientPass(chat_model) if options.wants_gradient else None
        self.features = FeatureReader(chat_model) if options.wants_representation else None
        if options.tokens is not None and self.gradient_pass is not None:
            self.gradient_pass.require_token_axes()

    def anchors(self, anchor_set: AnchorSet, progress: Progress) -> PreparedAnchors:
        """The anchors measured on the model; directions that are in the cache are not computed again."""
        states, cosines, cache, measured = None, None, None, {}
        with in_memory("The anchors' directions"):
            if self.features is not None:
                progress.step("computing the anchor representations")
                states = anchor_features(anchor_set, self.chat_model, self.features, self.options)
                cosines = (states @ states.T).astype(float).tolist()
            if self.gradient_pass is not None:
                cache = DirectionCache(anchor_set, self.chat_model, self.options)
                measured = cache.filled(self.gradient_pass, progress)
        measurements = AnchorMeasurements(anchor_set.order, **measured, cosines=cosines)
        return PreparedAnchors(anchor_set, measurements, cache, states)

    def directions(self, anchors: PreparedAnchors, mapped_in: Path | None) -> Directions | None:
        """The harmful and the safe direction, in memory or in files of a folder; None without gradient signals."""
        if self.gradient_pass is None or anchors.cache is None:
            return None
        stored, layers, dtype = anchors.cache.both(), self.gradient_pass.layers, self.chat_model.dtype
        if mapped_in is None:
            return stack_directions(layers, stored, dtype)
        store = MappedStore(mapped_in)
        stacked = stack_directions(layers, stored, dtype, empty=store.empty, written=store.let_go)
        return store.directions(stacked, self.chat_model.device)

    def stage(self, anchors: PreparedAnchors, run: RunFolder, rows: Dataset, progress: Progress) -> SignalStage:
        """The stage that scores shards of rows, as it fits into memory."""

        def make(mapped: bool) -> SignalStage:
            directions = self.directions(anchors, run.folder if mapped else None)
            return self.stage_of(directions, anchors.features, progress)

        device, needed = self.chat_model.device, 0 if anchors.cache is None else anchors.cache.bytes()
        stage, self.memory_plan = fitting_stage(make, self.options, run.decided, rows, needed, device)
        return stage

    def stage_of(
        self, directions: Directions | None, anchor_features: npt.NDArray[np.float32] | None, progress: Progress
    ) -> SignalStage:
        """A stage with these directions and anchors' unit features."""
        return SignalStage(
            self.chat_model,
            self.options.batch_tokens,
            self.gradient_pass,
            directions,
            self.features,
            anchor_features,
            self.options,
            on_rows=progress.rows,
        )


@dataclass(frozen=True, slots=True)
class PreparedRow:
    """A row with all that can be made of it without the model."""

    row: Row
    encoded: EncodedRow
    traits: Traits
    """Format traits of its response."""
    unread: bool
    """It has tools or reasoning that the chat template does not print."""


@dataclass(frozen=True, slots=True)
class SignalStage:
    """Everything that a shard's signals depend on besides its rows."""

    chat_model: ChatModel
    token_budget: int
    """Padded tokens per batch."""
    gradient_pass: GradientPass | None = None
    """Present when gradients are wanted."""
    directions: Directions | None = None
    """The harmful and the safe direction; present with ``gradient_pass``."""
    features: FeatureReader | None = None
    """Present when representations are wanted."""
    anchor_features: npt.NDArray[np.float32] | None = None
    """The anchors' unit features, shape ``(anchors, width)``; present with ``features``."""
    options: ScanOptions = field(default_factory=ScanOptions)
    """How rows are cut and which of their tokens bear loss."""
    freed: FreedMemory = field(default_factory=FreedMemory)
    """Gives freed memory back where much has gathered."""
    halving: Halving = field(default_factory=Halving)
    """Measures a batch that runs out of memory in halves."""
    on_rows: Callable[[int], None] = lambda rows: None
    """Called with the number of rows that were just done."""

    def prepare(self, items: Iterable[Row]) -> Iterator[PreparedRow]:
        """The rows tokenised, in order: work that may be done while another shard is computed."""
        rows, again = tee(items)
        tokenizer, most, trained = self.chat_model.tokenizer, self.options.max_tokens, self.options.trained
        for row, own in zip(rows, encode_rows(again, tokenizer, max_tokens=most, trained=trained), strict=True):
            yield PreparedRow(row, own, traits_of(trained_text(row, own, tokenizer, trained)), own.unread)

    def compute(self, prepared: Sequence[PreparedRow]) -> pa.Table:
        """The signals of a shard's rows, in their order; ``batch`` keeps which of them were computed together."""
        rows, statuses = [one.encoded for one in prepared], list(map(self._status, prepared))
        columns = {name: np.full(len(rows), np.nan) for name in GRADIENT_SIGNALS if self.gradient_pass is not None}
        if self.anchor_features is not None:
            columns["representation_cosines"] = np.full((len(rows), len(self.anchor_features)), np.nan, np.float32)
        batches: list[int | None] = [None] * len(rows)
        lengths = [len(row.tokens) if status == "ok" else 0 for row, status in zip(rows, statuses, strict=True)]
        self.on_rows(lengths.count(0))
        self.freed.before_first()
        measured, device = 0, self.chat_model.device
        # no call lies between this loop and the pass: a stack that is short is quick to read in a profile
        for places in self.halving.groups(rows, plan_batches(lengths, self.token_budget)):
            with self.halving.attempt():
                batch = make_batch([rows[place] for place in places], device, row_tokens=self.options.row_tokens)
                if self.gradient_pass is not None and self.directions is not None:
                    signals = self.gradient_pass.measure(batch, self.directions, features=self.features is not None)
                else:
                    assert self.features is not None
                    signals = self.features.forward(batch)
                self._fill(columns, statuses, places, signals)
                for place in places:
                    batches[place] = measured
                measured += 1
                self.on_rows(len(places))
            self.freed.after_batch()
        return _table(prepared, statuses, batches, columns)

    def _status(self, row: PreparedRow) -> str:
        if row.encoded.status != "ok":
            return row.encoded.status
        if self.options.drop_refusals and row.traits.has_refusal:
            return "dropped_refusal"
        embedded = int(self.chat_model.model.get_input_embeddings().weight.shape[0])
        # a tokenizer may have tokens that the model does not
        return "ok" if int(row.encoded.tokens.max()) < embedded else "token_not_embedded"

    def _fill(self, columns: SignalColumns, statuses: list[str], places: Sequence[int], signals: BatchSignals) -> None:
        """Keep a batch's signals where they are finite; other rows are marked ``not_finite``."""
        values: SignalColumns = {}
        finite = np.ones(len(places), dtype=bool)
        if signals.dots is not None:
            measured = (*signals.dots.T, signals.squared_norm, signals.loss, signals.loss_first_10)
            pairs = zip(GRADIENT_SIGNALS, measured, strict=True)
            values = {name: value for name, value in pairs if value is not None}
            # a gradient of length zero has no cosine
            finite &= values["squared_norm"] > 0
        if signals.features is not None and self.anchor_features is not None:
            values["representation_cosines"] = unit(signals.features) @ self.anchor_features.T
        for value in values.values():
            finite &= np.isfinite(value).reshape(len(places), -1).all(axis=1)
        for place in np.asarray(places)[~finite]:
            statuses[place] = "not_finite"
        good = np.asarray(places)[finite]
        for name, value in values.items():
            columns[name][good] = value[finite]


def _table(
    prepared: Sequence[PreparedRow], statuses: Sequence[str], batches: Sequence[int | None], columns: SignalColumns
) -> pa.Table:
    rows = [one.encoded for one in prepared]
    # by the response's text; by its tokens, it is short
    names = [name for name in TRAIT_COLUMNS if name != "is_short"]
    arrays: dict[str, pa.Array] = {
        "row": pa.array([one.row.index for one in prepared], pa.int64()),
        "id": pa.array([one.row.id for one in prepared], pa.string()),
        "status": pa.array(statuses, pa.string()),
        "prompt_tokens": pa.array([row.prompt_tokens for row in rows], pa.int64()),
        "response_tokens": pa.array([row.response_tokens for row in rows], pa.int64()),
        "truncated": pa.array([row.truncated for row in rows], pa.bool_()),
        **{name: pa.array([getattr(one.traits, name) for one in prepared], pa.bool_()) for name in names},
        "unread": pa.array([one.unread for one in prepared], pa.bool_()),
        "batch": pa.array(batches, pa.int32()),
    }
    for name, values in columns.items():
        if values.ndim == 1:
            arrays[name] = pa.array(values, pa.float64())
        else:
            kept = [None if np.isnan(row[0]) else row for row in values]
            arrays[name] = pa.array(kept, pa.list_(pa.float32()))
    return pa.table(arrays)
