"""What a scan says of itself: on what, by what and with what it was made."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from ripcurrent.anchors import AnchorsInfo
from ripcurrent.data import DatasetInfo
from ripcurrent.models import ModelInfo
from ripcurrent.runs import Manifest
from ripcurrent.scan._options import ScanOptions
from ripcurrent.scan._separation import AnchorMeasurements


class ScanAnchors(AnchorsInfo):
    """The anchors of a scan, and what the model makes of them."""

    separation: dict[str, float] = Field(default_factory=dict)
    """Leave-one-out AUROC of harmful against safe anchors, by signal."""
    measurements: AnchorMeasurements | None = None
    """Norms, similarities and cosines among the anchors."""


class ScanCost(BaseModel):
    """What a scan, or one part of it, took."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    timings: dict[str, float] = Field(default_factory=dict)
    """Seconds of each step, and ``rows_scored_in_this_call``: rows that were not there before."""
    peak_memory_bytes: int = 0
    """Most bytes that the process held."""
    memory: dict[str, JsonValue] = Field(default_factory=dict)
    """Batches halved, the device's peak, and whether ``--memory`` was kept."""
    execution: dict[str, JsonValue] = Field(default_factory=dict)
    """Who computed: this process, or Ray's workers with the peak of each."""


class PartCost(ScanCost):
    """What one part of a scan took."""

    part: str
    """``i/n``."""
    host: str
    """Name of the machine."""
    started: str = ""
    """When it began, ISO 8601."""


class ScanManifest(Manifest, ScanCost):
    """The manifest of a scan. Of a scan in parts, times are the longest of each step and peaks the largest."""

    dataset: DatasetInfo
    """The rows."""
    model: ModelInfo
    """The model."""
    anchors: ScanAnchors
    """The anchors."""
    options: ScanOptions
    """Every option, resolved."""
    parts: list[PartCost] = Field(default_factory=list)
    """What each part took."""
    left_out: list[str] = Field(default_factory=list)
    """Parameters in scope that the forward pass never uses."""
    row_notes: list[str] = Field(default_factory=list)
    """Sentences on parts of rows that were not read, and on turns that the template hides."""
    status_counts: dict[str, int] = Field(default_factory=dict)
    """Rows by status; empty until the table is written."""
    windows: int | None = None
    """Windows in ``windows.parquet``."""
    tokens: dict[str, JsonValue] | None = None
    """Which rows have token shares."""

    @field_validator("options", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        # a scan by an earlier version may have had options that are gone
        known = ScanOptions.model_fields
        return {name: value[name] for name in value if name in known} if isinstance(value, Mapping) else value
