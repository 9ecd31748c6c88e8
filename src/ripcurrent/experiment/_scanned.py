"""The scan that a measurement works on: a finished one, or one that is made in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ripcurrent.data import Dataset
from ripcurrent.experiment._instruments import Scanned
from ripcurrent.progress import Progress
from ripcurrent.scan._options import ScanOptions
from ripcurrent.scan._scan import scan
from ripcurrent.select import read_scores
from ripcurrent.select._select import _manifest, _unchanged_dataset
from ripcurrent.select._table import ScoredRows


@dataclass(frozen=True, slots=True)
class ScannedRows:
    """A finished scan with its rows."""

    folder: Path
    """Its run folder."""
    table: pa.Table
    """Its scores."""
    scored: ScoredRows
    """The same as arrays in row order."""
    dataset: Dataset
    """The rows, unchanged since they were scanned."""
    manifest: Mapping[str, Any]
    """Its manifest."""
    options: ScanOptions
    """What it was made with."""

    @property
    def provenance(self) -> dict[str, Any]:
        """What a result keeps of the scan."""
        return provenance_of(self.folder, self.table, self.manifest)


def open_scan(config: Scanned, folder: Path, told: Progress) -> ScannedRows:
    """The scan of a file's ``run``, or one of its ``data`` made in ``folder``, where a finished one is not repeated.

    Raises:
        RipcurrentError: What `ripcurrent.scan` raises, a run that is no finished scan, or a dataset that has changed.
    """
    run, table, manifest = open_scores(config, folder, told)
    known = {key: value for key, value in dict(manifest["options"]).items() if key in ScanOptions.model_fields}
    dataset = _unchanged_dataset(manifest, table.num_rows, moved="Put it back where it was scanned, or scan it anew.")
    return ScannedRows(run, table, ScoredRows(table), dataset, manifest, ScanOptions(**known))


def open_scores(config: Scanned, folder: Path, told: Progress) -> tuple[Path, pa.Table, dict[str, Any]]:
    """The run folder, scores and manifest of the same scan; its dataset is not needed any more.

    Raises:
        RipcurrentError: What `ripcurrent.scan` raises, or a run that is no finished scan.
    """
    if config.run is not None:
        run = Path(config.run)
    else:
        told.step("scan")
        run = scan(str(config.data), folder, progress=told, **config.scan_options).folder
    return run, read_scores(run), _manifest(run)


def provenance_of(folder: Path, table: pa.Table, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What a result keeps of a scan: its folder, dataset, model and anchors with their hashes."""
    model = {key: manifest["model"].get(key) for key in ("name", "adapter", "fingerprint", "dtype")}
    dataset = {key: manifest["dataset"].get(key) for key in ("name", "path", "sha256", "format")}
    return {
        "run": str(folder),
        "dataset": {**dataset, "rows": table.num_rows},
        "model": model,
        "anchors": {key: manifest["anchors"].get(key) for key in ("name", "sha256")},
    }
