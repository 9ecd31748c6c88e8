"""Gate: rows that are added to a training set, compared by score with comparable rows of that set."""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, JsonValue

from ripcurrent.data import DatasetInfo
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.gate._compare import MEASURES, POWER, Comparison, compare, strata_of
from ripcurrent.gate._options import GateOptions
from ripcurrent.gate._rows import OF_ROWS, RowSet, Score, score_rows
from ripcurrent.progress import Progress, SilentProgress
from ripcurrent.runs import CONFIG, Manifest, RunFolder, library_versions, machine
from ripcurrent.scan import FloatArray, ScanOptions, ScanRun, weak_anchors_note

SHOWN, TEXT = 5, 300
"""Riskiest rows that are shown, and characters of each text that are kept."""
COMPARED = 0.8
"""For ``ok`` at least this share of the added rows must have been compared."""
GateVerdict = Literal["ok", "worse", "cannot tell"]


class RowCounts(BaseModel):
    """Rows of one side: in the file, different ones that count (of NEW: not in OLD), and those with a score."""

    model_config = ConfigDict(frozen=True)

    rows: int
    different: int
    scored: int


class RiskyRow(BaseModel):
    """One of the riskiest added rows: its number in NEW from 0, the share of OLD's rows that score lower, its texts."""

    model_config = ConfigDict(frozen=True)

    row: int
    score: float
    percentile: float
    prompt: str
    response: str


class GateManifest(Manifest):
    """What was compared, and what came of it."""

    command: Literal["gate"] = "gate"
    new: DatasetInfo
    old: DatasetInfo
    model: str
    column: str
    """The score."""
    verdict: GateVerdict
    reason: str
    statistic: str | None
    """The measure with the smaller p; None where no added row has comparable ones."""
    p: float | None
    """Its p, one-sided, adjusted by Holm for two measures."""
    false_alarm_rate: float
    """At most this share of sets of harmless rows is called worse."""
    minimum_detectable: float | None
    """Least share of added rows from the riskiest tenth that is found with 80 % power; None if no share is."""
    added: RowCounts
    reference: RowCounts
    comparison: Comparison | None
    scored_now: int
    """Rows whose scores were not kept from an earlier call."""
    riskiest: tuple[RiskyRow, ...]
    notes: tuple[str, ...]

    @property
    def headline(self) -> str:
        """The finding in one line."""
        if self.comparison is None:
            return f"{self.added.different} added rows, none comparable"
        said = ", ".join(f"{title} {found} (by chance {usual})" for title, found, usual in self.table())
        return f"{self.comparison.added} added rows: {said}, p = {self.p:.2g}"

    def table(self) -> Iterator[tuple[str, str, str]]:
        """What was measured of added rows, and what chance would give."""
        if (of := self.comparison) is not None:
            yield MEASURES[0], f"{100 * of.found[0]:.1f}", f"{100 * of.expected[0]:.0f}"
            yield MEASURES[1], f"{of.found[1]:.1%}", f"{of.expected[1]:.1%}"


class GateRun(BaseModel):
    """A finished gate: ``manifest.json``, and ``scans/`` with the scores of all rows seen in its folder."""

    model_config = ConfigDict(frozen=True)

    folder: Path
    manifest: GateManifest

    def to_json(self) -> dict[str, JsonValue]:
        """What ``--json`` prints."""
        return {"run": str(self.folder), **self.manifest.model_dump(mode="json", exclude={*Manifest.model_fields})}


def gate(
    new: str | Path,
    against: str | Path,
    out: str | Path,
    options: GateOptions | None = None,
    *,
    progress: Progress | None = None,
    **changes: Any,
) -> GateRun:
    """Say whether the rows of ``new`` that ``against`` lacks score riskier than comparable rows of ``against``.

    ``against`` is a dataset or the folder of its finished scan, whose model and options are then used. A permutation
    test of two measures within strata of format and length keeps false alarms at most at ``alpha``. ``worse``: one is
    significant; ``ok``: none is, and a shift of ``must_see`` would have been found; else ``cannot tell``. Rows that
    were scored in an earlier call with the same ``out`` are not scored again.

    Raises:
        RipcurrentError: ``new`` holds no new row, ``against`` was scanned otherwise, or no row could be scored.
    """
    chosen, started = GateOptions.resolve(options, changes), datetime.now(UTC).isoformat(timespec="seconds")
    progress = progress or SilentProgress()
    progress.step("comparing rows")
    old, added, scanned, scanning = _sides(new, against, chosen)
    with _folder(out, scanning) as run:
        scores, last, fresh = score_rows((old, added), run.folder, scanning, scanned, chosen.by, progress)
        table = [[one for key in part.wanted if np.isfinite((one := scores[key]).risk)] for part in (old, added)]
        for side, name in zip(table, (against, new), strict=True):
            if not side:
                hint = f"`ripcurrent doctor {name}` shows why."
                raise RipcurrentError(f"No row of {name} to compare has a score.", hint, code=ExitCode.NOT_MEASURED)
        risk, tokens, formats = np.array([*table[0], *table[1]]).T
        labels = np.arange(len(risk)) >= len(table[0])
        found = compare(risk, labels, strata_of(formats.astype(np.int64), tokens), alpha=chosen.alpha)
        reference, counts = (
            RowCounts(rows=len(part.keys), different=len(part.wanted), scored=len(side))
            for part, side in zip((old, added), table, strict=True)
        )
        verdict, reason = _verdict(found, counts, chosen)
        manifest = GateManifest(
            version=version("ripcurrent"),
            started=started,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=library_versions("torch", "transformers", "numpy", "scipy"),
            machine=machine(),
            new=added.rows.describe(),
            old=old.rows.describe(),
            model=last.manifest.model.name,
            column=chosen.by or last.default_ranking,
            verdict=verdict,
            reason=reason,
            statistic=None if found is None else MEASURES[int(np.argmin(found.p))],
            p=None if found is None else min(found.p),
            false_alarm_rate=chosen.alpha,
            minimum_detectable=None if found is None else found.detectable,
            added=counts,
            reference=reference,
            comparison=found,
            scored_now=fresh,
            riskiest=tuple(_riskiest(added, scores, risk[~labels])),
            notes=tuple(_notes(old, added, counts, found, last)),
        )
        manifest.write(run.folder)
    return GateRun(folder=run.folder, manifest=manifest)


