"""Parts of a scan: what each process leaves of its share, and what is missing before they make a whole."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import JsonValue, ValidationError

from ripcurrent.errors import RipcurrentError
from ripcurrent.runs import PARTS, write_json
from ripcurrent.scan._manifest import PartCost, ScanCost
from ripcurrent.scan._part import Part, count_shards, shard_of
from ripcurrent.scan._shards import Shard, ShardFolder

FRESH = "rows_scored_in_this_call"


def shards_in(part: Part | None, rows: int, shard_rows: int) -> list[Shard]:
    """A part's shards; all of them without a part."""
    total = count_shards(rows, shard_rows)
    numbers = range(total) if part is None else part.shards(total)
    return [shard_of(number, shard_rows, rows) for number in numbers]


def write_part(folder: Path, part: Part, started: str, cost: ScanCost) -> None:
    """Record that a part is finished; if it computed nothing this time, what was measured before stays."""
    path = folder / PARTS / f"{part.index}-of-{part.of}.json"
    if not path.exists() or cost.timings[FRESH]:
        record = PartCost(part=str(part), host=socket.gethostname(), started=started, **cost.model_dump())
        write_json(path, record.model_dump())


def read_parts(folder: Path) -> list[PartCost]:
    """The records of a run folder's finished parts, in order; empty where there are none."""
    records = []
    for path in (folder / PARTS).glob("*.json"):
        try:
            records.append(PartCost.model_validate_json(path.read_text(encoding="utf-8")))
        except ValidationError as error:
            raise RipcurrentError(f"{path} is damaged: {error}.", "Delete it and run that part again.") from None
    return sorted(records, key=lambda record: [int(number) for number in reversed(record.part.split("/"))])


def missing_shards(folder: Path, rows: int, shard_rows: int) -> list[Shard]:
    """The shards of a whole scan that are not there, or not as they should be."""
    signals = ShardFolder(folder / "signals")
    return [shard for shard in shards_in(None, rows, shard_rows) if signals.done(shard.number) != shard]


def merged_cost(parts: Sequence[PartCost]) -> ScanCost:
    """What a scan in parts took: the longest of each step, as they ran side by side, and the largest peaks."""

    def of_all(name: str, combine: Callable[[Any], Any], records: Sequence[Mapping[str, Any]]) -> dict[str, JsonValue]:
        values = [record[name] for record in records if record.get(name) is not None]
        return {name: combine(values)} if values else {}

    timings = [part.timings for part in parts]
    longest = {key: max(each[key] for each in timings) for key in timings[0]}
    memory = [part.memory for part in parts]
    peaks: dict[str, JsonValue] = {}
    for part in parts:
        workers = part.execution.get("worker_peak_bytes")
        peaks |= workers if isinstance(workers, dict) else {}
    return ScanCost(
        timings={**longest, FRESH: sum(each[FRESH] for each in timings)},
        peak_memory_bytes=max(part.peak_memory_bytes for part in parts),
        memory={
            **memory[0],
            **of_all("batches_halved", sum, memory),
            **of_all("device_peak_bytes", max, memory),
            **of_all("kept", all, memory),
        },
        execution={**parts[0].execution, **({"worker_peak_bytes": peaks} if peaks else {})},
    )
