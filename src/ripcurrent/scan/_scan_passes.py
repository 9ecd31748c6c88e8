"""The passes of a scan over its rows: one over all, and where asked one more over some rows, or one per few anchors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from filelock import FileLock

from ripcurrent.data import Dataset
from ripcurrent.errors import DatasetChangedError, RipcurrentError
from ripcurrent.gradients import FeatureReader, GradientPass, in_memory
from ripcurrent.models import ChatModel
from ripcurrent.progress import Progress
from ripcurrent.runs import RunFolder
from ripcurrent.scan._anchor_passes import anchor_passes, own_directions
from ripcurrent.scan._execution import RunStage
from ripcurrent.scan._memory import MemoryPlan, plan_path, scan_directions, within_memory
from ripcurrent.scan._options import ScanOptions
from ripcurrent.scan._part import Part, count_shards, shard_of
from ripcurrent.scan._parts import GRADIENT, PICKED, rows_of, shards_of
from ripcurrent.scan._prefilter import (
    PICKED_BY,
    Picked,
    PickedRows,
    join_gradients,
    pick_rows,
    read_picked,
    write_picked,
)
from ripcurrent.scan._prepared_anchors import PreparedAnchors, encode_for_gradient
from ripcurrent.scan._score import Scorer, dot_column
from ripcurrent.scan._separation import AnchorMeasurements
from ripcurrent.scan._shards import Shard, ShardFolder
from ripcurrent.scan._signal_stage import SignalStage
from ripcurrent.scan._timed_batches import batches_path, with_timed_batches


@dataclass(slots=True)
class FreshShards:
    """What one call computed."""

    rows: int = 0
    """Rows, each as often as it was in a pass."""
    folders: list[ShardFolder] = field(default_factory=list)
    """Where the passes' shards are."""
    picks: Path | None = None
    """A prefilter's picks, where this call made them."""

    def forget(self) -> None:
        """Remove it: its rows were not what the run is of."""
        for folder in self.folders:
            folder.undo()
        if self.picks is not None:
            with _picking(self.picks.parent):
                self.picks.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Signals:
    """What the passes left in the run folder."""

    shards: int
    """Shards of the pass over all rows."""
    memory_plan: MemoryPlan | None
    """How the budget was kept."""
    batches_halved: int
    """Batches that ran out of memory and were measured in halves."""
    picked: Picked | None = None
    """What a prefilter let through."""
    gradient_shards: int = 0
    """Shards of the gradient pass over these rows."""
    waits: bool = False
    """A part's prefilter waits for the representation pass of other parts: nothing is picked before all are there."""


def run_signals(
    run: RunFolder,
    rows: Dataset,
    options: ScanOptions,
    chat_model: ChatModel,
    gradient_pass: GradientPass | None,
    features: FeatureReader | None,
    anchors: PreparedAnchors,
    told: Progress,
    count: int,
    run_stage: RunStage,
    fresh: FreshShards,
    part: Part | None = None,
) -> Signals:
    """Run the signal stage over every shard, or every one of a part, that is not done; ``count`` is of all rows.

    ``fresh`` takes what was computed.

    Raises:
        DatasetChangedError: The rows are not as many as were counted.
    """
    own_rows = rows_of(shards_of(part, count, options), count, options)
    common: dict[str, Any] = {
        "chat_model": chat_model,
        "token_budget": options.batch_tokens_on(chat_model.device.type),
        "max_tokens": options.max_tokens,
        "loss_on": options.loss_on,
        "row_tokens": options.row_tokens,
        "pad_to": options.quirks.get("pad_to"),
        "batch_rows": options.quirks.get("batch_rows"),
        "drop_refusals": options.drop_refusals,
        "windows": options.windows,
        "on_rows": told.rows,
    }

    def make_stage(mapped: bool, *, gradients: bool = True) -> SignalStage:
        directions = None
        multiplied = gradient_pass if gradients else None
        if multiplied is not None:
            stored = [anchors.direction("harmful"), anchors.direction("safe")]
            directions = scan_directions(multiplied, stored, chat_model, run.folder if mapped else None)
        return SignalStage(
            gradient_pass=multiplied,
            directions=directions,
            direction_columns=("dot_harmful", "dot_safe") if multiplied is not None else (),
            features=features,
            anchor_features=anchors.features,
            **common,
        )

    plan = None
    if options.memory is None:
        with in_memory("The directions"):
            stage = make_stage(False, gradients=options.prefilter is None)
    else:
        plan_file = plan_path(run.folder, part)
        stage, plan = within_memory(
            plan_file, lambda: rows, options, chat_model, make_stage, told.step, anchors.directions_bytes()
        )
    halving = stage.halving
    signals = run.folder / "signals"

    threads = torch.get_num_threads()

    def timed(stage: SignalStage, seen: Dataset | PickedRows, number: int) -> SignalStage:
        if options.token_budget != "auto":
            return stage
        # not those that were the fastest of the pass before
        torch.set_num_threads(threads)
        return with_timed_batches(stage, batches_path(run.folder, part), seen.iter_from(0), number, told.step)

    if options.prefilter is not None:
        cheap = timed(replace(stage, gradient_pass=None, directions=None, direction_columns=()), rows, own_rows)
        shards = _run_stage(signals, cheap, told, "representation pass", own_rows, run_stage, fresh)
        every = count_shards(count, options.shard_rows)
        whole = (shard_of(number, options.shard_rows, count) for number in range(every))
        if part is not None and not all(ShardFolder(signals).done(shard.number) == shard for shard in whole):
            return Signals(shards, plan, halving.batches_halved, waits=True)
        picked = picked_of(run, every, options, anchors.measurements, fresh)
        if stage.directions is None:
            # not before they are needed: other parts, or workers on this very GPU, had the first pass
            with in_memory("The directions"):
                stage = replace(make_stage(False), halving=halving)
        deep = replace(stage, features=None, anchor_features=None)
        number = len(picked.rows)
        own_picked = rows_of(shards_of(part, number, options), number, options)
        deep = timed(deep, PickedRows(rows, picked.rows), own_picked)
        gradient_shards = _run_stage(
            signals / GRADIENT,
            deep,
            told,
            "gradient pass over picked rows",
            own_picked,
            partial(run_stage, picked=picked.rows),
            fresh,
        )
        return Signals(every, plan, halving.batches_halved, picked, gradient_shards)
    stage = timed(stage, rows, own_rows)
    common["token_budget"] = stage.token_budget
    if not options.per_anchor or gradient_pass is None:
        shards = _run_stage(signals, stage, told, "scoring rows", own_rows, run_stage, fresh)
    else:
        encoded = encode_for_gradient(anchors.anchor_set, chat_model, options)
        further = anchor_passes(gradient_pass, encoded)
        passes = "one further pass" if len(further) == 1 else f"{len(further)} further passes"
        told.step(f"{len(encoded)} anchors with a direction each: {passes} over all rows")
        shards = _run_stage(signals, stage, told, "scoring rows", own_rows, run_stage, fresh)
        del stage
        for one in further:
            with in_memory("The directions of single anchors"):
                directions = own_directions(gradient_pass, encoded, one)
            stage = SignalStage(
                gradient_pass=gradient_pass,
                directions=directions,
                direction_columns=tuple(dot_column(place) for place in one.places),
                halving=halving,
                **common,
            )
            first, last = one.places[0], one.places[-1]
            label = f"anchors {first} to {last} of {len(encoded)}"
            folder = signals / f"per_anchor_{first:03d}_to_{last:03d}"
            _run_stage(folder, stage, told, label, own_rows, run_stage, fresh)
            del stage, directions
    return Signals(shards, plan, halving.batches_halved)