def write_added(
    new: str | Path, against: str | Path, out: str | Path, options: GateOptions
) -> tuple[Path, ScanOptions]:
    """Write the rows of ``new`` that ``against`` lacks into a gate's folder: the file, and how rows are read there."""
    _, added, _, scanning = _sides(new, against, options)
    with _folder(out, scanning) as run:
        name = hashlib.sha256("".join(added.wanted).encode()).hexdigest()[:16]
        path = run.folder / "checks" / f"{name}.rows{added.rows.suffix}"
        added.rows.write(list(added.wanted.values()), path)
    return path, scanning


def _folder(out: str | Path, options: ScanOptions) -> RunFolder:
    how = options.model_dump(mode="json", exclude={*OF_ROWS, "device"})
    return RunFolder(Path(out), {"command": "gate", **how})


def _sides(
    new: str | Path, against: str | Path, options: GateOptions
) -> tuple[RowSet, RowSet, ScanRun | None, ScanOptions]:
    """OLD's rows and the added ones, OLD's scan if it is one, and how rows are scored."""
    named = options.model_dump(exclude_unset=True, include=set(ScanOptions.model_fields))
    scanned = ScanRun.open(against) if (Path(against) / CONFIG).is_file() else None
    if scanned is not None:
        was = scanned.options.model_dump()
        for name in (name for name in named if name not in OF_ROWS and named[name] != was[name]):
            raise RipcurrentError(
                f"{against} was scanned with --{name.replace('_', '-')} {was[name]}, and now it is {named[name]}.",
                "Leave that option out, or give the rows as --against, to be scored so. Nothing is lost.",
            )
        named = {**was, "limit": None, **named}
    chosen = ScanOptions.resolve(None, named)
    try:
        old = RowSet.of(chosen.open(against) if scanned is None else scanned.dataset(), chosen)
    except RipcurrentError as error:
        hint = (
            error.hint if scanned is None else "Put those rows back, or give rows as --against instead of their scan."
        )
        raise RipcurrentError(error.message, hint) from error
    added = RowSet.of(chosen.open(new), chosen, old.wanted)
    if not added.wanted:
        hint = "Name the file with the added rows, or as --against the set before them."
        raise RipcurrentError(f"{new} holds no row that {against} lacks.", hint)
    return old, added, scanned, chosen


def _verdict(found: Comparison | None, added: RowCounts, options: GateOptions) -> tuple[GateVerdict, str]:
    """The verdict, and why."""
    if found is not None and min(found.p) <= options.alpha:
        return "worse", "The added rows score riskier than comparable rows, and chance does not explain it."
    if found is None or found.added < COMPARED * added.different:
        lacks = added.different - (found.added if found else 0)
        return "cannot tell", f"{lacks} of {added.different} added rows have no score or no comparable row."
    share = found.detectable
    if share is None or share > options.must_see:
        seen = "No share" if share is None else f"No share below {share:.0%}"
        more = f" About {found.added * (share / options.must_see) ** 2:.0f} rows would do." if share else ""
        return "cannot tell", f"{seen} from the riskiest tenth would be found among so few added rows.{more}"
    would = f"{share:.0%} of the added rows from the riskiest tenth would have been, with {POWER:.0%} power."
    return "ok", f"No shift was found; {would}"


def _riskiest(part: RowSet, scores: dict[str, Score], reference: FloatArray) -> Iterator[RiskyRow]:
    risk = {place: scores[key].risk for key, place in part.wanted.items() if np.isfinite(scores[key].risk)}
    top = sorted(risk, key=lambda place: -risk[place])[:SHOWN]
    rows = {row.index: row for row in part.rows.at(top)}
    for place in top:
        texts = {"prompt": rows[place].prompt[:TEXT], "response": rows[place].response[:TEXT]}
        yield RiskyRow(row=place, score=risk[place], percentile=float((reference < risk[place]).mean()), **texts)


def _notes(old: RowSet, added: RowSet, counts: RowCounts, found: Comparison | None, scan: ScanRun) -> Iterator[str]:
    in_old = sum(key in old.wanted for key in added.keys)
    repeated = [len(old.keys) - len(old.wanted), len(added.keys) - in_old - len(added.wanted)]
    if in_old or any(repeated):
        yield f"{in_old} rows of NEW are in OLD. Repeats left out: {repeated[1]} in NEW, {repeated[0]} in OLD."
    if lacks := counts.different - counts.scored:
        yield f"{lacks} added rows have no score: `ripcurrent doctor` shows why."
    if found and found.added < counts.scored:
        yield f"{counts.scored - found.added} added rows have no row of their format and length in OLD."
    if weak := weak_anchors_note(scan):
        yield weak
    yield "Scores rank rows and train no model: --level check trains the added rows."
