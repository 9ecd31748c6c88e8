"""Which rows a finished run trained on, with their scores by a finished scan."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ripcurrent.data import read_rows
from ripcurrent.errors import RipcurrentError
from ripcurrent.forecast._shared_rows import sketch_rows
from ripcurrent.runs import read_json_lines, read_manifest
from ripcurrent.scan._scored_with import ScoredWith
from ripcurrent.select_old import read_scores
from ripcurrent.select_old._table import ScoredRows


class ScoredSource:
    """A finished scan: the scores of one dataset's rows."""

    def __init__(self, folder: Path) -> None:
        """Open a scan's run folder.

        Raises:
            RipcurrentError: It holds no finished scan.
        """
        manifest = read_manifest(folder)
        self.folder = folder
        self.scored = ScoredRows(read_scores(folder))
        try:
            self.scored_with = ScoredWith.of(manifest)
            self.name, self.sha256 = str(manifest["dataset"]["name"]), str(manifest["dataset"]["sha256"])
        except (KeyError, TypeError) as error:
            raise RipcurrentError(
                f"{folder} holds no finished scan.", "Name the run folder of a finished `ripcurrent scan`."
            ) from error

    def means(self, rows: Sequence[int] | None = None) -> dict[str, float]:
        """Mean of every score column over row numbers, or over all usable rows; columns without a score left out."""
        at = np.flatnonzero(self.scored.ok) if rows is None else self.scored.positions(rows)
        means = {name: float(self.scored.numbers(name)[at].mean()) for name in self.scored.ranking_columns}
        return {name: value for name, value in means.items() if np.isfinite(value)}

    @cached_property
    def _row_of_id(self) -> dict[str, int]:
        rows = self.scored.rows.tolist()
        ids = self.scored.ids(rows)
        counts = Counter(ids)
        return {own: row for own, row in zip(ids, rows, strict=True) if counts[own] == 1}

    def rows_of_ids(self, ids: Iterable[str]) -> list[int] | None:
        """Row numbers by id; None where an id is unknown, or not one row's alone."""
        found = [self._row_of_id.get(own) for own in ids]
        known = [row for row in found if row is not None]
        return known if len(known) == len(found) else None


def trained_rows(
    rule: Mapping[str, Any], place: Path, scans: Mapping[str, ScoredSource], known: Mapping[str, ScoredSource]
) -> tuple[ScoredSource, list[int]] | str:
    """Where an arm's rows come from and their numbers, or why that is not known.

    Args:
        rule: The arm's rule, as its marker keeps it.
        place: The run's folder.
        scans: The experiment's scans by name, the main one under the empty name.
        known: Scans that are comparable with the first experiment's, by the hash of their rows.
    """
    if rule.get("file") is not None:
        return _rows_of_file(rule, place, known)
    own = scans.get(rule.get("scan") or "")
    if own is None:
        return f"the scan {rule['scan']} of its rows is not there"
    if own.sha256 not in known:
        return f"no scan of {own.name} is comparable with that of the first experiment"
    for record in sorted((place / "rows").glob("*.json")):
        if record.name.endswith(".rows.json"):
            continue
        try:
            kept = json.loads(record.read_text(encoding="utf-8"))
            rows, of = [int(row) for row in kept["indices"]], kept.get("provenance", {}).get("dataset", {})
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        if of.get("sha256") not in (None, own.sha256):
            return f"its rows were chosen from another dataset than {own.name}"
        return known[own.sha256], _trained(place, known[own.sha256], rows)
    return "the record of its rows is gone"


def _trained(place: Path, source: ScoredSource, rows: list[int]) -> list[int]:
    """The rows of a selection without those that fine-tuning left out, such as one without a response."""
    if read_manifest(place / "finetune")["rows"]["trained"] == len(rows):
        return rows
    trained = {str(line["id"]) for line in _trained_lines(place)}
    return [row for row, own in zip(rows, source.scored.ids(rows), strict=True) if own in trained]


def row_hashes(place: Path) -> tuple[str, ...]:
    """Hashes of the rows that a run trained on; none where its record of them is gone."""
    if not (place / "finetune" / "rows.jsonl").is_file():
        return ()
    return sketch_rows(str(line["sha256"]) for line in _trained_lines(place))


def _trained_lines(place: Path) -> Iterator[Mapping[str, Any]]:
    """What fine-tuning noted of each row that it trained on: id and hash."""
    return (line for line in read_json_lines(place / "finetune" / "rows.jsonl") if line["trained"])


def _rows_of_file(
    rule: Mapping[str, Any], place: Path, known: Mapping[str, ScoredSource]
) -> tuple[ScoredSource, list[int]] | str:
    name = Path(str(rule["file"])).name
    hint = f"its rows come from {name}, of which there is no comparable scan: give one with --scan"
    try:
        _, sha256 = read_rows(str(rule["file"]), format=rule.get("format")).count_and_hash()
    except RipcurrentError:
        return f"its rows come from {name}, which is not there any more"
    if sha256 not in known:
        return hint
    rows = known[sha256].rows_of_ids(str(line["id"]) for line in _trained_lines(place))
    return (known[sha256], rows) if rows is not None else f"its rows cannot be told apart in the scan of {name}"
