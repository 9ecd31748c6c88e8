"""Selections on disk: the rows in the input's own format, and a JSON record of what they are and why."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ripcurrent.errors import RipcurrentError
from ripcurrent.runs import write_json
from ripcurrent.select_old._table import ScoredRows
from ripcurrent.select_old._types import Selection, SelectionRecord, Summary

_NOT_OF_SCORES = ("model", "adapter", "device", "memory", "token_budget", "shard_rows")
"""Options that do not decide a score but for rounding; model and adapter are in the fingerprint."""


class RowSource(Protocol):
    """What a selection needs of the dataset it was made from."""

    @property
    def suffix(self) -> str:
        """File name ending of the input's container, ``.jsonl.gz`` say; empty for a folder."""

    def write(self, indices: Sequence[int], destination: Path) -> object:
        """Write rows in the input's own format and fields, in the order of ``indices``, whole or not at all."""


def read_scores(run_folder: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The scores table of a run, or of these columns those that it has.

    Raises:
        RipcurrentError: The folder is no run, its scan has not finished, or the file is damaged.
    """
    path = run_folder / "scores.parquet"
    if not path.is_file():
        raise RipcurrentError(
            f"{run_folder} is not the folder of a finished scan: it has no scores.parquet.",
            "Name the folder that `ripcurrent scan … --out FOLDER` wrote; the same command resumes an unfinished scan.",
        )
    try:
        if columns is not None:
            present = pq.read_schema(path).names
            columns = [name for name in dict.fromkeys(columns) if name in present]
        return pq.read_table(path, columns=columns)
    except pa.ArrowException as error:
        raise RipcurrentError(
            f"{path} cannot be read: {str(error).splitlines()[0]}",
            "Delete that file and run the same `ripcurrent scan` again; what is already scored is kept.",
        ) from error


def write_selection(
    folder: Path,
    dataset: RowSource,
    table: pa.Table,
    selection: Selection,
    summary: Summary,
    provenance: Mapping[str, Any],
    *,
    drop: bool = False,
    own_folder: bool = False,
    hint: str = "Give this one another --name, or remove that file.",
) -> SelectionRecord:
    """Write ``<name><suffix>`` with the rows and ``<name>.json`` with the record, each whole or not at all.

    Rankings (top, bottom, highest, lowest) are written in rank order, all other selections in the order of the input.
    The record comes last, so that a record always has its rows. Of a ``.json`` dataset the rows would have the
    record's own name; they are in ``<name>.rows.json``.

    Args:
        folder: Where to write, usually ``<run>/selections``; made when absent.
        dataset: The dataset that was scored.
        table: The scores table, for the rows' ids.
        selection: The rows.
        summary: Goes into the record.
        provenance: The run's manifest, goes into the record.
        drop: Also write ``without-<name><suffix>``: every other row that was scanned, unscored ones included, in the
            order of the input.
        own_folder: Only selections of this run are written there, so that rows without a record are what a stopped
            command left. Elsewhere they may be anything, and are not overwritten.
        hint: What to do where another selection's record has the name.

    Raises:
        RipcurrentError: The name is not a file name, a record of another rule or a file of another kind has it, or the
            folder cannot be written.
    """
    record_path = folder / f"{selection.name}.json"
    rows_path = _rows_path(folder, selection.name, dataset.suffix)
    remaining_path = _rows_path(folder, f"without-{selection.name}", dataset.suffix) if drop else None
    earlier = _check_name(selection, record_path, provenance, hint)
    if not own_folder:
        written = [earlier.get("file"), earlier.get("remaining_file")]
        _require_free(*(path for path in (rows_path, remaining_path) if path is not None and path.name not in written))
    scored = ScoredRows(table)
    # what an earlier command left out the same rows of stands still
    left = remaining_path.name if remaining_path is not None else earlier.get("remaining_file")
    record = _record(scored, selection, summary, provenance, rows_path, left)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clear_folders(record_path, rows_path, remaining_path, own_folder=own_folder)
        dataset.write(selection.file_indices, rows_path)
        if remaining_path is not None:
            dataset.write(np.setdiff1d(scored.rows, selection.indices).tolist(), remaining_path)
        write_json(record_path, record)
    except OSError as error:
        raise RipcurrentError(
            f"The selection {selection.name} cannot be written to {folder}: {error.strerror or error}.",
            "Free some space, or name a folder you may write to with --out.",
        ) from error
    return SelectionRecord(selection, summary, rows_path, record_path, remaining_path)


def _require_free(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            raise RipcurrentError(
                f"{path} is there and is no selection's: it is not overwritten.",
                "Give this selection another --name or --out, or move that file.",
            )


def _check_name(selection: Selection, record_path: Path, provenance: Mapping[str, Any], hint: str) -> Mapping[str, Any]:
    """The record that has the name already, if it is of the same rule over the same scores; empty without one."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", selection.name):
        raise RipcurrentError(
            f"{selection.name!r} cannot be the name of a selection.",
            "Use letters, digits, dots, hyphens and underscores, a letter or digit first: it becomes a file name.",
        )
    if not record_path.is_file():
        return {}
    record: dict[str, Any] = {}
    try:
        record = json.loads(record_path.read_text(encoding="utf-8"))
        earlier, of = record.get("rule"), record.get("provenance", {})
    except (ValueError, AttributeError):
        earlier, of = "unknown: the file is not a selection's record", {}
    dataset = of.get("dataset")
    if earlier == selection.rule and dataset is not None and dataset["sha256"] != provenance["dataset"]["sha256"]:
        earlier = f"of {dataset['path']}"
    elif earlier == selection.rule and _scored_by(of) != _scored_by(provenance):
        earlier = f"by the scores of another scan, with {of.get('model', {}).get('name', 'another model')}"
    if earlier != selection.rule:
        raise RipcurrentError(
            f"{record_path} already holds another selection ({earlier}).",
            hint,
        )
    return record


def _scored_by(manifest: Mapping[str, Any]) -> list[Any]:
    """What scores follow from besides the rows."""
    options = {key: value for key, value in manifest.get("options", {}).items() if key not in _NOT_OF_SCORES}
    return [manifest.get("model", {}).get("fingerprint"), manifest.get("anchors", {}).get("sha256"), options]


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


def _record(
    scored: ScoredRows,
    selection: Selection,
    summary: Summary,
    provenance: Mapping[str, Any],
    rows_path: Path,
    remaining: str | None,
) -> dict[str, Any]:
    fields = asdict(selection)
    for name in ("indices", "scores", "distances", "notes"):
        del fields[name]
    column = selection.column
    record = {
        **fields,
        "direction_of_risk": None if column is None else scored.direction(column),
        "rows": len(selection.indices),
        "file": rows_path.name,
        "file_order": selection.order,
        "remaining_file": remaining,
        "notes": selection.notes,
        "distances": [asdict(distance) for distance in selection.distances],
        "summary": asdict(summary),
        "indices": selection.indices,
        "ids": scored.ids(selection.indices),
        "scores": selection.scores,
        "provenance": dict(provenance),
    }
    plain: dict[str, Any] = plain_numbers(record)
    return plain


def plain_numbers(value: Any) -> Any:
    """A value as JSON can hold it: null for what is not finite, lists for tuples, text for keys."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_numbers(item) for item in value]
    return value
