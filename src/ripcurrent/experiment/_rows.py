"""The rows of an arm, chosen from a scan's scores by its rule."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ripcurrent.data import Row
from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment._arms import Arm
from ripcurrent.experiment._config import ArmRule, rows_of
from ripcurrent.experiment._mix import mix_rows
from ripcurrent.select_old import (
    Selection,
    bottom,
    draw_format,
    draw_random,
    highest,
    lowest,
    match_format,
    match_length,
    read_cosines,
    top,
    union_per_anchor,
)
from ripcurrent.select_old._draw import generator
from ripcurrent.select_old._rank import rank_by_risk, ranked_positions, riskiest_first
from ripcurrent.select_old._table import ScoredRows

MAIN = ""
"""The name of the scan that arms use unless they name another."""

HELD_OUT = "held_out"
"""Status of rows that no arm may train on."""


@dataclass(frozen=True, slots=True)
class ScanTable:
    """The scores of one scan, as arms choose from them."""

    folder: Path
    """Run folder of the scan."""
    table: pa.Table
    """Its scores; rows that are held out have the status ``held_out``."""
    dataset_sha256: str
    """Hash of the rows that were scanned."""

    @property
    def usable(self) -> int:
        """Rows that an arm may train on."""
        return int(pc.sum(pc.equal(self.table["status"], "ok")).as_py() or 0)


def held_out_rows(table: pa.Table, count: int) -> tuple[int, ...]:
    """``count`` usable rows at random, the same ones whatever the experiment.

    Raises:
        RipcurrentError: That would take more than half of the usable rows.
    """
    scored = ScoredRows(table)
    usable = scored.rows[scored.ok]
    if count * 2 > len(usable):
        raise RipcurrentError(
            f"Of {len(usable)} usable rows, {count} cannot be held out.", "Give heldout: 0, or a smaller number."
        )
    return tuple(sorted(generator(0, "held out").permutation(usable)[:count].tolist()))


def content_of(row: Row) -> tuple[tuple[str, str], ...]:
    """What a row says, whatever its place and format: its turns, or its text."""
    return tuple((message.role, message.content) for message in row.messages) or (("", row.text or ""),)


def without_rows(table: pa.Table, rows: Collection[int]) -> pa.Table:
    """The table with these rows marked as held out, so that no rule chooses them."""
    marked = pc.is_in(table["row"], pa.array(sorted(rows), table["row"].type))
    place = table.column_names.index("status")
    return table.set_column(place, "status", pc.if_else(marked, HELD_OUT, table["status"]))


def choose_rows(arm: Arm, seed: int, scans: Mapping[str, ScanTable], arms: Mapping[str, Arm]) -> Selection:
    """The rows that an arm trains on with a seed; its selection has the arm's name.

    Args:
        arm: The arm, not one of ``file``.
        seed: The arm's seed; it decides what is drawn unless the rule fixes that.
        scans: Scores by name of the scan; `MAIN` is the main one.
        arms: All arms by name, for those that refer to another.

    Raises:
        RipcurrentError: No row follows the rule, or a column that cannot rank; the arm is named.
    """
    draw_seed = seed if arm.rule.draw_seed is None else arm.rule.draw_seed
    try:
        chosen = _chosen(arm, draw_seed, seed, scans, arms)
    except RipcurrentError as error:
        raise RipcurrentError(f"Arm {arm.name}: {error.message}", error.hint, code=error.code) from error
    return replace(chosen, name=arm.name, control_of=arm.of, seed=draw_seed)


def _chosen(arm: Arm, draw_seed: int, seed: int, scans: Mapping[str, ScanTable], arms: Mapping[str, Arm]) -> Selection:
    rule, scan = arm.rule, scans[arm.rule.scan or MAIN]
    table = scan.table
    if arm.of is not None:
        of = arms[arm.of]
        _refuse_other_dataset(scan, scans[of.rule.scan or MAIN], of.name)
        other = choose_rows(of, seed, scans, arms)
        if rule.length_matched is not None:
            return match_length(table, other, draw_seed)
        if rule.format_matched is not None:
            return match_format(table, other, draw_seed)
        return _all_but(table, other, f"all usable rows but those of arm {other.name}: {other.rule}")
    if isinstance(rule.all_but, ArmRule):
        inner = Arm(arm.name, rule.all_but, rule.all_but.size)
        _refuse_other_dataset(scan, scans[rule.all_but.scan or MAIN], "all_but")
        other = _chosen(inner, draw_seed, seed, scans, arms)
        return _all_but(table, other, f"all usable rows but these: {other.rule}")
    if rule.all_but_random is not None:
        drawn = draw_random(table, rows_of(rule.all_but_random, scan.usable), draw_seed)
        return _all_but(table, drawn, f"all usable rows but {len(drawn.indices)} at random, seed {draw_seed}")
    if rule.bins is not None:
        rows = None if arm.size is None else rows_of(arm.size, scan.usable)
        return _bin(table, rule, arm.bin or 0, rows, draw_seed)
    k = rows_of(arm.size or 1, scan.usable)
    if rule.draw is not None:
        return draw_format(table, rule.draw, k, draw_seed)
    if rule.share is not None:
        return _share(table, rule.share.format, rule.share.percent[0], k, draw_seed)
    if rule.mix is not None:
        return mix_rows(table, rule.mix, rule.by, k, draw_seed)
    if rule.within_length is not None:
        return _within_length(table, rule, k)
    if rule.select == "all":
        return _everything(table)
    if rule.select == "random":
        return draw_random(table, k, draw_seed)
    if rule.select == "union":
        return _union(scan, k)
    ranked = {"top": top, "bottom": bottom, "highest": highest, "lowest": lowest}
    return ranked[str(rule.select)](table, k, rule.by)


def _refuse_other_dataset(scan: ScanTable, other: ScanTable, name: str) -> None:
    if scan.dataset_sha256 != other.dataset_sha256:
        raise RipcurrentError(
            f"its scan is of another dataset than that of {name}, whose rows it is made from.",
            "Leave scan out here: it is then that one's.",
        )


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


def _everything(table: pa.Table) -> Selection:
    scored = ScoredRows(table)
    rows = scored.rows[scored.ok]
    return Selection("all", "all", f"all {len(rows)} usable rows", None, tuple(rows.tolist()), ())


def _all_but(table: pa.Table, other: Selection, rule: str) -> Selection:
    scored = ScoredRows(table)
    left = scored.rows[scored.pool(other.indices)]
    return Selection("all-but", "all-but", rule, other.column, tuple(left.tolist()), (), seed=other.seed)


def _bin(table: pa.Table, rule: ArmRule, place: int, rows: int | None, seed: int) -> Selection:
    """One of equal bins by risk, bin 0 the least risky; ``rows`` of it at random, or all."""
    scored = ScoredRows(table)
    column = rule.by or scored.default_ranking
    ordered = ranked_positions(scored, column, descending=not riskiest_first(scored, column))
    inside = np.array_split(ordered, rule.bins or 2)[place]
    last = "highest" if scored.direction(column) == "none" else "riskiest"
    words = f"bin {place + 1} of {rule.bins} by {column}, the last the {last}: {len(inside)} rows"
    shortfall = 0
    if rows is not None:
        shortfall = max(0, rows - len(inside))
        inside = generator(seed, f"bin {place}").permutation(inside)[:rows]
        words += f", {len(inside)} of them at random, seed {seed}"
    if len(inside) == 0:
        raise RipcurrentError(f"Bin {place + 1} of {rule.bins} has no rows.", "Ask for fewer bins.")
    inside = np.sort(inside)
    return Selection(
        f"bin-{place + 1}",
        "bin",
        words,
        column,
        tuple(scored.rows[inside].tolist()),
        tuple(scored.scores(column)[inside].tolist()),
        shortfall=shortfall,
        notes=(f"only {len(inside)} rows in this bin",) if shortfall else (),
    )


def _share(table: pa.Table, trait: str, percent: float, k: int, seed: int) -> Selection:
    """``percent`` of ``k`` rows of one format and the rest of all others, each at random."""
    scored = ScoredRows(table)
    random = generator(seed, f"share {trait}")
    has = scored.flags(f"is_{trait}")
    wanted = round(k * percent / 100)
    parts = []
    for pool, count in ((scored.ok & has, wanted), (scored.ok & ~has, k - wanted)):
        # the whole order is drawn, so that a larger share holds the rows of a smaller one
        parts.append(random.permutation(np.flatnonzero(pool))[:count])
    drawn = np.sort(np.concatenate(parts))
    if len(drawn) == 0:
        raise RipcurrentError(f"No usable row is there to mix {trait} rows from.", "Use another format.")
    missing = k - len(drawn)
    found = len(parts[0]) / len(drawn)
    return Selection(
        f"share-{trait}-{percent:g}",
        "share",
        f"{len(parts[0])} rows at random with is_{trait} and {len(parts[1])} without, seed {seed}",
        None,
        tuple(scored.rows[drawn].tolist()),
        (),
        shortfall=missing,
        notes=(f"only {len(drawn)} rows, {found:.0%} of them {trait}, instead of {k} with {percent:g} %",)
        if missing
        else (),
    )


def _within_length(table: pa.Table, rule: ArmRule, k: int) -> Selection:
    """The riskiest or most protective rows of each stratum of response length, equally many of each."""
    scored = ScoredRows(table)
    column = rule.by or scored.default_ranking
    if scored.direction(column) == "none":
        rank_by_risk(scored, "top", 1, column)  # raises, and says why
    ranked = ranked_positions(scored, column, descending=riskiest_first(scored, column))
    if rule.within_length == "bottom":
        ranked = ranked_positions(scored, column, descending=not riskiest_first(scored, column))
    lengths = scored.numbers("response_tokens")
    by_length = np.sort(ranked)[np.argsort(lengths[np.sort(ranked)], kind="stable")]
    strata = np.array_split(by_length, min(rule.strata, len(by_length), k))
    shares = [len(part) for part in np.array_split(np.arange(k), len(strata))]
    taken = [ranked[np.isin(ranked, stratum)][:share] for stratum, share in zip(strata, shares, strict=True)]
    rows = np.sort(np.concatenate(taken))
    which = "riskiest" if rule.within_length == "top" else "most protective"
    return Selection(
        f"within-length-{rule.within_length}",
        "within-length",
        f"the {which} rows by {column} of each of {len(strata)} strata of response_tokens, {len(rows)} in all",
        column,
        tuple(scored.rows[rows].tolist()),
        tuple(scored.scores(column)[rows].tolist()),
        shortfall=k - len(rows),
        notes=(f"only {len(rows)} rows could be taken",) if len(rows) < k else (),
    )
