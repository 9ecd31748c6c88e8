"""The scan's stage: a shard of rows in, its table of signals out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, tee
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ripcurrent.data import EncodedRow, LossOn, Row, Traits, encode_rows, encode_windows, traits_of
from ripcurrent.gradients import (
    BatchSignals,
    Directions,
    FeatureReader,
    GradientPass,
    Halving,
    make_batch,
    plan_batches,
)
from ripcurrent.models import ChatModel, FreedMemory, device_peak, give_back_freed_memory
from ripcurrent.scan._window_signals import document_columns, document_row, window_columns

DROPPED = "dropped_refusal"
"""Status of a row that the safety pre-filter took out (``--drop-refusals``)."""
NOT_EMBEDDED = "token_not_embedded"
"""Status of a row with a token that the tokenizer has and the model does not."""


@dataclass(frozen=True, slots=True)
class PreparedRow:
    """A row with all that can be made of it without the model."""

    row: Row
    """The row."""
    pieces: list[EncodedRow]
    """Its sequences: one, or with ``windows`` one for each window."""
    traits: Traits
    """Format traits of its response."""


@dataclass(frozen=True, slots=True)
class SignalStage:
    """Everything that a shard's signals depend on besides its rows."""

    chat_model: ChatModel
    """The model."""
    token_budget: int
    """Padded tokens per batch."""
    tidy_always: bool = False
    """Give freed memory back after every batch, not only where much has gathered."""
    freed: FreedMemory = field(default_factory=FreedMemory)
    """Gives it back otherwise."""
    gradient_pass: GradientPass | None = None
    """Present when gradients are wanted."""
    directions: Directions | None = None
    """What gradients are multiplied with; present with ``gradient_pass``."""
    direction_columns: tuple[str, ...] = ()
    """Column name of each direction's dots."""
    features: FeatureReader | None = None
    """Present when representations are wanted."""
    anchor_features: npt.NDArray[np.float32] | None = None
    """The anchors' unit features, shape ``(anchors, width)``; present with ``features``."""
    max_tokens: int = 1024
    """Longer rows keep their head."""
    loss_on: LossOn = "all"
    """Which assistant turns bear loss."""
    row_tokens: int | None = None
    """Let only the first so many loss-bearing tokens of a row bear loss."""
    pad_to: int | None = None
    """Pad every batch at least this far."""
    batch_rows: int | None = None
    """At most so many rows per batch."""
    drop_refusals: bool = False
    """Leave rows with a refusal phrase unscored."""
    windows: bool = False
    """Cut plain documents longer than ``max_tokens`` into windows instead of at their head."""
    halving: Halving = field(default_factory=Halving)
    """Measures a batch that runs out of memory in halves."""
    on_rows: Callable[[int], None] = lambda rows: None
    """Told how many rows were done, as they are."""

    def __call__(self, items: Sequence[Row]) -> pa.Table:
        """The signals of a shard's rows, in their order; ``batch`` keeps which of them were computed together."""
        return self.compute(list(self.prepare(items)))

    def report(self) -> dict[str, int]:
        """How many batches ran out of memory, and the peak: of the device's tensors on CUDA, else of the process."""
        return {
            "batches_halved": self.halving.batches_halved,
            "peak_bytes": device_peak(self.chat_model.device),
        }

    def prepare(self, items: Iterable[Row]) -> Iterator[PreparedRow]:
        """The rows tokenised, in order: processor's work, which may be done while another shard is computed."""
        rows, again = tee(items)
        for row, pieces in zip(rows, self._encoded(again), strict=True):
            yield PreparedRow(row, pieces, traits_of(row.trained(self.loss_on)))

    def compute(self, prepared: Sequence[PreparedRow]) -> pa.Table:
        """The signals of a shard whose rows were prepared."""
        items = [found.row for found in prepared]
        pieces = [found.pieces for found in prepared]
        traits = [found.traits for found in prepared]
        flat = [piece for row in pieces for piece in row]
        statuses: list[str] = [piece.status for piece in flat]
        item_of = [place for place, row in enumerate(pieces) for _ in row]
        rows = int(self.chat_model.model.get_input_embeddings().weight.shape[0])
        for place, item in enumerate(item_of):
            if statuses[place] == "ok" and int(flat[place].tokens.max()) >= rows:
                statuses[place] = NOT_EMBEDDED
            if self.drop_refusals and traits[item].has_refusal and statuses[place] == "ok":
                statuses[place] = DROPPED
        columns = self._empty_columns(len(flat))
        batches = self._measure_all(flat, statuses, item_of, columns)
        if not self.windows:
            return _table(items, flat, statuses, traits, batches, columns)
        by_item: list[list[int]] = [[] for _ in items]
        for place, item in enumerate(item_of):
            by_item[item].append(place)
        of_items = [next((statuses[p] for p in places if statuses[p] != "ok"), "ok") for places in by_item]
        combined = document_columns(columns, pieces)
        firsts = [batches[places[0]] for places in by_item]
        table = _table(items, [document_row(row) for row in pieces], of_items, traits, firsts, combined)
        for name, array in window_columns(columns, pieces, batches, of_items).items():
            table = table.append_column(name, array)
        return table

    def _encoded(self, items: Iterable[Row]) -> Iterator[list[EncodedRow]]:
        tokenizer = self.chat_model.tokenizer
        if self.windows:
            return encode_windows(items, tokenizer, max_tokens=self.max_tokens)
        return ([row] for row in encode_rows(items, tokenizer, max_tokens=self.max_tokens, loss_on=self.loss_on))

    def _measure_all(
        self,
        rows: Sequence[EncodedRow],
        statuses: list[str],
        item_of: Sequence[int],
        columns: dict[str, npt.NDArray[Any]],
    ) -> list[int | None]:
        """Fill columns and statuses; the number of the batch that each row was computed in."""
        lengths = [len(row.tokens) if status == "ok" else 0 for row, status in zip(rows, statuses, strict=True)]
        left = Counter(item for item, length in zip(item_of, lengths, strict=True) if length)
        self.on_rows(len(set(item_of) - left.keys()))
        batches: list[int | None] = [None] * len(rows)
        forget = self.features.forget if self.features is not None else lambda: None
        groups = chain.from_iterable(self.halving(rows, places, self.measure, forget) for places in self._plan(lengths))
        self.freed.before_first()
        for number, (places, signals) in enumerate(groups):
            if self.tidy_always:
                give_back_freed_memory()
            else:
                self.freed.after_batch()
            self._fill(columns, statuses, places, signals)
            finished = 0
            for place in places:
                batches[place] = number
                left[item_of[place]] -= 1
                finished += left[item_of[place]] == 0
            self.on_rows(finished)
        return batches

    def _plan(self, lengths: Sequence[int]) -> list[list[int]]:
        most = self.batch_rows
        plan = plan_batches(lengths, self.token_budget)
        if most is None:
            return plan
        return [places[start : start + most] for places in plan for start in range(0, len(places), most)]

    def measure(self, rows: Sequence[EncodedRow]) -> BatchSignals:
        """The signals of one batch."""
        batch = make_batch(rows, self.chat_model.device, row_tokens=self.row_tokens, pad_to=self.pad_to)
        if self.gradient_pass is not None and self.directions is not None:
            return self.gradient_pass.measure(batch, self.directions, self.features)
        assert self.features is not None
        return self.features.forward(batch)

    def _empty_columns(self, rows: int) -> dict[str, npt.NDArray[Any]]:
        columns: dict[str, npt.NDArray[Any]] = {}
        if self.gradient_pass is not None:
            for name in (*self.direction_columns, "squared_norm", "loss", "loss_first_10"):
                columns[name] = np.full(rows, np.nan)
        if self.anchor_features is not None:
            columns["representation_cosines"] = np.full((rows, len(self.anchor_features)), np.nan, dtype=np.float32)
        return columns

    def _fill(
        self,
        columns: dict[str, npt.NDArray[Any]],
        statuses: list[str],
        places: Sequence[int],
        signals: BatchSignals,
    ) -> None:
        values: dict[str, npt.NDArray[Any]] = {}
        finite = np.ones(len(places), dtype=bool)
        if signals.dots is not None and signals.squared_norm is not None:
            values |= {name: signals.dots[:, number] for number, name in enumerate(self.direction_columns)}
            assert signals.loss is not None
            assert signals.loss_first_10 is not None
            values |= {
                "squared_norm": signals.squared_norm,
                "loss": signals.loss,
                "loss_first_10": signals.loss_first_10,
            }
            # a gradient of length zero has no cosine
            finite &= signals.squared_norm > 0
        if signals.features is not None and self.anchor_features is not None:
            values["representation_cosines"] = unit(signals.features) @ self.anchor_features.T
        for value in values.values():
            finite &= np.isfinite(value).reshape(len(places), -1).all(axis=1)
        for place, fine in zip(places, finite, strict=True):
            if not fine:
                statuses[place] = "not_finite"
        good = np.asarray(places)[finite]
        for name, value in values.items():
            columns[name][good] = value[finite]


