"""The scans that an experiment chooses its rows by: made here, or taken from a finished run."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from ripcurrent.data import DEMO_ROWS, Dataset
from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment._arms import MAIN, Arm
from ripcurrent.experiment._config import ExperimentConfig, ScanSource
from ripcurrent.experiment._read import missing_name
from ripcurrent.experiment._rows import content_of, held_out_rows, without_rows
from ripcurrent.progress import Progress
from ripcurrent.scan import (
    DIRECTION_OF_RISK,
    GRADIENT_COLUMNS,
    REPRESENTATION_COLUMNS,
    ScanOptions,
    ScanRun,
    scan,
)

DEMO = "demo"
"""As ``data``: the rows that come with the package."""


@dataclass(frozen=True, slots=True)
class Pool:
    """A scanned dataset that arms take rows from."""

    run: ScanRun
    """The scan; rows that are held out are unusable."""
    dataset: Dataset


def check_scans(config: ExperimentConfig, where: str, arms: Iterable[Arm]) -> None:
    """Refuse options of scans, and columns that the scan will not have."""
    asked = {"scan": config.scan, **{f"scans: {name}": one.options for name, one in config.scans.items()}}
    for key, options in asked.items():
        try:
            ScanOptions.resolve(None, options)
        except RipcurrentError as error:
            raise RipcurrentError(f"{where}: {key}: {error.message}", error.hint) from error
    signals = str(config.scan.get("signals"))
    unmeasured = {"gradient": REPRESENTATION_COLUMNS, "representation": GRADIENT_COLUMNS}.get(signals, ())
    columns = [name for name in DIRECTION_OF_RISK if name not in unmeasured]
    for arm in arms:
        by = (arm.rule.all_but or arm.rule).by
        # a finished scan may have more columns, and is looked at at once
        made = config.run is None and arm.scan == MAIN
        if by is not None and made and not by.endswith("_window_max") and by not in columns:
            raise missing_name(f"arms: {arm.name}: the scan will have no column", by, columns, "Columns")


def with_model_of_run(config: ExperimentConfig) -> ExperimentConfig:
    """The experiment with the model that its finished scan ranked by, where it has a ``run`` and names no model."""
    if config.run is None or "model" in config.model_fields_set:
        return config
    options = ScanRun.open(config.run).options
    own = config.adapter if "adapter" in config.model_fields_set else options.adapter
    return config.model_copy(update={"model": options.model, "adapter": own})


def open_pools(
    config: ExperimentConfig, folder: Path, progress: Progress, needed: Collection[str]
) -> tuple[dict[str, Pool], tuple[int, ...]]:
    """An experiment's scans by name, of further ones those ``needed``; and the rows that no arm may train on.

    Scans that the experiment makes lie in ``folder``; a finished one is not repeated.
    """
    main = ScanSource(run=config.run) if config.run is not None else ScanSource(data=config.data, options=config.scan)
    pools: dict[str, Pool] = {}
    held: tuple[int, ...] = ()
    held_contents: set[tuple[tuple[str, str], ...]] = set()
    for name, source in {MAIN: main, **{name: config.scans[name] for name in config.scans if name in needed}}.items():
        place = Path(source.run or folder / (name or "main"))
        if source.run is None:
            progress.step(f"scan {name or 'main'}")
            data, options = _to_scan(config, source, pools.get(MAIN))
            scan(DEMO_ROWS if data == DEMO else data, place, options, progress=progress)
        run = ScanRun.open(place)
        # data beside a finished scan says where its rows are now
        moved = config.data if name == MAIN and config.run is not None and config.data != DEMO else None
        dataset = run.dataset(moved)
        if name == MAIN and config.heldout:
            held = held_out_rows(run, config.heldout)
            held_contents = {content_of(row) for row in dataset.at(held)}
        if held:
            # the set may repeat a row, and another one may be a part of it, or hold some of its rows
            run = without_rows(run, [row.index for row in dataset if content_of(row) in held_contents])
        pools[name] = Pool(run, dataset)
    return pools, held


def _to_scan(config: ExperimentConfig, source: ScanSource, main: Pool | None) -> tuple[str, ScanOptions]:
    """The dataset and options of a scan to be made."""
    data = source.data or config.data
    own: dict[str, JsonValue] = {"model": config.model, "adapter": config.adapter}
    own |= {"device": config.device, "dtype": config.dtype}
    if source.data in (None, config.data):
        # the experiment's own rows, the same ones in the same reading
        if config.run is not None and main is not None:
            info = main.run.manifest.dataset
            data = data or info.path
            own |= {"format": info.format, "mapping": dict(info.mapping) if info.mapping else None}
            own["limit"] = main.run.options.limit
        else:
            own["format"] = config.format
            own |= {key: config.scan[key] for key in ("format", "mapping", "limit") if key in config.scan}
    if data is None:
        raise RipcurrentError("A scan to be made needs a dataset.", "Give data, of the experiment or of that scan.")
    if "model" in source.options:
        # the experiment's adapter is of its own model
        own["adapter"] = None
    return data, ScanOptions.resolve(None, own | source.options)
