"""Parts of a scan: what each process leaves of its share, and what is missing before they make a whole."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ripcurrent.errors import RipcurrentError
from ripcurrent.runs import PARTS, write_json
from ripcurrent.scan._options import ScanOptions
from ripcurrent.scan._part import Part, count_shards, shard_of
from ripcurrent.scan._shards import ShardFolder

GRADIENT = "gradient"
"""Folder, among the signals, of a prefilter's gradient pass."""
PICKED = "picked.npz"
"""File in it: the rows that were picked."""

PLANS = ("memory", "batches")
"""What is decided before a run's first row and kept, so that a resumed scan batches as before."""
PLAN_FILES = tuple(name for plan in PLANS for name in (f"{plan}.json", f"{plan}-*-of-*.json"))
"""Their files in a run folder, the run's and its parts': a plan is no result yet."""


def plan_file(folder: Path, plan: str, part: Part | None) -> Path:
    """Where a run folder has a plan of a scan, or of one of its parts, whose machine may be another."""
    return folder / (f"{plan}.json" if part is None else f"{plan}-{part.index}-of-{part.of}.json")


@dataclass(frozen=True, slots=True)
class PartResult:
    """A finished part of a scan."""

    folder: Path
    """The run folder."""
    part: Part
    """Which part."""
    rows: int
    """Its rows."""
    rows_scored_in_this_call: int
    """How many of them were not there before; with a prefilter, rows of either pass."""
    waits: bool = False
    """Its prefilter waits for the representation pass of other parts: give the part again when all are there."""


@dataclass(frozen=True, slots=True)
class PartRecord:
    """What a finished part left beside its shards."""

    part: Part
    """Which part."""
    manifest: dict[str, Any]
    """The scan's manifest so far: what depends on no row."""
    measured: dict[str, Any]
    """Timings and peak memory of this part."""
    directions: dict[str, Any] | None
    """Which directions it used; None without gradients."""
    host: str
    """Name of the machine."""

    def as_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return {
            "part": str(self.part),
            "manifest": self.manifest,
            "measured": self.measured,
            "directions": self.directions,
            "host": self.host,
        }


PLACES = ("model", "adapter", "anchors", "device")
"""Options of a scan that say where something lies: the identity holds what it is by hash, and the device's kind."""


def require_divisible(options: ScanOptions, how: str) -> None:
    """Refuse options that need one process to see all rows.

    Raises:
        RipcurrentError: such an option is given; says what to do instead.
    """
    if options.tokens is not None:
        raise RipcurrentError(
            f"--tokens does not go with {how}: it needs one process to see all rows.",
            f"Leave it out, and give the whole scan again with --tokens, without {how}, at the end.",
        )


def shards_of(part: Part | None, rows: int, options: ScanOptions) -> range:
    """Numbers of a part's shards; of all of them without a part."""
    shards = count_shards(rows, options.shard_rows)
    return range(shards) if part is None else part.shards(shards)


def rows_of(numbers: range, rows: int, options: ScanOptions) -> int:
    """How many of the dataset's rows those shards hold."""
    return min(rows, numbers.stop * options.shard_rows) - min(rows, numbers.start * options.shard_rows)


def write_part(
    folder: Path, part: Part, manifest: dict[str, Any], measured: dict[str, Any], directions: dict[str, Any] | None
) -> None:
    """Record that a part is finished; if it computed nothing this time, what was measured before stays.

    A part with a prefilter is given twice, and the record is of both rounds.
    """
    path = _record_path(folder, part)
    if path.exists() and not measured["timings"]["rows_scored_in_this_call"]:
        return
    if path.exists() and manifest["options"]["prefilter"] is not None:
        (before,) = (record.measured for record in read_parts(folder) if record.part == part)
        measured = _both_rounds(before, measured)
    write_json(path, PartRecord(part, manifest, measured, directions, socket.gethostname()).as_json())


def read_parts(folder: Path) -> list[PartRecord]:
    """The records of a run folder's finished parts, in order; empty where there are none."""
    records = []
    for path in (folder / PARTS).glob("*.json"):
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            index, of = value.pop("part").split("/")
            records.append(PartRecord(part=Part(int(index), int(of)), **value))
        except (ValueError, KeyError, TypeError) as error:
            raise RipcurrentError(f"{path} is damaged: {error}.", "Delete it and run that part again.") from None
    return sorted(records, key=lambda record: (record.part.of, record.part.index))


