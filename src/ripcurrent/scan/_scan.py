"""Scan: every row of a dataset scored, streamed to disk in shards, resumed where it stopped."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from ripcurrent.anchors import load_anchors
from ripcurrent.data import Dataset, read_rows
from ripcurrent.errors import DatasetChangedError, ExitCode, RipcurrentError
from ripcurrent.forecast._calibration import Calibration, find_calibration
from ripcurrent.forecast._coherence import Rows, coherence_of
from ripcurrent.forecast._write import write_forecast
from ripcurrent.gradients import FeatureReader, GradientPass, in_memory
from ripcurrent.models import describe, give_back_freed_memory, process_peak
from ripcurrent.progress import Progress, SilentProgress
from ripcurrent.report import build_report
from ripcurrent.runs import RunFolder, require_run_folder, write_json
from ripcurrent.scan._execution import Execution, absolute, running
from ripcurrent.scan._memory import leaves_room_for_gradient, memory_record
from ripcurrent.scan._options import ScanOptions, require_combination, resolve_options
from ripcurrent.scan._part import Part
from ripcurrent.scan._parts import (
    PLACES,
    PLAN_FILES,
    PartResult,
    read_parts,
    require_divisible,
    rows_of,
    shards_of,
    short_record,
    write_part,
)
from ripcurrent.scan._prefilter import prefilter_record
from ripcurrent.scan._prepared_anchors import (
    directions_record,
    prepare_anchors,
)
from ripcurrent.scan._row_notes import row_notes
from ripcurrent.scan._run import ScanRun
from ripcurrent.scan._scan_model import load_scan_model
from ripcurrent.scan._scan_passes import (
    FreshShards,
    Signals,
    has_changed,
    run_signals,
    scorer_of,
    signal_tables,
)
from ripcurrent.scan._score import write_scores
from ripcurrent.scan._separation import AnchorMeasurements, require_separation, separation
from ripcurrent.scan._timed_batches import batches_path, read_batches
from ripcurrent.scan._tokens import add_token_shares
from ripcurrent.scan._window_scores import write_windows
from ripcurrent.select_old import plain_numbers, read_scores
from ripcurrent.select_old._table import ScoredRows


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
    execution: Execution | None = None,
    forecast: str | Path | None = None,
    progress: Progress | None = None,
    **changes: Any,
) -> ScanResult:
    """Score every row of a dataset and leave ``scores.parquet`` and ``report.html`` in a run folder.

    Args:
        dataset: Anything that :func:`ripcurrent.read_rows` reads.
        out: The run folder; ``runs/<dataset name>`` unless named. One that holds the same scan is resumed.
        options: What to compute; :class:`ScanOptions`' defaults unless given.
        execution: Who computes: this process unless given.
        forecast: A calibration to forecast by; one that comes with the package unless named, where it matches.
        progress: Told of steps and rows.
        **changes: Single options by name, such as ``signals="representation"``.

    Raises:
        RipcurrentError: Anything the user can mend: the dataset, the model, the anchors, the folder; or no usable row.
    """
    calibration = None if forecast is None else find_calibration(forecast)
    chosen = resolve_options(options, changes)
    result = _scan(dataset, out, chosen, None, execution or Execution(), progress, calibration)
    assert isinstance(result, ScanResult)
    return result


def scan_part(
    dataset: str | Path,
    part: Part,
    out: str | Path | None = None,
    options: ScanOptions | None = None,
    *,
    execution: Execution | None = None,
    progress: Progress | None = None,
    **changes: Any,
) -> PartResult:
    """Score one part of a dataset's rows into a run folder, beside other processes that take the other parts.

    :func:`ripcurrent.scan._merge.merge_parts` makes the parts one run; so does :func:`scan` given the same.

    Args:
        dataset: As :func:`scan` takes it; every part reads and hashes all of it.
        part: Which of how many.
        out: The run folder, shared with the other parts or this part's own.
        options: What to compute, the same in every part.
        execution: Who computes: this process unless given.
        progress: Told of steps and rows.
        **changes: Single options by name.

    Raises:
        RipcurrentError: As :func:`scan`; the part is at work already; or an option that needs to see all rows.

    With a prefilter a part is given twice: rows are picked from all parts' representation passes, so the gradient pass
    over them begins when all of these are in the shared folder (:attr:`PartResult.waits`).
    """
    result = _scan(dataset, out, resolve_options(options, changes), part, execution or Execution(), progress)
    assert isinstance(result, PartResult)
    return result


def _scan(
    dataset: str | Path,
    out: str | Path | None,
    chosen: ScanOptions,
    part: Part | None,
    execution: Execution,
    progress: Progress | None,
    calibration: Calibration | None = None,
) -> ScanResult | PartResult:
    if part is not None:
        require_divisible(chosen, "--shard")
    if execution.executor != "local":
        require_divisible(chosen, "--executor ray")
        if chosen.device == "auto":
            raise RipcurrentError(
                "--device auto does not go with --executor ray: one GPU is needed for each worker.",
                "Leave one of the two out; without Ray, --shard gives each machine its part.",
            )
        if chosen.token_budget == "auto":
            raise RipcurrentError(
                "--token-budget auto does not go with --executor ray: batches are timed in the process that has them.",
                "Use --shard, or name a number that doctor DATASET --try-budgets tells on a worker's machine.",
            )
        if chosen.memory is not None:
            raise RipcurrentError(
                "--memory does not go with --executor ray: a budget is measured in the process that keeps it.",
                "Use --shard, or leave it out and name a smaller --token-budget if a worker has too little memory.",
            )
    told = progress or SilentProgress()
    started, clock = datetime.now(UTC), time.perf_counter()
    rows = read_rows(dataset, format=chosen.format, mapping=chosen.mapping, limit=chosen.limit)
    require_combination(chosen, rows.format)
    folder = Path(out) if out is not None else folder_of(rows)
    require_run_folder(folder)
    told.step("reading")
    sample = rows.sampled_hash()
    count, sha256 = rows.count_and_hash()
    anchor_set = load_anchors(chosen.anchors)
    told.step("loading the model")
    chat_model = load_scan_model(chosen)
    chosen = chosen.decided(chat_model.device.type)
    identity = {
        **chosen.model_dump(exclude={"memory", "tokens"}),
        "dataset_sha256": sha256,
        "anchors_sha256": anchor_set.sha256,
        "model_fingerprint": chat_model.fingerprint,
        "template_sha256": chat_model.template_sha256,
        "tokenizer_sha256": chat_model.tokenizer_sha256,
        "version": version("ripcurrent"),
        "resolved_device": chat_model.device.type,
        "resolved_dtype": str(chat_model.dtype).removeprefix("torch."),
    }
    # before Ray's workers are sent the model, of which nothing but the shapes is left here then
    about = describe(chat_model).model_dump()
    loaded = time.perf_counter()
    part_name = None if part is None else str(part)
    reports: dict[str, dict[str, int]] = {}
    with (
        RunFolder(folder, identity, part=part_name, no_results=PLAN_FILES, may_change=PLACES) as run,
        running(
            execution,
            rows,
            chosen,
            count=count,
            part=part,
            on_gpu=chat_model.device.type == "cuda",
            reports=reports,
        ) as run_stage,
    ):
        gradient_pass = GradientPass(chat_model) if chosen.wants_gradient else None
        if chosen.tokens is not None and gradient_pass is not None:
            gradient_pass.require_token_axes()
        features = (
            FeatureReader(chat_model, layer=chosen.layer, position=chosen.position)
            if chosen.wants_representation
            else None
        )
        with in_memory("The anchors' directions"):
            anchors = prepare_anchors(anchor_set, chat_model, chosen, gradient_pass, features, on_step=told.step)
        separations = separation(anchors.measurements, chosen.avg_n)
        if chosen.anchor_check:
            require_separation(anchor_set.name, separations)
        # now, as the cache that they lie in may be cleaned at any time
        used = None if anchors.folder is None else directions_record(anchors, chat_model, chosen)
        prepared = time.perf_counter()
        threads, fresh = torch.get_num_threads(), FreshShards()
        try:
            signals = run_signals(
                run, rows, chosen, chat_model, gradient_pass, features, anchors, told, count, run_stage, fresh, part
            )
            if has_changed(rows, sample):
                raise DatasetChangedError(f"{rows.path} is no longer what it was when the scan began.")
        except BaseException as error:
            # however it ended: Ctrl-C by who saw what they had done, or a file saved halfway that cannot be read
            if isinstance(error, DatasetChangedError) or has_changed(rows, sample):
                fresh.forget()
            raise
        finally:
            # timed batches may have gone with others
            torch.set_num_threads(threads)
        scored = time.perf_counter()
        record = run.folder / "anchors" / "directions.json"
        if used is not None and part is None and (fresh.rows or not record.exists()):
            write_json(record, used)
        manifest: dict[str, Any] = {
            "version": version("ripcurrent"),
            "command": "scan",
            "dataset": {
                "path": absolute(rows.path),
                "name": rows.name,
                "sha256": sha256,
                "format": rows.format,
                "mapping": chosen.mapping,
                "container": rows.container,
                "rows": count,
            },
            "model": about,
            "anchors": {
                "name": anchor_set.name,
                "sha256": anchor_set.sha256,
                "order": [list(place) for place in anchor_set.order],
                "separation": separations,
                "measurements": anchors.measurements.as_json(),
            },
            "options": chosen.model_dump(exclude={"tokens"}),
            "quirks": chosen.quirks,
            "left_out": list(gradient_pass.layers.left_out) if gradient_pass is not None else [],
            "row_notes": row_notes(rows, count, chosen, chat_model.tokenizer),
            "seeds": {"seed": chosen.seed},
            "versions": _versions(),
            "machine": {"platform": platform.platform(), "python": platform.python_version(), "cpus": os.cpu_count()},
            "started": started.isoformat(timespec="seconds"),
        }
        measured: dict[str, Any] = {
            "timings": {
                "load": round(loaded - clock, 3),
                "anchors": round(prepared - loaded, 3),
                "signals": round(scored - prepared, 3),
                "rows_scored_in_this_call": fresh.rows,
            },
            "peak_memory_bytes": process_peak(),
            "memory": memory_record(chosen, chat_model.devices, signals.memory_plan, signals.batches_halved),
            "execution": {"executor": execution.executor, "workers": execution.workers},
        }
        if chosen.token_budget == "auto":
            measured["execution"]["batches"] = read_batches(batches_path(run.folder, part))
        if execution.executor == "ray":
            # the other peaks are of this process, which measured the anchors
            measured["memory"]["batches_halved"] = sum(one["batches_halved"] for one in reports.values())
            measured["execution"]["worker_peak_bytes"] = {who: one["peak_bytes"] for who, one in reports.items()}
        if part is not None:
            write_part(run.folder, part, manifest, measured, used)
            own_rows = rows_of(shards_of(part, count, chosen), count, chosen)
            return PartResult(folder, part, own_rows, fresh.rows, signals.waits)
        told.step("writing scores")
        counts = write_scan_scores(run, signals, chosen, anchors.measurements, manifest)
        if parts := read_parts(run.folder):
            measured["parts"] = [short_record(record) for record in parts]
        manifest |= {
            **measured,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "status_counts": counts,
        }
        previous = run.read_manifest()
        if previous and not fresh.rows:
            # nothing was computed: when, by what and on what the scores were made stays
            kept = ("versions", "machine", "started", "finished", *measured)
            manifest |= {key: previous.get(key) for key in kept}
        keep_manifest(run, manifest)

        def measure(chosen_rows: Rows) -> float:
            assert gradient_pass is not None
            told.step("how alike rows are")
            # the passes' batches have left holes, and this takes a gradient in float32 beside its own
            give_back_freed_memory()
            scored = ScoredRows(read_scores(run.folder, ("row", "status", "gradient_norm")))
            return coherence_of(chosen_rows, rows, scored, chosen, chat_model, gradient_pass)

        # under Ray the model is no longer here
        can_measure = (
            gradient_pass is not None
            and execution.executor == "local"
            and leaves_room_for_gradient(signals.memory_plan, gradient_pass.layers)
        )
        write_forecast(run.folder, calibration, measure=measure if can_measure else None)
        if fresh.rows and execution.executor == "local":
            # scores and a forecast take memory, too; the page, which shows this, is still to come
            manifest["peak_memory_bytes"] = process_peak()
            manifest["memory"] = memory_record(chosen, chat_model.devices, signals.memory_plan, signals.batches_halved)
            run.write_manifest(manifest)
        told.step("writing the page")
        build_report(ScanRun.open(run.folder))
        # last, and beside a page that is there: a pass over some rows that may be long, or not fit
        mapped = signals.memory_plan is not None and signals.memory_plan.mapped_directions
        shares = add_token_shares(run, rows, chosen, chat_model, gradient_pass, anchors, told, mapped=mapped)
        if shares is not None:
            manifest["tokens"] = shares
            run.write_manifest(manifest)
            told.step("writing the page")
            build_report(ScanRun.open(run.folder))
    return ScanResult(folder, counts, manifest)


def folder_of(rows: Dataset) -> Path:
    """The run folder of a dataset where none is named."""
    return Path("runs") / rows.name.replace("/", "--")


def default_folder(dataset: str | Path, options: Mapping[str, Any]) -> Path:
    """The same, from what names a dataset and the scan's options for reading it."""
    return folder_of(read_rows(dataset, format=options.get("format"), mapping=options.get("mapping")))


