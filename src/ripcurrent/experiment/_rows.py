"""The rows of an arm, chosen from a scan's scores by its rule."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ripcurrent.data import Row
from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment._arms import Arm
from ripcurrent.experiment._config import ArmRule, Mix, rows_of
from ripcurrent.select import (
    Kind,
    Selection,
    bottom,
    draw_format,
    draw_random,
    match_format,
    match_length,
    read_cosines,
    top,
    union_per_anchor,
)
from ripcurrent.select._draw import generator
from ripcurrent.select._table import ScoredRows

HELD_OUT = "held_out"
"""Status of rows that no arm may train on."""


@dataclass(frozen=True)
class ScanTable:
    """The scores of one scan, as arms choose from them."""

    folder: Path
    """Run folder of the scan."""
    table: pa.Table
    """Its scores; rows that are held out have the status ``held_out``."""
    dataset_sha256: str
    """Hash of the rows that were scanned."""

    @cached_property
    def scored(self) -> ScoredRows:
        """The same as arrays in row order."""
        return ScoredRows(self.table)

    @property
    def usable(self) -> int:
        """Rows that an arm may train on."""
        return int(self.scored.ok.sum())

    def without(self, rows: Collection[int]) -> ScanTable:
        """These rows marked as held out, so that no rule chooses them."""
        marked = pc.is_in(self.table["row"], pa.array(sorted(rows), self.table["row"].type))
        place = self.table.column_names.index("status")
        status = pc.if_else(marked, HELD_OUT, self.table["status"])
        return replace(self, table=self.table.set_column(place, "status", status))

    def held_out(self, count: int) -> tuple[int, ...]:
        """``count`` usable rows at random, the same ones whatever the experiment.

        Raises:
            RipcurrentError: That would take more than half of the usable rows.
        """
        if count * 2 > self.usable:
            raise RipcurrentError(
                f"Of {self.usable} usable rows, {count} cannot be held out.", "Give heldout: 0, or a smaller number."
            )
        drawn = generator(0, "held out").permutation(self.scored.rows[self.scored.ok])[:count]
        return tuple(sorted(drawn.tolist()))


def content_of(row: Row) -> tuple[tuple[str, str], ...]:
    """What a row says, whatever its place and format: its turns, or its text."""
    return tuple((message.role, message.content) for message in row.messages) or (("", row.text or ""),)


def choose_rows(arm: Arm, seed: int, scans: Mapping[str, ScanTable], arms: Mapping[str, Arm]) -> Selection:
    """The rows that an arm trains on with a seed; its selection has the arm's name.

    Args:
        arm: The arm, not one of ``file``.
        seed: Decides what is drawn.
        scans: Scores by name of the scan.
        arms: All arms by name, for those that are matched to another.

    Raises:
        RipcurrentError: No row follows the rule, or a column that cannot rank; the arm is named.
    """
    scan = scans[arm.scan]
    try:
        if arm.of is None:
            chosen = _chosen(arm.rule, rows_of(arm.size or 1, scan.usable), scan, seed)
        else:
            other = choose_rows(arms[arm.of], seed, scans, arms)
            match = match_length if arm.rule.length_matched is not None else match_format
            chosen = match(scan.table, other, seed)
    except RipcurrentError as error:
        raise RipcurrentError(f"Arm {arm.name}: {error.message}", error.hint, code=error.code) from error
    return replace(chosen, name=arm.name, control_of=arm.of, seed=seed)


def _chosen(rule: ArmRule, k: int, scan: ScanTable, seed: int) -> Selection:
    table = scan.table
    if rule.all_but is not None:
        inner = rule.all_but
        left_out = _chosen(inner, rows_of(inner.size or 1, scan.usable), scan, seed)
        return _all_but(scan, left_out, f"all usable rows but these: {left_out.rule}")
    if rule.all_but_random is not None:
        drawn = draw_random(table, rows_of(rule.all_but_random, scan.usable), seed)
        return _all_but(scan, drawn, f"all usable rows but {len(drawn.indices)} at random, seed {seed}")
    if rule.draw is not None:
        return draw_format(table, rule.draw, k, seed)
    if rule.mix is not None:
        return _mix(scan, rule.mix, rule.by, k, seed)
    if rule.select == "all":
        rows = scan.scored.rows[scan.scored.ok]
        return _selection("all", f"all {len(rows)} usable rows", rows)
    if rule.select == "random":
        return draw_random(table, k, seed)
    if rule.select == "union":
        return _union(scan, k)
    return (top if rule.select == "top" else bottom)(table, k, rule.by)


def _selection(kind: Kind, rule: str, rows: npt.NDArray[np.int64], wanted: int = 0, note: str = "") -> Selection:
    """Rows in the order of the input, with what they lack of those wanted."""
    short = max(0, wanted - len(rows))
    notes = (note or f"only {len(rows)} rows could be taken",) if short else ()
    return Selection(kind, kind, rule, None, tuple(np.sort(rows).tolist()), (), shortfall=short, notes=notes)


def _all_but(scan: ScanTable, left_out: Selection, rule: str) -> Selection:
    return _selection("all-but", rule, scan.scored.rows[scan.scored.pool(left_out.indices)])


def _union(scan: ScanTable, k: int) -> Selection:
    """The smallest union of equally many nearest rows of every harmful anchor that has ``k`` rows, cut to ``k``."""
    least, most = 1, k
    while least < most:
        middle = (least + most) // 2
        found = union_per_anchor(scan.table, read_cosines(scan.folder), middle)
        least, most = (middle + 1, most) if len(found.indices) < k else (least, middle)
    found = union_per_anchor(scan.table, read_cosines(scan.folder), least)
    return replace(
        found,
        rule=f"{found.rule}; the first {k} of these {len(found.indices)}",
        indices=found.indices[:k],
        scores=found.scores[:k],
        shortfall=max(0, k - len(found.indices)),
    )


def _mix(scan: ScanTable, mix: Mix, by: str | None, k: int, seed: int) -> Selection:
    """A percent of ``k`` rows riskiest, or at random of a format; the rest at random of all others."""
    (percent,), scored = mix.percent, scan.scored
    wanted = round(k * percent / 100)
    if mix.of == "top":
        what, has = "riskiest", np.zeros(len(scored.rows), dtype=bool)
        has[scored.positions(top(scan.table, wanted, by).indices if wanted else ())] = True
        others = generator(seed, "mix")
    else:
        what, has = mix.of, scored.flags(f"is_{mix.of}")
        others = generator(seed, f"share {mix.of}")
    # the whole order is drawn, so that a larger share holds the rows of a smaller one
    inside = others.permutation(np.flatnonzero(scored.ok & has))[:wanted] if mix.of != "top" else np.flatnonzero(has)
    outside = others.permutation(np.flatnonzero(scored.ok & ~has))[: k - wanted]
    drawn = np.concatenate([inside, outside])
    if len(drawn) == 0:
        raise RipcurrentError(f"No usable row is there to mix {what} rows from.", "Use another format.")
    return _selection(
        "mix",
        f"{len(inside)} {what} rows and {len(outside)} others at random, seed {seed}",
        scored.rows[drawn],
        k,
        f"only {len(drawn)} rows, {len(inside) / len(drawn):.0%} of them {what}, instead of {k} with {percent:g} %",
    )
