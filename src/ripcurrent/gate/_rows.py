"""Which rows are new, and the scores of rows: kept by content, so that no row is scored twice."""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ripcurrent.data import Dataset, Row, canonical_json
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.progress import Progress
from ripcurrent.runs import difference, read_config, written_whole
from ripcurrent.scan import ScanOptions, ScanRun
from ripcurrent.select import FORMAT_TRAITS

OF_ROWS = ("format", "mapping", "spec", "limit", "memory", "token_budget", "shard_rows", "tokens")
"""Options of a scan that do not change a row's scores."""
KNOWN_BY_HASH = ("model", "adapter", "anchors", "device", "dataset_sha256", "decided")


class Score(NamedTuple):
    """What is compared of a row: its score, higher riskier, or NaN; tokens that bear loss; format traits as bits."""

    risk: float
    tokens: float
    format: int


class RowSet(NamedTuple):
    """The rows of a dataset, the content of each, and the wanted ones: from content to the first row that has it."""

    rows: Dataset
    keys: list[str]
    wanted: dict[str, int]

    @classmethod
    def of(cls, rows: Dataset, options: ScanOptions, without: Collection[str] = ()) -> "RowSet":
        """Each different row, but those whose content is in ``without``."""
        wanted: dict[str, int] = {}
        for place, key in enumerate(keys := _keys(rows, options)):
            if key not in without:
                wanted.setdefault(key, place)
        return cls(rows, keys, wanted)


def _keys(rows: Dataset, options: ScanOptions) -> list[str]:
    """A hash of each row's content: its turns and tools, or for a trainer that reads records all fields but ``id``."""
    whole = not options.trainer.startswith("completion")

    def content(row: Row) -> object:
        if whole or row.problem or not (row.messages or row.text):
            return {name: value for name, value in row.fields.items() if name != "id"}
        return [[[one.role, one.content, one.bears_loss, one.parts] for one in row.messages], row.tools, row.text]

    return [hashlib.sha256(canonical_json(content(row))).hexdigest()[:32] for row in rows]


def score_rows(
    parts: Sequence[RowSet], folder: Path, options: ScanOptions, old: ScanRun | None, by: str | None, progress: Progress
) -> tuple[dict[str, Score], ScanRun, int]:
    """Scores by content, a scan that they are from, and how many rows were scored now.

    Only rows that no scan here has are scored. All scores are of one model, anchors and options: those of ``old``, or
    else of the last scan; where that has other weights or another version of the package, all rows are scored anew.
    """
    scans = sorted(_kept(folder), key=lambda one: one[0].manifest.started)
    scans += [] if old is None else [(old, parts[0].keys)]
    target, fresh = _identity(scans[-1][0]) if scans else {}, 0
    while True:
        same = [(run, keys) for run, keys in scans if _identity(run) == target]
        scores = {key: one for run, keys in same for key, one in zip(keys, _scores(run, by), strict=True)}
        unscored = [(part, keys) for part in parts if (keys := [key for key in part.wanted if key not in scores])]
        if not unscored:
            return scores, same[-1][0], fresh
        run = _scan(*unscored[0], folder, options, progress)
        if old is not None and (other := difference(target, _identity(run))):
            raise RipcurrentError(
                f"{old.folder} was scanned otherwise than its added rows are here: {other}.",
                "Name the options of that scan, or give its rows as --against, to be scored here. Nothing is lost.",
            )
        fresh += int(run.manifest.timings["rows_scored_in_this_call"])
        scans.append((run, unscored[0][1]))
        target = _identity(run)


def _scan(part: RowSet, keys: Sequence[str], folder: Path, options: ScanOptions, progress: Progress) -> ScanRun:
    """A scan of these rows in a folder that is named by them, so that the same rows go on there."""
    from ripcurrent.scan import scan

    place = folder / "scans" / hashlib.sha256("".join(keys).encode()).hexdigest()[:16]
    if not (file := place.with_name(f"{place.name}.rows{part.rows.suffix}")).exists():
        part.rows.write([part.wanted[key] for key in keys], file)
    with written_whole(place.with_suffix(".keys")) as path:
        path.write_text("\n".join(keys), encoding="utf-8")
    try:
        return scan(file, place, ScanOptions.resolve(options, {"format": part.rows.format}), progress=progress)
    except RipcurrentError as error:
        # of a few rows it may be that none can be scored
        if error.code != ExitCode.NOT_MEASURED or not (place / "scores.parquet").is_file():
            raise
        return ScanRun.open(place)


def _kept(folder: Path) -> Iterator[tuple[ScanRun, list[str]]]:
    """The finished scans of earlier calls, with their rows' keys."""
    for path in (folder / "scans").glob("*.keys"):
        if (path.with_suffix("") / "scores.parquet").is_file():
            yield ScanRun.open(path.with_suffix("")), path.read_text(encoding="utf-8").split("\n")


def _identity(run: ScanRun) -> dict[str, object]:
    """What rows' scores depend on."""
    config = read_config(run.folder)
    return {name: value for name, value in config.items() if name not in (*OF_ROWS, *KNOWN_BY_HASH)}


def _scores(run: ScanRun, by: str | None) -> list[Score]:
    """Each row's score, length and format."""
    column = by or run.default_ranking
    if (direction := run.risk_direction(column)) == "none":
        raise RipcurrentError(f"Column {column!r} says nothing of risk.", "Name a score with --by, or leave it out.")
    risk = np.where(run.scored, run.floats(column), np.nan) * (-1 if direction == "lower" else 1)
    traits = np.stack([run.flags(name) for name in FORMAT_TRAITS], axis=1) @ (1 << np.arange(len(FORMAT_TRAITS)))
    return list(map(Score, risk.tolist(), run.floats("response_tokens").tolist(), traits.tolist()))