def require_all_shards(
    folder: Path, records: Sequence[PartRecord], rows: int, options: ScanOptions, within: str | None = None
) -> int:
    """The number of shards over so many rows, every one of them there; in the signals, or in a folder ``within``.

    Raises:
        RipcurrentError: some are missing; names their parts where all records cut the rows alike, else their rows.
    """
    signals = folder / "signals"
    total = count_shards(rows, options.shard_rows)
    folders = [signals, *sorted(signals.glob("per_anchor_*"))] if within is None else [signals / within]
    missing = sorted(
        {
            number
            for each in folders
            for number in range(total)
            if ShardFolder(each).done(number) != shard_of(number, options.shard_rows, rows)
        }
    )
    if within is None and options.per_anchor and not missing and not _covers(folders[1:], records):
        raise RipcurrentError(
            f"{folder} is not whole: passes of --per-anchor are missing.",
            "Run the same scan in that folder again, with or without --shard: it computes only what is missing.",
        )
    if not missing:
        return total
    there = f"{total - len(missing)} of {total} shards{f' of the {within} pass' if within else ''} are there"
    cuts = {record.part.of for record in records}
    if len(cuts) == 1:
        (of,) = cuts
        names = [str(part) for part in (Part(index, of) for index in range(of)) if _lacks(part, total, missing)]
        what = f"part {names[0]} is" if len(names) == 1 else f"parts {', '.join(names[:-1])} and {names[-1]} are"
        raise RipcurrentError(
            f"{folder} is not whole: {what} missing ({there}).",
            f"Run the same scan with --shard {names[0]} and --out {folder}, then merge again.",
        )
    first, last = missing[0] * options.shard_rows, min(rows, (missing[-1] + 1) * options.shard_rows) - 1
    kind = "rows" if within is None else "picked rows"
    raise RipcurrentError(
        f"{folder} is not whole: {kind} between {first} and {last} are missing ({there}).",
        "Run the same scan without --shard: it computes only what is missing.",
    )


def _covers(passes: Sequence[Path], records: Sequence[PartRecord]) -> bool:
    """Whether the passes' folders, named by their anchors, have all anchors between them."""
    names = [re.fullmatch(r"per_anchor_(\d+)_to_(\d+)", each.name) for each in passes]
    there = {place for name in names if name for place in range(int(name[1]), int(name[2]) + 1)}
    return there >= set(range(len(records[0].manifest["anchors"]["order"])))


def gather_shards(source: Path, target: Path) -> None:
    """Put one run folder's finished shards and part records into another; what is there stays."""
    files = [*(source / "signals").rglob("shard-*"), source / "signals" / GRADIENT / PICKED]
    for found in sorted([*files, *(source / PARTS).glob("*.json")]):
        if found.suffix not in (".parquet", ".done", ".json", ".npz") or not found.exists():
            continue
        place = target / found.relative_to(source)
        if place.exists():
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(place.name + ".part")
        part.unlink(missing_ok=True)
        try:
            os.link(found, part)
        except OSError:
            # another disk, or one without hard links
            shutil.copyfile(found, part)
        part.replace(place)


def merged_measurements(records: Sequence[PartRecord]) -> dict[str, Any]:
    """Timings and peak memory of a scan in parts: the longest of each step, as they ran side by side, and each part."""
    timings = [record.measured["timings"] for record in records]
    scored = "rows_scored_in_this_call"
    longest = {key: max(each[key] for each in timings) for key in timings[0] if key != scored}
    return {
        **records[0].measured,
        "timings": {**longest, scored: sum(each[scored] for each in timings)},
        "peak_memory_bytes": max(record.measured["peak_memory_bytes"] for record in records),
        "memory": _merged_memory([record.measured["memory"] for record in records]),
        "execution": _merged_execution([record.measured["execution"] for record in records]),
        "parts": [short_record(record) for record in records],
    }


def _both_rounds(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """What two rounds of one part took together."""
    timings = {key: before["timings"][key] + value for key, value in now["timings"].items()}
    return {
        **now,
        "timings": timings,
        "peak_memory_bytes": max(before["peak_memory_bytes"], now["peak_memory_bytes"]),
        "memory": _merged_memory([now["memory"], before["memory"]]),
        "execution": _merged_execution([now["execution"], before["execution"]]),
    }


def _merged_execution(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The first's, with the peaks of all workers there were; batches that were timed are each part's own."""
    peaks: dict[str, int] = {}
    for record in records:
        peaks |= record.get("worker_peak_bytes", {})
    shared = {key: value for key, value in records[0].items() if key != "batches"}
    return {**shared, **({"worker_peak_bytes": peaks} if peaks else {})}


def _merged_memory(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Batches halved in all parts, largest peaks, whether all that had a budget kept it; the plan is the first's."""
    halved = [record["batches_halved"] for record in records]
    merged = {**records[0], "batches_halved": None if None in halved else sum(halved)}
    peaks = [record["device_peak_bytes"] for record in records if record.get("device_peak_bytes") is not None]
    if peaks:
        merged["device_peak_bytes"] = max(peaks)
    if kept := [record["kept"] for record in records if "kept" in record]:
        merged["kept"] = all(kept)
    return merged


def short_record(record: PartRecord) -> dict[str, Any]:
    """What the whole run's manifest keeps of a part: where, how long, how much memory."""
    kept: Mapping[str, Any] = {key: record.measured[key] for key in ("timings", "peak_memory_bytes", "memory")}
    return {"part": str(record.part), "host": record.host, **kept}


def _lacks(part: Part, total: int, missing: Sequence[int]) -> bool:
    numbers = part.shards(total)
    return any(number in numbers for number in missing)


def _record_path(folder: Path, part: Part) -> Path:
    return folder / PARTS / f"{part.index}-of-{part.of}.json"
