"""Merge: the parts of a scan made one run, without the model or the dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from ripcurrent.errors import RipcurrentError
from ripcurrent.forecast._calibration import find_calibration
from ripcurrent.forecast._write import write_forecast
from ripcurrent.progress import Progress, SilentProgress
from ripcurrent.report import build_report
from ripcurrent.runs import RunFolder, difference, read_config, write_json
from ripcurrent.scan._options import ScanOptions
from ripcurrent.scan._parts import (
    GRADIENT,
    PLACES,
    PartRecord,
    gather_shards,
    merged_measurements,
    read_parts,
    require_all_shards,
)
from ripcurrent.scan._run import ScanRun
from ripcurrent.scan._scan import ScanResult, keep_manifest, write_scan_scores
from ripcurrent.scan._scan_passes import Signals, picked_of
from ripcurrent.scan._separation import AnchorMeasurements


def merge_parts(
    runs: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    forecast: str | Path | None = None,
    progress: Progress | None = None,
) -> ScanResult:
    """Make the parts of a scan one run: the same table, manifest and page as one process would have left.

    Shards are what the passes yielded, row by row; whatever looks at all rows is computed from them here.

    Args:
        runs: Run folders that hold parts: one that the parts shared, or one for each part.
        out: The whole run's folder; the parts' own where they shared one.
        forecast: A calibration, as :func:`ripcurrent.scan` takes it.
        progress: Told of steps.

    Raises:
        RipcurrentError: A part is missing or still at work, a folder holds no parts, or parts of different scans.
    """
    told = progress or SilentProgress()
    calibration = None if forecast is None else find_calibration(forecast)
    folders = [Path(run) for run in runs]
    config = _common_config(folders)
    if out is None and len(folders) > 1:
        raise RipcurrentError(
            f"{len(folders)} run folders are to become one.", "Name the folder for the whole with --out."
        )
    target = folders[0] if out is None else Path(out)
    records = [record for folder in folders for record in _parts_in(folder)]
    with RunFolder(target, config, may_change=PLACES) as run:
        told.step("gathering shards")
        for folder in folders:
            if folder.resolve() != target.resolve():
                gather_shards(folder, target)
        records = read_parts(target)
        manifest = records[0].manifest
        options = ScanOptions(**manifest["options"])
        shards = require_all_shards(target, records, manifest["dataset"]["rows"], options)
        measurements = AnchorMeasurements.from_json(manifest["anchors"]["measurements"])
        found = Signals(shards, None, 0)
        if options.prefilter is not None:
            picked = picked_of(run, shards, options, measurements)
            further = require_all_shards(target, records, len(picked.rows), options, GRADIENT)
            found = replace(found, picked=picked, gradient_shards=further)
        if records[0].directions is not None:
            write_json(target / "anchors" / "directions.json", records[0].directions)
        told.step("writing scores")
        counts = write_scan_scores(run, found, options, measurements, manifest)
        manifest |= {
            "started": min(record.manifest["started"] for record in records),
            **merged_measurements(records),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "status_counts": counts,
        }
        if (tokens := run.read_manifest().get("tokens")) is not None:
            # added to an earlier merge of these parts
            manifest["tokens"] = tokens
        keep_manifest(run, manifest)
        write_forecast(target, calibration)
        told.step("writing the page")
        build_report(ScanRun.open(target))
    return ScanResult(target, counts, manifest)


def _common_config(folders: Sequence[Path]) -> dict[str, object]:
    """The configuration that every folder holds."""
    first = read_config(folders[0])
    for folder in folders[1:]:
        other = read_config(folder)
        found = difference(*({key: one[key] for key in one if key not in PLACES} for one in (first, other)))
        if found is not None:
            raise RipcurrentError(
                f"{folders[0]} and {folder} hold parts of different scans: {found}.",
                "Merge parts of one dataset, model, anchors and options.",
            )
    return first


def _parts_in(folder: Path) -> list[PartRecord]:
    records = read_parts(folder)
    if not records:
        raise RipcurrentError(
            f"{folder} holds no finished part of a scan.", "Run `ripcurrent scan … --shard i/n` there to its end."
        )
    return records
