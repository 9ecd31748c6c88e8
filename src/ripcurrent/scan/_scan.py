"""Scan: every row of a dataset scored, streamed to disk in shards, resumed where it stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import JsonValue

from ripcurrent.anchors import AnchorSet, load_anchors
from ripcurrent.data import Dataset, DatasetInfo
from ripcurrent.errors import DatasetChangedError, ExitCode, RipcurrentError
from ripcurrent.models import process_peak
from ripcurrent.progress import Progress, SilentProgress
from ripcurrent.runs import MANIFEST, RunFolder, library_versions, machine, require_run_folder, write_json
from ripcurrent.scan._execution import scorer
from ripcurrent.scan._manifest import FRESH, ScanAnchors, ScanCost, ScanManifest, merged_cost, read_parts, write_part
from ripcurrent.scan._objects import as_files
from ripcurrent.scan._options import Execution, ScanOptions, require_combination
from ripcurrent.scan._overview import row_notes
from ripcurrent.scan._passes import ScanPasses, SignalStage
from ripcurrent.scan._prepared_anchors import PreparedAnchors
from ripcurrent.scan._reference import keep_reference
from ripcurrent.scan._run import SCORES, ScanRun
from ripcurrent.scan._scan_model import load_scan_model, memory_record
from ripcurrent.scan._score import write_scores
from ripcurrent.scan._separation import require_separation, separation
from ripcurrent.scan._shards import Part, ShardFolder, run_shards, shards_in
from ripcurrent.scan._tokens import add_token_shares

PLACES = ("model", "adapter", "anchors", "device")
"""Options that say where something lies: a run is known by what it is, by hash, and by the device's kind."""


def scan(
    dataset: Any,
    out: str | Path | None = None,
    options: ScanOptions | None = None,
    *,
    tokenizer: Any = None,
    part: Part | None = None,
    execution: Execution | None = None,
    progress: Progress | None = None,
    **changes: Any,
) -> ScanRun:
    """Score every row of a dataset and leave ``scores.parquet`` and ``manifest.json`` in a run folder.

    Args:
        dataset: Anything that :func:`ripcurrent.read_rows` reads; a ``datasets.Dataset`` or an iterable of
            dictionaries, kept beside the run folder; or a TRL ``SFTTrainer``, scored on the tokens that it trains.
        out: The run folder, ``runs/<dataset name>`` unless named. One that holds the same scan is resumed.
        options: What to compute.
        tokenizer: That of a ``model`` in memory.
        part: Score only one part of the rows, beside other processes that score the others into the same folder. The
            part that ends last writes the scores of all; until then the run that is returned is not ``finished``.
        execution: Who computes: this process unless given.
        progress: Called with steps and numbers of rows.
        **changes: Single options by name; ``model`` may also be a ``PreTrainedModel`` or ``PeftModel``.

    Raises:
        RipcurrentError: Anything the user can mend: the dataset, the model, the anchors, the folder; or no usable row.
    """
    started, began, laps = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter(), dict[str, float]()
    execution, progress = execution or Execution(), progress or SilentProgress()

    def lap(step: str) -> None:
        laps[step] = round(time.perf_counter() - began - sum(laps.values()), 3)

    with ExitStack() as stack:
        path, chosen, held = stack.enter_context(as_files(dataset, out, options, tokenizer, changes, execution))
        rows = chosen.open(path)
        require_combination(chosen, rows.format, in_part=part is not None, execution=execution)
        folder = default_folder(rows) if out is None else Path(out)
        require_run_folder(folder)
        progress.step("reading the dataset")
        about, anchor_set = rows.describe(), load_anchors(chosen.anchors)
        progress.step("loading the model")
        passes = ScanPasses(load_scan_model(chosen, held), chosen)
        lap("load")
        identity, number = _identity(passes, about, anchor_set), None if part is None else str(part)
        run = stack.enter_context(RunFolder(folder, identity, part=number, may_change=PLACES))
        anchors = passes.anchors(anchor_set, progress)
        manifest = _begun(started, about, passes, anchors)
        # now, as the cache that they lie in may be cleaned at any time
        used = None if anchors.cache is None else anchors.cache.record()
        lap("anchors")
        stage = passes.stage(anchors, run, rows, progress)
        shards, signals = shards_in(part, about.rows, chosen.shard_rows), ShardFolder(folder / "signals")
        progress.start("scoring rows", sum(shard.rows for shard in shards))
        with _undone_if_changed(rows, signals):
            score = scorer(execution, rows, passes.options, about.rows, stage)
            computed = run_shards(shards, signals, score, progress.skipped)
        progress.finish()
        lap("signals")
        laps[FRESH] = sum(shard.rows for shard in computed)
        cost = _cost(laps, stage, passes, execution)
        if part is not None:
            write_part(folder, part, started, cost)
            if any(signals.done(one.number) != one for one in shards_in(None, about.rows, chosen.shard_rows)):
                return ScanRun(folder, manifest.model_copy(update=dict(cost)))
        progress.step("writing scores")
        # parts that end together take turns
        with FileLock(folder / "merge.lock"):
            if used is not None and (computed or not (folder / "anchors" / "directions.json").exists()):
                write_json(folder / "anchors" / "directions.json", used)
            scanned = _finished(run, manifest, rows, passes, cost, whole=part is None)
            keep_reference(scanned, identity, stage if execution.executor == "local" else None, progress)
            add_token_shares(scanned, rows, passes, anchors, progress)
    return scanned


