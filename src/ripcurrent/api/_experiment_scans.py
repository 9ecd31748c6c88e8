"""The scans that an experiment chooses its rows by: made here, or taken from a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ripcurrent.api._options import ScanOptions
from ripcurrent.api._progress import Progress
from ripcurrent.api._scan import scan
from ripcurrent.api._select import _manifest, _unchanged_dataset
from ripcurrent.data import Dataset
from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment import MAIN, ExperimentConfig, ScanTable, held_out_rows, without_rows
from ripcurrent.experiment._config import Scan
from ripcurrent.selection import read_scores


@dataclass(frozen=True, slots=True)
class Pool:
    """A scanned dataset that arms take rows from."""

    scores: ScanTable
    """Its scores."""
    dataset: Dataset
    """Its rows."""
    manifest: Mapping[str, Any]
    """The scan's manifest."""


def open_pools(config: ExperimentConfig, folder: Path, told: Progress) -> tuple[dict[str, Pool], tuple[int, ...]]:
    """Every scan of an experiment by name, the main one under `MAIN`, and the rows that no arm may train on.

    Scans that the experiment makes lie in ``folder``; a finished one is not repeated.

    Raises:
        RipcurrentError: What `ripcurrent.scan` raises, a run that is no finished scan, or a dataset that has changed.
    """
    asked = {MAIN: Scan(run=config.run, data=config.data, options=config.scan), **config.scans}
    pools: dict[str, Pool] = {}
    held: tuple[int, ...] = ()
    for name, one in asked.items():
        if one.run is not None:
            if one.options:
                raise RipcurrentError(
                    f"The scan {name or 'of the experiment'} has both run and options.",
                    "Give run, the folder of a finished scan, or options of a scan to make.",
                )
            run = Path(one.run)
        else:
            told.step(f"scan {name or 'main'}")
            run = _scanned(config, one, folder / (name or "main"), told)
        table = read_scores(run)
        manifest = _manifest(run)
        dataset = _unchanged_dataset(manifest, table.num_rows)
        sha256 = str(manifest["dataset"]["sha256"])
        if name == MAIN:
            held = held_out_rows(table, config.heldout)
        if sha256 == pools[MAIN].scores.dataset_sha256 if name != MAIN else True:
            table = without_rows(table, held)
        pools[name] = Pool(ScanTable(run, table, sha256), dataset, manifest)
    return pools, held


def scanned_options(pool: Pool) -> ScanOptions:
    """The options that a scan was made with, those that this version does not know left out."""
    known = {key: value for key, value in dict(pool.manifest["options"]).items() if key in ScanOptions.model_fields}
    return ScanOptions(**known)


def _scanned(config: ExperimentConfig, one: Scan, folder: Path, told: Progress) -> Path:
    data = one.data or config.data
    if data is None:
        raise RipcurrentError(
            "A scan that is to be made needs a dataset.", "Give data, of the experiment or of that scan."
        )
    own = {"model": config.model, "adapter": config.adapter, "device": config.device, "dtype": config.dtype}
    formatted = {"format": config.format} if one.data is None else {}
    # the embedded model's guard is part of it, so that nothing is to be said of adapters here
    return scan(data, folder, progress=told, **{**own, **formatted, **one.options}).folder
