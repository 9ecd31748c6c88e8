"""What a scan says of itself: on what, by what and with what it was made, and what each of its parts took."""

import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from ripcurrent.data import DatasetInfo
from ripcurrent.errors import RipcurrentError
from ripcurrent.models import ModelInfo
from ripcurrent.runs import PARTS, Manifest, write_json
from ripcurrent.scan._options import ScanOptions
from ripcurrent.scan._separation import AnchorMeasurements
from ripcurrent.scan._shards import Part

FRESH = "rows_scored_in_this_call"


class ScanAnchors(BaseModel):
    """The anchors of a scan, and what the model makes of them."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    name: str
    sha256: str
    order: tuple[tuple[str, int], ...] = ()
    """For each anchor its set and its number within it."""
    separation: dict[str, float] = Field(default_factory=dict)
    """Leave-one-out AUROC of harmful against safe anchors, by signal."""
    measurements: AnchorMeasurements | None = None


class ScanCost(BaseModel):
    """What a scan, or one part of it, took."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    timings: dict[str, float] = {}
    """Seconds of each step, and ``rows_scored_in_this_call``: rows that were not there before."""
    peak_memory_bytes: int = 0
    """Most bytes that the process held."""
    memory: dict[str, JsonValue] = {}
    """Batches halved, the device's peak, and whether ``--memory`` was kept."""
    execution: dict[str, JsonValue] = {}
    """Who computed: this process, or Ray's workers."""


class PartCost(ScanCost):
    """What one part of a scan took."""

    part: str
    """``i/n``."""
    host: str
    started: str = ""
    """When it began, ISO 8601."""


class ScanManifest(Manifest, ScanCost):
    """The manifest of a scan. Of a scan in parts, times are the longest of each step and peaks the largest."""

    dataset: DatasetInfo
    model: ModelInfo
    anchors: ScanAnchors
    options: ScanOptions
    """Every option, resolved."""
    parts: list[PartCost] = []
    left_out: list[str] = []
    """Parameters in scope that the forward pass never uses."""
    row_notes: list[str] = []
    """Sentences on parts of rows that were not read, and on turns that the template hides."""
    status_counts: dict[str, int] = {}
    """Rows by status; empty until the table is written."""
    tokens: dict[str, JsonValue] | None = None
    """Which rows have token shares."""

    @field_validator("options", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        # a scan by an earlier version may have had options that are gone
        known = ScanOptions.model_fields
        return {name: value[name] for name in value if name in known} if isinstance(value, Mapping) else value


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
    timings = {name: max(part.timings[name] for part in parts) for name in parts[0].timings}
    timings[FRESH] = sum(part.timings[FRESH] for part in parts)
    memory = dict(parts[0].memory)
    combined: dict[str, Callable[[Any], Any]] = {"batches_halved": sum, "device_peak_bytes": max, "kept": all}
    for name, combine in combined.items():
        if values := [part.memory[name] for part in parts if name in part.memory]:
            memory[name] = combine(values)
    peak = max(part.peak_memory_bytes for part in parts)
    return ScanCost(timings=timings, peak_memory_bytes=peak, memory=memory, execution=parts[0].execution)