def unit(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Features scaled to length one, row by row; NaN for a row of zeros."""
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled: npt.NDArray[np.float32] = features / np.linalg.norm(features, axis=1, keepdims=True)
    return scaled


def _table(
    rows: Sequence[Row],
    encoded: Sequence[EncodedRow],
    statuses: Sequence[str],
    traits: Sequence[Traits],
    batches: Sequence[int | None],
    columns: dict[str, npt.NDArray[Any]],
) -> pa.Table:
    names = ("is_list", "is_bullet", "is_numbered", "opens_numbered", "is_maths", "is_code", "has_refusal")
    arrays: dict[str, Any] = {
        "row": pa.array([row.index for row in rows], pa.int64()),
        "id": pa.array([row.id for row in rows], pa.string()),
        "status": pa.array(statuses, pa.string()),
        "prompt_tokens": pa.array([row.prompt_tokens for row in encoded], pa.int64()),
        "response_tokens": pa.array([row.response_tokens for row in encoded], pa.int64()),
        "truncated": pa.array([row.truncated for row in encoded], pa.bool_()),
        **{name: pa.array([getattr(trait, name) for trait in traits], pa.bool_()) for name in names},
        "batch": pa.array(batches, pa.int32()),
    }
    for name, values in columns.items():
        if values.ndim == 1:
            arrays[name] = pa.array(values, pa.float64())
        else:
            kept = [None if np.isnan(row[0]) else row for row in values]
            arrays[name] = pa.array(kept, pa.list_(pa.float32()))
    return pa.table(arrays)
