"""The rows of an arm, chosen from a scan's scores by its rule."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from ripcurrent.data import Row
from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment._arms import Arm
from ripcurrent.experiment._config import ArmRule, Mix
from ripcurrent.scan import RowNumbers, ScanRun
from ripcurrent.select import (
    Kind,
    Selection,
    bottom,
    generator,
    match_format,
    match_length,
    number_of_rows,
    of_format,
    random,
    top,
    union,
)


def usable_rows(run: ScanRun) -> RowNumbers:
    """Numbers of the rows that an arm may train on."""
    return np.flatnonzero(run.scored)


def without_rows(run: ScanRun, rows: Collection[int]) -> ScanRun:
    """The same scan with these rows marked as unusable, so that no rule chooses them."""
    usable = run.scored.copy()
    usable[list(rows)] = False
    view = ScanRun(run.folder, run.manifest)
    # in place of the cached property
    vars(view)["scored"] = usable
    return view


def held_out_rows(run: ScanRun, count: int) -> tuple[int, ...]:
    """``count`` usable rows at random, the same ones whatever the experiment."""
    usable = usable_rows(run)
    if count * 2 > len(usable):
        raise RipcurrentError(
            f"Of {len(usable)} usable rows, {count} cannot be held out.", "Give heldout: 0, or a smaller number."
        )
    return tuple(sorted(generator(0, "held out").permutation(usable)[:count].tolist()))


def content_of(row: Row) -> tuple[tuple[str, str], ...]:
    """What a row says, whatever its place and format: its turns, or its text."""
    return tuple((message.role, message.content) for message in row.messages) or (("", row.text or ""),)


def choose_rows(arm: Arm, seed: int, scans: Mapping[str, ScanRun], arms: Mapping[str, Arm]) -> Selection:
    """The rows that an arm trains on with a seed; its selection has the arm's name.

    Args:
        arm: The arm.
        seed: Decides what is drawn.
        scans: The scans by name.
        arms: All arms by name, for those that are matched to another.
    """
    run = scans[arm.scan]
    try:
        if arm.of is None:
            chosen = _chosen(arm.rule, number_of_rows(arm.size or 1, len(usable_rows(run))), run, seed)
        else:
            match = match_length if arm.rule.length_matched is not None else match_format
            chosen = match(run, choose_rows(arms[arm.of], seed, scans, arms), seed)
    except RipcurrentError as error:
        raise RipcurrentError(f"Arm {arm.name}: {error.message}", error.hint, code=error.code) from error
    return replace(chosen, name=arm.name, control_of=arm.of, seed=seed)


def _chosen(rule: ArmRule, k: int, run: ScanRun, seed: int) -> Selection:
    usable = usable_rows(run)
    if rule.all_but is not None or rule.all_but_random is not None:
        size = rule.all_but.size if rule.all_but is not None else rule.all_but_random
        inner = rule.all_but or ArmRule(select="random")
        left_out = _chosen(inner, number_of_rows(size or 1, len(usable)), run, seed)
        rows = np.setdiff1d(usable, left_out.indices)
        if not len(rows):
            raise RipcurrentError("no usable row is left.", "Leave fewer out.")
        return _selection("all-but", f"all usable rows but these: {left_out.rule}", rows)
    if rule.draw is not None:
        return of_format(run, rule.draw, k, seed)
    if rule.mix is not None:
        return _mix(run, rule.mix, rule.by, k, seed)
    if rule.select == "all":
        return _selection("all", f"all {len(usable)} usable rows", usable)
    if rule.select == "random":
        return random(run, k, seed)
    if rule.select == "union":
        return _union(run, k)
    return (top if rule.select == "top" else bottom)(run, k, rule.by)


def _selection(kind: Kind, rule: str, rows: RowNumbers, wanted: int = 0, note: str = "") -> Selection:
    """Rows in the order of the input, with what they lack of those wanted."""
    short = max(0, wanted - len(rows))
    return Selection(
        kind, kind, rule, None, tuple(np.sort(rows).tolist()), (), shortfall=short, notes=(note,) if short else ()
    )


def _union(run: ScanRun, k: int) -> Selection:
    """The smallest union of equally many nearest rows of every harmful anchor that has ``k`` rows, cut to ``k``."""
    least, most = 1, k
    while least < most:
        middle = (least + most) // 2
        least, most = (middle + 1, most) if len(union(run, middle).indices) < k else (least, middle)
    found = union(run, least)
    return replace(
        found,
        rule=f"{found.rule}; the first {k} of these {len(found.indices)}",
        indices=found.indices[:k],
        scores=found.scores[:k],
        shortfall=max(0, k - len(found.indices)),
    )


def _mix(run: ScanRun, mix: Mix, by: str | None, k: int, seed: int) -> Selection:
    """A percent of ``k`` rows riskiest, or at random of a format; the rest at random of all others."""
    (percent,), usable = mix.percent, usable_rows(run)
    wanted = round(k * percent / 100)
    # the whole order is drawn, so that a larger share holds the rows of a smaller one
    draw = generator(seed, "mix" if mix.of == "top" else f"share {mix.of}").permutation
    if mix.of == "top":
        what, inside = "riskiest", np.array(top(run, wanted, by).indices if wanted else (), dtype=np.int64)
        others = np.setdiff1d(usable, inside)
    else:
        what, has = mix.of, run.flags(f"is_{mix.of}")[usable]
        inside, others = draw(usable[has])[:wanted], usable[~has]
    rows = np.concatenate([inside, draw(others)[: k - wanted]])
    if len(rows) == 0:
        raise RipcurrentError(f"no usable row is there to mix {what} rows from.", "Use another format.")
    rule = f"{len(inside)} {what} rows and {len(rows) - len(inside)} others at random, seed {seed}"
    share = f"{len(inside) / len(rows):.0%} of them {what}"
    return _selection("mix", rule, rows, k, f"only {len(rows)} rows, {share}, instead of {k} with {percent:g} %")
