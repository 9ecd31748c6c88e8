"""Selections on disk: the rows in the input's own format, and a JSON record of what they are and why."""

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from ripcurrent.data import Dataset
from ripcurrent.errors import RipcurrentError
from ripcurrent.runs import plain_numbers, write_json
from ripcurrent.scan import TRAIT_COLUMNS, FloatArray, ScanManifest, ScanRun
from ripcurrent.select._types import Quartiles, Selection, SelectionRecord, SelectionSummary
from ripcurrent.statistics import quantiles

Record = dict[str, JsonValue]
_NOT_OF_SCORES = {"model", "adapter", "device", "memory", "token_budget", "shard_rows", "tokens"}
"""Options that do not decide a score but for rounding; model and adapter are in the fingerprint."""


def summarise(run: ScanRun, selection: Selection) -> SelectionSummary:
    """Format shares, lengths and scores of a selection beside those of all usable rows."""
    chosen, whole = np.array(selection.indices, dtype=np.int64), np.flatnonzero(run.scored)
    column = selection.column or run.default_ranking
    values, lengths = run.scores(column), run.floats("response_tokens")
    flags = {trait: run.flags(trait) for trait in TRAIT_COLUMNS if trait in run.columns}
    return SelectionSummary(
        rows=len(chosen),
        whole_rows=len(whole),
        format_shares={trait: float(flag[chosen].mean()) for trait, flag in flags.items()},
        whole_format_shares={trait: float(flag[whole].mean()) for trait, flag in flags.items()},
        length=_quartiles(lengths[chosen]),
        whole_length=_quartiles(lengths[whole]),
        score_column=column,
        score_quantiles=quantiles(values[chosen]),
        whole_score_quantiles=quantiles(values[whole]),
    )


def write_selection(
    folder: Path,
    dataset: Dataset,
    run: ScanRun,
    selection: Selection,
    summary: SelectionSummary,
    *,
    drop: bool = False,
    own_folder: bool = False,
    hint: str = "Give this one another --name, or remove that file.",
) -> SelectionRecord:
    """Write ``<name><suffix>`` with the rows and ``<name>.json`` with the record, each whole or not at all.

    Rankings (top, bottom) are written in rank order, all other selections in the order of the input. The record comes
    last, so that it always has its rows. Of a ``.json`` dataset, whose rows would have the record's own name, they are
    in ``<name>.rows.json``. ``drop`` also writes ``without-<name><suffix>``: every other row that was scanned, in the
    order of the input. In an ``own_folder`` only selections of this run are written, so that rows without a record are
    what a stopped command left; elsewhere they may be anything, and are not overwritten. ``hint`` says what to do where
    another selection's record has the name.

    Raises `RipcurrentError` where the name is none of a file, or taken, or the folder cannot be written.
    """
    record_path = folder / f"{selection.name}.json"
    rows_path = _rows_path(folder, selection.name, dataset.suffix)
    remaining_path = _rows_path(folder, f"without-{selection.name}", dataset.suffix) if drop else None
    earlier = _check_name(selection, record_path, run.manifest, hint)
    if not own_folder:
        written = [earlier.get("file"), earlier.get("remaining_file")]
        for path in (rows_path, remaining_path):
            if path is not None and path.name not in written and path.exists():
                raise RipcurrentError(
                    f"{path} exists and does not belong to a selection: it is not overwritten.",
                    "Give this selection another --name or --out, or move that file.",
                )
    # a file without these rows that an earlier command wrote still holds
    remaining = remaining_path.name if remaining_path is not None else earlier.get("remaining_file")
    record = {
        **asdict(selection),
        "direction_of_risk": None if selection.column is None else run.risk_direction(selection.column),
        "rows": len(selection.indices),
        "file_order": selection.order,
        "ids": run.ids(selection.indices),
        "file": rows_path.name,
        "remaining_file": remaining,
        "summary": asdict(summary),
        "provenance": run.manifest.model_dump(mode="json"),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clear_folders(record_path, rows_path, remaining_path, own_folder=own_folder)
        dataset.write(selection.file_indices, rows_path)
        if remaining_path is not None:
            dataset.write(np.setdiff1d(np.arange(run.rows), selection.indices).tolist(), remaining_path)
        write_json(record_path, plain_numbers(record))
    except OSError as error:
        raise RipcurrentError(
            f"The selection {selection.name} cannot be written to {folder}: {error.strerror or error}.",
            "Free some space, or name a folder you may write to with --out.",
        ) from error
    return SelectionRecord(selection, summary, rows_path, record_path, remaining_path)


def _check_name(selection: Selection, record_path: Path, manifest: ScanManifest, hint: str) -> Record:
    """The record that has the name already, if it is of the same rule over the same scores; empty without one."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", selection.name):
        raise RipcurrentError(
            f"{selection.name!r} cannot be the name of a selection.",
            "Use letters, digits, dots, hyphens and underscores, a letter or digit first: it becomes a file name.",
        )
    if not record_path.is_file():
        return {}
    try:
        record: Record = json.loads(record_path.read_text(encoding="utf-8"))
        earlier, then = record["rule"], ScanManifest.model_validate(record["provenance"])
    except (ValueError, KeyError, TypeError):
        earlier = "unknown: the file is not a selection's record"
    else:
        if earlier == selection.rule and then.dataset.sha256 != manifest.dataset.sha256:
            earlier = f"of {then.dataset.path}"
        elif earlier == selection.rule and _scored_by(then) != _scored_by(manifest):
            earlier = f"by the scores of another scan, with {then.model.name}"
    if earlier != selection.rule:
        raise RipcurrentError(f"{record_path} already holds another selection ({earlier}).", hint)
    return record


def _scored_by(manifest: ScanManifest) -> list[object]:
    """What scores follow from besides the rows."""
    options = manifest.options.model_dump(exclude=_NOT_OF_SCORES)
    return [manifest.model.fingerprint, manifest.anchors.sha256, options]


def _clear_folders(record_path: Path, *paths: Path | None, own_folder: bool) -> None:
    # A file is replaced in one step, a folder dataset is not. Only what the same rule wrote before is removed, or a
    # stopped command of this run: its record goes first, so that it never speaks of rows that are gone.
    earlier = [path for path in paths if path is not None and path.is_dir()]
    if earlier and (own_folder or record_path.is_file()):
        record_path.unlink(missing_ok=True)
        for path in earlier:
            shutil.rmtree(path)


def _rows_path(folder: Path, name: str, suffix: str) -> Path:
    # A folder dataset has no suffix and a JSON one that of the record: both would collide or confuse.
    return folder / f"{name}{'.rows' if suffix.lower() in ('', '.json') else ''}{suffix}"


def _quartiles(values: FloatArray) -> Quartiles:
    at = quantiles(values, (0.25, 0.5, 0.75))
    finite = values[np.isfinite(values)]
    return Quartiles(float(finite.mean()) if len(finite) else float("nan"), *at.values())
