"""Parts of a scan: what each process leaves of its share, and what is missing before they make a whole."""

import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import JsonValue, ValidationError

from ripcurrent.errors import RipcurrentError
from ripcurrent.runs import PARTS, write_json
from ripcurrent.scan._manifest import PartCost, ScanCost
from ripcurrent.scan._part import Part
from ripcurrent.scan._shards import Shard

FRESH = "rows_scored_in_this_call"


def shards_in(part: Part | None, rows: int, shard_rows: int) -> list[Shard]:
    """A part's shards; all of them without a part."""
    every = [Shard(number, at, min(shard_rows, rows - at)) for number, at in enumerate(range(0, rows, shard_rows))]
    return every if part is None else part.of_all(every)


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


def merged_cost(parts: Sequence[PartCost]) -> ScanCost:
    """What a scan in parts took: the longest of each step, as they ran side by side, and the largest peaks."""
    timings = [part.timings for part in parts]
    memory, peaks = dict(parts[0].memory), dict[str, JsonValue]()
    combined: dict[str, Callable[[Any], Any]] = {"batches_halved": sum, "device_peak_bytes": max, "kept": all}
    for name, combine in combined.items():
        if values := [part.memory[name] for part in parts if name in part.memory]:
            memory[name] = combine(values)
    for part in parts:
        workers = part.execution.get("worker_peak_bytes")
        peaks |= workers if isinstance(workers, dict) else {}
    return ScanCost(
        timings={
            **{name: max(each[name] for each in timings) for name in timings[0]},
            FRESH: sum(each[FRESH] for each in timings),
        },
        peak_memory_bytes=max(part.peak_memory_bytes for part in parts),
        memory=memory,
        execution={**parts[0].execution, **({"worker_peak_bytes": peaks} if peaks else {})},
    )