def has_changed(rows: Dataset, sample: str | None) -> bool:
    """Whether a dataset is another, by the hash of a sample of it taken before; a hub's has none.

    One that cannot be read now, as when a network disk is gone, is not taken for another.
    """
    try:
        return rows.sampled_hash() != sample
    except RipcurrentError:
        return False


def _run_stage(
    folder: Path,
    stage: SignalStage,
    told: Progress,
    label: str,
    count: int,
    run_stage: Callable[[SignalStage, ShardFolder, Callable[[Shard, bool], None]], int],
    fresh: FreshShards,
) -> int:
    """Run a stage over a stream of rows; the number after the last shard's."""
    shards, seen = ShardFolder(folder), 0
    fresh.folders.append(shards)

    def on_shard(shard: Shard, computed: bool) -> None:
        nonlocal seen
        seen += shard.rows
        if computed:
            fresh.rows += shard.rows
        else:
            told.skipped(shard.rows)

    told.start(label, count)
    stop = run_stage(stage, shards, on_shard)
    told.finish()
    if seen != count:
        raise DatasetChangedError(f"The dataset gave {seen} rows where {count} had been counted.")
    return stop


def _picking(folder: Path) -> FileLock:
    """Held by the part that picks, or takes its picks back; the others wait."""
    return FileLock(folder / "picked.lock")


def picked_of(
    run: RunFolder, shards: int, options: ScanOptions, anchors: AnchorMeasurements, fresh: FreshShards | None = None
) -> Picked:
    """What a prefilter lets through: from the finished shards of its representation pass, once in a run's life.

    The gradient pass's shards are cut from these rows, so they stay the same whatever becomes of a shard of the first.
    """
    assert options.prefilter is not None
    folder = run.folder / "signals" / GRADIENT
    folder.mkdir(parents=True, exist_ok=True)
    with _picking(folder):
        if not (folder / PICKED).exists():
            picked = pick_rows(
                ShardFolder(run.folder / "signals").tables(shards),
                scorer_of(anchors, options),
                options.prefilter,
                options.prefilter_sample,
                options.seed,
                options.prefilter_by or PICKED_BY,
            )
            write_picked(folder / PICKED, picked)
            if fresh is not None:
                fresh.picks = folder / PICKED
        return read_picked(folder / PICKED)


def scorer_of(anchors: AnchorMeasurements, options: ScanOptions) -> Scorer:
    """What turns signals into scores."""
    quirks = options.quirks
    rounded, summed = (bool(quirks.get(name)) for name in ("round_to_bf16", "anchors_running_sum"))
    return Scorer(anchors, options.avg_n, rounded, summed)


def signal_tables(run: RunFolder, found: Signals) -> Iterable[pa.Table]:
    """The shards' tables, in order, joined with those of further passes."""
    signals = run.folder / "signals"
    tables = ShardFolder(signals).tables(found.shards)
    if found.picked is not None:
        return join_gradients(tables, ShardFolder(signals / GRADIENT).tables(found.gradient_shards), found.picked)
    extra = sorted(signals.glob("per_anchor_*"))
    return _joined(found.shards, [signals, *extra]) if extra else tables


def _joined(shards: int, folders: list[Path]) -> Iterable[pa.Table]:
    streams: list[Iterable[pa.Table]] = [ShardFolder(folder).tables(shards) for folder in folders]
    for parts in zip(*streams, strict=True):
        table = parts[0]
        for part in parts[1:]:
            for name in part.column_names:
                if name.removeprefix("window_").startswith("dot_anchor_"):
                    table = table.append_column(name, part[name])
        yield table