def _cost(laps: dict[str, float], stage: SignalStage, passes: ScanPasses, execution: Execution) -> ScanCost:
    return ScanCost(
        timings=laps,
        peak_memory_bytes=process_peak(),
        memory=memory_record(stage, passes.options, passes.memory_plan, here=execution.executor != "ray"),
        execution=execution.model_dump(include={"executor", "workers"}),
    )


def default_folder(rows: Dataset) -> Path:
    """The run folder of a dataset where none is named."""
    return Path("runs") / rows.name.replace("/", "--")


def _identity(passes: ScanPasses, about: DatasetInfo, anchor_set: AnchorSet) -> dict[str, JsonValue]:
    """What makes a scan the same one: a folder that holds another is refused."""
    model = passes.model
    return {
        **passes.options.model_dump(exclude={"memory", "tokens"}),
        "dataset_sha256": about.sha256,
        "anchors_sha256": anchor_set.sha256,
        "model_fingerprint": model.fingerprint,
        "template_sha256": model.template_sha256,
        "tokenizer_sha256": model.tokenizer_sha256,
        "version": version("ripcurrent"),
        "resolved_device": passes.chat_model.device.type,
        "resolved_dtype": model.dtype,
    }


def _begun(started: str, about: DatasetInfo, passes: ScanPasses, anchors: PreparedAnchors) -> ScanManifest:
    """The manifest as far as it depends on no row; refuses anchors that do not separate."""
    options, measurements = passes.options, anchors.measurements
    separated = separation(measurements, options.avg_n)
    if options.anchor_check:
        require_separation(anchors.anchor_set.name, separated)
    return ScanManifest(
        version=version("ripcurrent"),
        command="scan",
        started=started,
        versions=library_versions("torch", "transformers", "peft", "tokenizers", "pyarrow", "numpy"),
        machine=machine(),
        seeds={"seed": options.seed},
        dataset=about,
        model=passes.model,
        anchors=ScanAnchors(
            name=anchors.anchor_set.name,
            sha256=anchors.anchor_set.sha256,
            order=tuple(measurements.order),
            separation=separated,
            measurements=measurements,
        ),
        options=options.model_copy(update={"tokens": None}),
        left_out=[] if passes.gradient_pass is None else list(passes.gradient_pass.layers.left_out),
    )


def _finished(
    run: RunFolder, manifest: ScanManifest, rows: Dataset, passes: ScanPasses, cost: ScanCost, *, whole: bool
) -> ScanRun:
    """Write the scores of all rows and the manifest; without ``whole`` this process computed one part of them."""
    options, measurements = manifest.options, manifest.anchors.measurements
    assert measurements is not None
    tables = ShardFolder(run.folder / "signals").tables(len(shards_in(None, manifest.dataset.rows, options.shard_rows)))
    about = manifest.model_dump(mode="json", include={"version", "model", "dataset", "options"})
    about |= {"default_ranking": options.default_ranking}
    about["anchors"] = manifest.anchors.model_dump(mode="json", exclude={"measurements"})
    counts = write_scores(run.folder, tables, measurements, options.avg_n, about)
    parts = read_parts(run.folder)
    previous = ScanManifest.read(run.folder) if (run.folder / MANIFEST).exists() else None
    if parts and (not whole or (previous is None and not cost.timings[FRESH])):
        cost = merged_cost(parts)
    changes: dict[str, Any] = {
        **dict(cost),
        "parts": parts,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "status_counts": dict(counts.statuses),
        "row_notes": row_notes(rows, counts, passes),
    }
    if previous is not None and whole and not cost.timings[FRESH]:
        # nothing was computed: when, by what and on what the scores were made stays
        kept = ("versions", "machine", "started", "finished", *ScanCost.model_fields)
        changes |= {name: getattr(previous, name) for name in kept}
    manifest = manifest.model_copy(update=changes)
    manifest.write(run.folder)
    if not counts.statuses["ok"]:
        path = manifest.dataset.path
        reasons = ", ".join(f"{number} {status}" for status, number in sorted(counts.statuses.items()))
        see = f"See the status column of {run.folder / SCORES}, or `ripcurrent doctor {path}`."
        hint = " ".join([*manifest.row_notes, see])
        raise RipcurrentError(f"No row of {path} could be scored ({reasons}).", hint, code=ExitCode.NOT_MEASURED)
    return ScanRun(run.folder, manifest)


@contextmanager
def _undone_if_changed(rows: Dataset, signals: ShardFolder) -> Iterator[None]:
    """Delete the shards of this call if the dataset changed during the scan, however the block ends."""
    try:
        yield
        if rows.has_changed():
            raise DatasetChangedError(f"{rows.path} is no longer what it was when the scan began.")
    except BaseException as error:
        # a user may have seen it and pressed Ctrl-C, or a file saved halfway cannot be read
        if isinstance(error, DatasetChangedError) or rows.has_changed():
            signals.undo()
        raise