def keep_manifest(run: RunFolder, manifest: dict[str, Any]) -> None:
    """Write a finished scan's manifest.

    Raises:
        RipcurrentError: No row could be scored.
    """
    run.write_manifest(manifest)
    counts, path = manifest["status_counts"], manifest["dataset"]["path"]
    if not counts.get("ok"):
        reasons = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
        raise RipcurrentError(
            f"No row of {path} could be scored ({reasons}).",
            " ".join(
                [
                    *manifest.get("row_notes", ()),
                    f"See the status column of {run.folder / 'scores.parquet'}, or `ripcurrent doctor {path}`.",
                ]
            ),
            code=ExitCode.NOT_MEASURED,
        )


def write_scan_scores(
    run: RunFolder, found: Signals, options: ScanOptions, anchors: AnchorMeasurements, manifest: dict[str, Any]
) -> dict[str, int]:
    """Write the scores table of a scan whose shards are all there; returns the number of rows of each status."""
    scorer = scorer_of(anchors, options)
    metadata = {
        "default_ranking": options.default_ranking,
        **{key: manifest[key] for key in ("version", "model", "dataset", "options", "quirks")},
        "anchors": {key: manifest["anchors"][key] for key in ("name", "sha256", "order", "separation")},
    }
    if found.picked is not None:
        assert options.prefilter is not None
        scores = (scorer.score(table) for table in signal_tables(run, found))
        record = prefilter_record(scores, found.picked, options.prefilter, options.default_ranking)
        manifest["prefilter"] = plain_numbers(record)
        metadata["prefilter"] = manifest["prefilter"]
    if options.windows:
        about = {"sign": "as in scores.parquet", "default_ranking": options.default_ranking}
        manifest["windows"] = write_windows(run.folder / "windows.parquet", signal_tables(run, found), scorer, about)
    return write_scores(run.folder / "scores.parquet", signal_tables(run, found), scorer, metadata)


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "transformers", "peft", "tokenizers", "pyarrow", "numpy")}
