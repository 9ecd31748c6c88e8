"""Scan: every row of a dataset scored, streamed to disk in shards, resumed where it stopped."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa

from ripcurrent.anchors import load_anchors
from ripcurrent.api._anchors import (
    PreparedAnchors,
    anchor_gradient,
    directions_record,
    encode_for_gradient,
    prepare_anchors,
)
from ripcurrent.api._options import ScanOptions, require_positions, resolve_options
from ripcurrent.api._progress import Progress, SilentProgress
from ripcurrent.data import Dataset, read_rows
from ripcurrent.engine import LocalExecutor, ShardFolder
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.models import ChatModel, count_parameters, describe, load_model, require_chat_template
from ripcurrent.report import build_report
from ripcurrent.run import RunDirectory, write_json
from ripcurrent.scoring import Scorer, dot_column, require_separation, separation, write_scores
from ripcurrent.signals import FeatureReader, GradientPass, SignalStage, stack_directions

PER_ANCHOR_BYTES = 2 * 2**30
"""Directions held at once when every anchor has its own."""


@dataclass(frozen=True, slots=True)
class ScanResult:
    """A finished scan."""

    folder: Path
    """The run folder: ``scores.parquet``, ``report.html``, ``manifest.json``."""
    status_counts: dict[str, int]
    """Rows by status."""
    manifest: dict[str, Any]
    """What was run on what, with hashes, versions and timings."""

    @property
    def scores_path(self) -> Path:
        """The scores table."""
        return self.folder / "scores.parquet"

    @property
    def report_path(self) -> Path:
        """The page."""
        return self.folder / "report.html"

    def scores(self) -> pa.Table:
        """The scores table, read."""
        import pyarrow.parquet as pq

        return pq.read_table(self.scores_path)


def scan(
    dataset: str | Path,
    out: str | Path | None = None,
    options: ScanOptions | None = None,
    *,
    progress: Progress | None = None,
    **changes: Any,
) -> ScanResult:
    """Score every row of a dataset and leave ``scores.parquet`` and ``report.html`` in a run folder.

    Args:
        dataset: Anything that :func:`ripcurrent.read_rows` reads.
        out: The run folder; ``runs/<dataset name>`` unless named. One that holds the same scan is resumed.
        options: What to compute; :class:`ScanOptions`' defaults unless given.
        progress: Told of steps and rows.
        **changes: Single options by name, such as ``signals="representation"``.

    Raises:
        RipcurrentError: Anything the user can mend: the dataset, the model, the anchors, the folder; or no usable row.
    """
    chosen = resolve_options(options, changes)
    told = progress or SilentProgress()
    started, clock = datetime.now(UTC), time.perf_counter()
    rows = read_rows(dataset, format=chosen.format, mapping=chosen.mapping, limit=chosen.limit)
    told.step("reading")
    count, sha256 = rows.count_and_hash()
    anchor_set = load_anchors(chosen.anchors)
    told.step("loading the model")
    chat_model = load_model(
        chosen.model,
        adapter=chosen.adapter,
        device=chosen.device,
        dtype=chosen.dtype,
        scope=chosen.scope,
        attention=chosen.attention,
        seed=chosen.seed,
    )
    require_chat_template(chat_model)
    require_positions(chat_model, chosen)
    folder = Path(out) if out is not None else Path("runs") / rows.name.replace("/", "--")
    identity = {
        **chosen.model_dump(),
        "dataset_sha256": sha256,
        "anchors_sha256": anchor_set.sha256,
        "model_fingerprint": chat_model.fingerprint,
        "template_sha256": chat_model.template_sha256,
        "tokenizer_sha256": chat_model.tokenizer_sha256,
        "version": version("ripcurrent"),
        "resolved_device": chat_model.device.type,
        "resolved_dtype": str(chat_model.dtype).removeprefix("torch."),
    }
    loaded = time.perf_counter()
    with RunDirectory(folder, identity) as run:
        gradient_pass = GradientPass(chat_model) if chosen.wants_gradient else None
        features = (
            FeatureReader(chat_model, layer=chosen.layer, position=chosen.position)
            if chosen.wants_representation
            else None
        )
        anchors = prepare_anchors(anchor_set, chat_model, chosen, gradient_pass, features, on_step=told.step)
        separations = separation(anchors.measurements, chosen.avg_n)
        if chosen.anchor_check:
            require_separation(anchor_set.name, separations)
        prepared = time.perf_counter()
        shards, fresh_rows = _run_signals(run, rows, chosen, chat_model, gradient_pass, features, anchors, told, count)
        scored = time.perf_counter()
        record = run.folder / "anchors" / "directions.json"
        if anchors.folder is not None and (fresh_rows or not record.exists()):
            write_json(record, directions_record(anchors, chat_model, chosen))
        told.step("writing scores")
        manifest: dict[str, Any] = {
            "version": version("ripcurrent"),
            "command": "scan",
            "dataset": {
                "path": _absolute(rows.path),
                "name": rows.name,
                "sha256": sha256,
                "format": rows.format,
                "mapping": chosen.mapping,
                "container": rows.container,
                "rows": count,
            },
            "model": describe(chat_model),
            "anchors": {
                "name": anchor_set.name,
                "sha256": anchor_set.sha256,
                "order": [list(place) for place in anchor_set.order],
                "separation": separations,
                "measurements": anchors.measurements.as_json(),
            },
            "options": chosen.model_dump(),
            "quirks": chosen.quirks,
            "left_out": list(gradient_pass.catalogue.left_out) if gradient_pass is not None else [],
            "seeds": {"seed": chosen.seed},
            "versions": _versions(),
            "machine": {"platform": platform.platform(), "python": platform.python_version(), "cpus": os.cpu_count()},
            "started": started.isoformat(timespec="seconds"),
        }
        counts = _write_scores(run, shards, chosen, anchors, manifest)
        measured: dict[str, Any] = {
            "timings": {
                "load": round(loaded - clock, 3),
                "anchors": round(prepared - loaded, 3),
                "signals": round(scored - prepared, 3),
                "rows_scored_in_this_call": fresh_rows,
            },
            "peak_memory_bytes": _peak_memory(),
        }
        previous = run.read_manifest()
        if previous and not fresh_rows:
            measured = {key: previous[key] for key in measured}
        manifest |= {
            **measured,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "status_counts": counts,
        }
        run.write_manifest(manifest)
        if not counts.get("ok"):
            reasons = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
            raise RipcurrentError(
                f"No row of {rows.path} could be scored ({reasons}).",
                f"See the status column of {run.folder / 'scores.parquet'}, or `ripcurrent doctor {rows.path}`.",
                code=ExitCode.NOT_MEASURED,
            )
        told.step("writing the page")
        build_report(run.folder)
    return ScanResult(folder, counts, manifest)


def _run_signals(
    run: RunDirectory,
    rows: Dataset,
    options: ScanOptions,
    chat_model: ChatModel,
    gradient_pass: GradientPass | None,
    features: FeatureReader | None,
    anchors: PreparedAnchors,
    told: Progress,
    count: int,
) -> tuple[int, int]:
    """Run the signal stage over every shard that is not done; the number of shards and of rows computed now."""
    directions = None
    if gradient_pass is not None:
        stored = [anchors.direction("harmful"), anchors.direction("safe")]
        directions = stack_directions(gradient_pass.catalogue, list(stored), chat_model.dtype)
    common: dict[str, Any] = {
        "chat_model": chat_model,
        "token_budget": options.token_budget,
        "max_tokens": options.max_tokens,
        "loss_on": options.loss_on,
        "row_tokens": options.row_tokens,
        "pad_to": options.quirks.get("pad_to"),
        "batch_rows": options.quirks.get("batch_rows"),
        "drop_refusals": options.drop_refusals,
        "on_rows": told.rows,
    }
    stage = SignalStage(
        gradient_pass=gradient_pass,
        directions=directions,
        direction_columns=("dot_harmful", "dot_safe") if gradient_pass is not None else (),
        features=features,
        anchor_features=anchors.features,
        **common,
    )
    group = max(1, PER_ANCHOR_BYTES // (count_parameters(chat_model) * chat_model.dtype.itemsize))
    if options.per_anchor and gradient_pass is not None:
        number_of_anchors = len(anchors.anchor_set.anchors)
        passes = -(-number_of_anchors // group)
        told.step(f"{number_of_anchors} anchors with a direction each: {passes} further passes over all rows")
    shards, fresh = _run_stage(run.folder / "signals", rows, stage, options, told, "scoring rows", count)
    if options.per_anchor and gradient_pass is not None:
        del stage, directions
        encoded = encode_for_gradient(anchors.anchor_set, chat_model, options)
        for number, start in enumerate(range(0, len(encoded), group)):
            places = range(start, min(start + group, len(encoded)))
            target = run.folder / "signals" / f"per_anchor_{number:02d}"
            gradients = (anchor_gradient(gradient_pass, encoded[place]) for place in places)
            stage = SignalStage(
                gradient_pass=gradient_pass,
                directions=stack_directions(gradient_pass.catalogue, gradients, chat_model.dtype, count=len(places)),
                direction_columns=tuple(dot_column(place) for place in places),
                **common,
            )
            label = f"anchors {start} to {places[-1]} of {len(encoded)}"
            fresh += _run_stage(target, rows, stage, options, told, label, count)[1]
            del stage
    return shards, fresh


def _run_stage(
    folder: Path, rows: Dataset, stage: SignalStage, options: ScanOptions, told: Progress, label: str, count: int
) -> tuple[int, int]:
    fresh_rows = 0

    def on_shard(shard: Any, fresh: bool) -> None:
        nonlocal fresh_rows
        if fresh:
            fresh_rows += shard.rows
        else:
            told.skipped(shard.rows)

    told.start(label, count)
    shards = LocalExecutor().run(
        rows.iter_from, stage, ShardFolder(folder), shard_rows=options.shard_rows, on_shard=on_shard
    )
    told.finish()
    return shards, fresh_rows


def _write_scores(
    run: RunDirectory, shards: int, options: ScanOptions, anchors: PreparedAnchors, manifest: dict[str, Any]
) -> dict[str, int]:
    signals = run.folder / "signals"
    tables: Iterable[pa.Table] = ShardFolder(signals).tables(shards)
    extra = sorted(signals.glob("per_anchor_*"))
    if extra:
        tables = _joined(shards, [signals, *extra])
    scorer = Scorer(anchors.measurements, options.avg_n, bool(options.quirks.get("round_to_bf16")))
    metadata = {
        "default_ranking": options.default_ranking,
        **{key: manifest[key] for key in ("version", "model", "dataset", "options", "quirks")},
        "anchors": {key: manifest["anchors"][key] for key in ("name", "sha256", "order", "separation")},
    }
    return write_scores(run.folder / "scores.parquet", tables, scorer, metadata)


def _joined(shards: int, folders: list[Path]) -> Iterable[pa.Table]:
    streams: list[Iterable[pa.Table]] = [ShardFolder(folder).tables(shards) for folder in folders]
    for parts in zip(*streams, strict=True):
        table = parts[0]
        for part in parts[1:]:
            for name in part.column_names:
                if name.startswith("dot_anchor_"):
                    table = table.append_column(name, part[name])
        yield table


def _absolute(path: str) -> str:
    return path if path.startswith("hf:") else str(Path(path).resolve())


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "transformers", "peft", "tokenizers", "pyarrow", "numpy")}


def _peak_memory() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
