"""The scans that an experiment chooses its rows by: made here, or taken from a finished run."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ripcurrent.anchors import load_anchors
from ripcurrent.data import DEMO_ROWS, Dataset, DatasetInfo, open_unchanged
from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment import MAIN, ExperimentConfig, ScanTable, held_out_rows, without_rows
from ripcurrent.experiment._arms import missing_name
from ripcurrent.experiment._config import NAME, Scan
from ripcurrent.experiment._rows import content_of
from ripcurrent.progress import Progress
from ripcurrent.runs import written_whole
from ripcurrent.scan._options import ScanOptions
from ripcurrent.scan._scan import scan
from ripcurrent.select_old import read_scores
from ripcurrent.select_old._draw import generator
from ripcurrent.select_old._select import _manifest

DEMO = "demo"
"""As ``data``: the rows that come with the package."""


@dataclass(frozen=True, slots=True)
class Pool:
    """A scanned dataset that arms take rows from."""

    scores: ScanTable
    """Its scores."""
    dataset: Dataset
    """Its rows."""
    manifest: Mapping[str, Any]
    """The scan's manifest."""


def check_scans(config: ExperimentConfig, where: str) -> None:
    """Refuse options of scans that are not possible; ``where`` names the source of the keys in errors.

    Raises:
        RipcurrentError: An unknown option (the nearest one is named), or a value that is not possible.
    """
    for name in config.scans:
        # each lies in a folder of its name, beside the main one's
        if not re.fullmatch(NAME, name) or name == "main":
            raise RipcurrentError(
                f"{where}: {name!r} cannot be the name of a scan.",
                "Use letters, digits, dots, hyphens and underscores, a letter or digit first, and not main.",
            )
    asked = {"scan": config.scan, **{f"scans: {name}": one.options for name, one in config.scans.items()}}
    for key, options in asked.items():
        for name in options:
            if name not in ScanOptions.model_fields:
                known = list(ScanOptions.model_fields)
                raise missing_name(f"{where}: {key}: there is no option", name, known, "Options")
        try:
            ScanOptions.resolve(None, dict(options))
        except RipcurrentError as error:
            raise RipcurrentError(f"{where}: {key}: {error.message}", error.hint) from error


def with_model_of_run(config: ExperimentConfig) -> ExperimentConfig:
    """The experiment with the model that its finished scan ranked by, where it has a ``run`` and names no model.

    An adapter that it names stands for the scan's.

    Raises:
        RipcurrentError: The run is no finished scan.
    """
    if config.run is None or "model" in config.model_fields_set:
        return config
    options = dict(_manifest(Path(config.run))["options"])
    own = config.adapter if "adapter" in config.model_fields_set else options.get("adapter")
    return config.model_copy(update={"model": options["model"], "adapter": own})


def open_pools(
    config: ExperimentConfig, folder: Path, told: Progress, needed: Collection[str] | None = None
) -> tuple[dict[str, Pool], tuple[int, ...]]:
    """An experiment's scans by name, the main one under `MAIN`, and the rows that no arm may train on.

    Of further scans those ``needed``, every one unless named.

    Scans that the experiment makes lie in ``folder``; a finished one is not repeated.

    Raises:
        RipcurrentError: What `ripcurrent.scan` raises, a run that is no finished scan, or a dataset that has changed.
    """
    main = Scan(run=config.run) if config.run is not None else Scan(data=config.data, options=config.scan)
    further = {name: one for name, one in config.scans.items() if needed is None or name in needed}
    asked = {MAIN: main, **further}
    pools: dict[str, Pool] = {}
    held: tuple[int, ...] = ()
    contents: set[tuple[tuple[str, str], ...]] = set()
    for name, one in asked.items():
        if one.run is not None:
            run = Path(one.run)
        else:
            told.step(f"scan {name or 'main'}")
            run = _scanned(config, one, folder / (name or "main"), told, pools.get(MAIN))
        table = read_scores(run)
        manifest = _manifest(run)
        # data beside a finished scan says where its rows are now
        moved = config.data if name == MAIN and config.run is not None and config.data != DEMO else None
        info = DatasetInfo.model_validate(manifest["dataset"])
        dataset = open_unchanged(info, limit=manifest["options"].get("limit"), data=moved)
        sha256 = info.sha256
        if name == MAIN:
            held = held_out_rows(table, config.heldout)
            wanted = set(held)
            contents = {content_of(row) for row in dataset if row.index in wanted} if wanted else contents
        if held:
            # the set may repeat a row, and another one may be a part of it, or hold some of its rows
            table = without_rows(table, [row.index for row in dataset if content_of(row) in contents])
        pools[name] = Pool(ScanTable(run, table, sha256), dataset, manifest)
    return pools, held


def scanned_options(pool: Pool) -> ScanOptions:
    """The options that a scan was made with, those that this version does not know left out."""
    known = {key: value for key, value in dict(pool.manifest["options"]).items() if key in ScanOptions.model_fields}
    return ScanOptions(**known)


def _scanned(config: ExperimentConfig, one: Scan, folder: Path, told: Progress, main: Pool | None = None) -> Path:
    data = one.data or config.data
    rows: dict[str, Any] = {}
    if one.data not in (None, config.data):
        pass
    elif config.run is not None and main is not None:
        # the rows of the finished scan
        dataset = main.manifest["dataset"]
        data = data or str(dataset["path"])
        rows = {"format": dataset["format"], "mapping": dataset.get("mapping")}
        rows["limit"] = dict(main.manifest["options"]).get("limit")
    else:
        # the experiment's own rows, the same ones in the same reading
        rows["format"] = config.format
        rows |= {key: config.scan[key] for key in ("format", "mapping", "limit") if key in config.scan}
    if data is None:
        raise RipcurrentError(
            "A scan that is to be made needs a dataset.", "Give data, of the experiment or of that scan."
        )
    own = {"model": config.model, "adapter": config.adapter, "device": config.device, "dtype": config.dtype}
    if "model" in one.options:
        # the experiment's adapter is of its own model
        own["adapter"] = None
    options = {**own, **rows, **one.options}
    if one.anchors or one.anchors_per_set is not None:
        options["anchors"] = str(_write_anchors(one, folder.with_name(f"{folder.name}-anchors.jsonl")))
    return scan(DEMO_ROWS if data == DEMO else data, folder, progress=told, **options).folder


def _write_anchors(one: Scan, path: Path) -> Path:
    """Anchor sets put together, or a part of each, as a file; the same places of every set, so that requests match."""
    loaded = [load_anchors(name) for name in one.anchors or (str(one.options.get("anchors", "builtin")),)]
    by_set: dict[str, list[Any]] = {}
    for anchors in loaded:
        for anchor in anchors.anchors:
            by_set.setdefault(anchor.set, []).append(anchor)
    fewest = min(map(len, by_set.values()))
    wanted = one.anchors_per_set or fewest
    if wanted > fewest:
        raise RipcurrentError(
            f"anchors_per_set: {wanted} anchors are wanted of each set, and one has {fewest}.",
            "Ask for fewer, or name more sets with anchors.",
        )
    places = sorted(generator(0, "anchors").permutation(fewest)[:wanted].tolist())
    with written_whole(path) as part, part.open("w", encoding="utf-8") as file:
        for name, members in by_set.items():
            for place in places:
                messages = [{"role": m.role, "content": m.content} for m in members[place].messages]
                file.write(json.dumps({"set": name, "messages": messages}, ensure_ascii=False) + "\n")
    return path
