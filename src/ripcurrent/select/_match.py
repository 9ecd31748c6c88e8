"""Controls matched to a selection one to one: by response length, by format, by loss.

Each gives rows in the order of the selection's rows they stand for; fewer, as a shortfall, where too few are left
outside. Equal seeds give equal rows. A `RipcurrentError` is raised where no usable row is left outside the selection.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.scan import BoolArray, FloatArray, RowNumbers, ScanRun
from ripcurrent.select._line_match import match_on_line
from ripcurrent.select._rules import drawn, free_rows, generator
from ripcurrent.select._types import Distance, Kind, Selection

FORMAT_TRAITS: tuple[str, ...] = ("is_list", "is_bullet", "is_numbered", "is_maths", "is_code", "is_short")
"""The traits whose combination is a row's format; ``has_refusal`` is content, not format."""

LOSSES: tuple[str, ...] = ("loss", "loss_first_10")


def match_length(run: ScanRun, selection: Selection, seed: int) -> Selection:
    """For every row of a selection the row outside it that is nearest in ``response_tokens``, without replacement.

    The match is the best possible as a whole: no other set of as many rows has a smaller mean absolute difference.
    Rows of equal length, and choices of equal cost, are settled at random.
    """
    chosen, pool = np.array(selection.indices), free_rows(run, selection.indices)
    lengths = run.floats("response_tokens")
    wanted, offered = match_on_line(lengths[chosen], lengths[pool], generator(seed, "length"))
    rows = pool[offered[np.argsort(wanted, kind="stable")]]
    return _matched(run, selection, "length-matched", "by nearest response_tokens, best as a whole", rows, seed)


def match_format(run: ScanRun, selection: Selection, seed: int) -> Selection:
    """For every row of a selection a random row outside it with the same combination of format traits.

    Where a combination runs out, the nearest one (fewest traits that differ) fills in, at random among equally near
    rows; ``filled`` counts these.
    """
    random = generator(seed, "format")
    chosen, pool = np.array(selection.indices), random.permutation(free_rows(run, selection.indices))
    traits = np.stack([run.flags(trait) for trait in FORMAT_TRAITS], axis=1)
    codes = traits @ (1 << np.arange(len(FORMAT_TRAITS)))
    free = {int(code): pool[codes[pool] == code].tolist() for code in np.unique(codes[pool])}
    found: dict[int, int] = {}
    differing: list[int] = []
    order = random.permutation(len(chosen)).tolist()
    for place in order:
        same = free.get(int(codes[chosen[place]]))
        if same:
            found[place] = same.pop()
    for place in (place for place in order if place not in found):
        left = {code: len(rows) for code, rows in free.items() if rows}
        if not left:
            break
        wanted = int(codes[chosen[place]])
        fewest = min((code ^ wanted).bit_count() for code in left)
        near = [code for code in left if (code ^ wanted).bit_count() == fewest]
        weights = np.array([left[code] for code in near], dtype=np.float64)
        found[place] = free[near[int(random.choice(len(near), p=weights / weights.sum()))]].pop()
        differing.append(fewest)
    rows = np.array([found[place] for place in sorted(found)], dtype=np.int64)
    note = f"{len(differing)} rows of the nearest other trait combination, {sum(differing)} traits differing in all"
    notes = (note,) if differing else ()
    rule = f"by the same combination of {', '.join(FORMAT_TRAITS)}"
    return _matched(run, selection, "format-matched", rule, rows, seed, filled=len(differing), notes=notes)


def match_loss(run: ScanRun, selection: Selection, seed: int) -> Selection:
    """For every row of a selection the row outside it that is nearest in ``loss`` and ``loss_first_10``.

    Both losses are divided by their standard deviation over the usable rows; the selection's rows take their nearest
    free row in random order, without replacement.

    Raises:
        RipcurrentError: The run measured no losses.
    """
    from scipy.spatial import cKDTree

    losses = np.stack([run.floats(column) for column in LOSSES], axis=1)
    known: BoolArray = np.asarray(np.isfinite(losses).all(axis=1))
    chosen, pool = np.array(selection.indices), free_rows(run, selection.indices)
    pool = pool[known[pool]]
    if len(pool) == 0 or not known[chosen].any():
        raise RipcurrentError(
            "This run has no losses to match by.",
            "Scan with --signals all or --signals gradient, or leave the loss match out.",
            code=ExitCode.NOT_MEASURED,
        )
    spread = losses[known & run.scored].std(axis=0)
    losses = losses / np.where(spread > 0, spread, 1.0)
    random = generator(seed, "loss")
    pool = random.permutation(pool)
    offered = losses[pool]
    free = np.ones(len(pool), dtype=bool)
    tree = cKDTree(offered)
    found: dict[int, int] = {}
    for place in random.permutation(np.flatnonzero(known[chosen])).tolist()[: len(pool)]:
        nearest = _nearest_free(tree, offered, losses[chosen[place]], free)
        free[nearest] = False
        found[place] = int(pool[nearest])
    rows = np.array([found[place] for place in sorted(found)], dtype=np.int64)
    rule = "by nearest loss and loss_first_10, each in standard deviations, in random order"
    return _matched(run, selection, "loss-matched", rule, rows, seed, compared=("response_tokens", *LOSSES))


def _nearest_free(tree: Any, offered: FloatArray, wanted: FloatArray, free: BoolArray) -> int:
    """The place of the nearest point that is free; of equally near ones the first."""
    count = 8
    while count < len(offered):
        apart, near = tree.query(wanted, k=count)
        left = near[free[near]]
        # what is as far as the last one found may go on behind it
        if len(left) and apart[free[near]][0] < apart[-1]:
            break
        count *= 4
    else:
        left = np.flatnonzero(free)
    squares = ((offered[left] - wanted) ** 2).sum(axis=1)
    return int(left[squares == squares.min()].min())


def distance(column: str, selected: FloatArray, control: FloatArray) -> Distance:
    """How far apart two samples of a column lie; values that are not finite are left out, NaN if none is left."""
    from scipy.stats import wasserstein_distance

    selected, control = selected[np.isfinite(selected)], control[np.isfinite(control)]
    if len(selected) == 0 or len(control) == 0:
        return Distance(column, *[float("nan")] * 4)
    both = np.concatenate([selected, control])
    shares = [np.searchsorted(np.sort(sample), both, side="right") / len(sample) for sample in (selected, control)]
    return Distance(
        column=column,
        mean_absolute_difference=float(wasserstein_distance(selected, control)),
        ks_statistic=float(np.abs(shares[0] - shares[1]).max()),
        selection_mean=float(selected.mean()),
        control_mean=float(control.mean()),
    )


def as_control(
    run: ScanRun, selection: Selection, control: Selection, compared: tuple[str, ...] = ("response_tokens",)
) -> Selection:
    """A selection as a control of another: with that one's ranking column, and how far its rows lie from it."""
    chosen, rows = np.array(selection.indices, dtype=np.int64), np.array(control.indices, dtype=np.int64)
    column = selection.column or run.default_ranking
    usable = np.where(run.scored, run.floats(column), np.nan)
    columns = [(name, run.floats(name)) for name in compared]
    return replace(
        control,
        name=f"{selection.name}-control-{control.name}",
        column=column,
        scores=tuple(usable[rows].tolist()),
        control_of=selection.name,
        distances=tuple(distance(name, values[chosen], values[rows]) for name, values in columns),
    )


def _matched(
    run: ScanRun,
    selection: Selection,
    kind: Kind,
    rule: str,
    rows: RowNumbers,
    seed: int,
    *,
    filled: int = 0,
    notes: tuple[str, ...] = (),
    compared: tuple[str, ...] = ("response_tokens",),
) -> Selection:
    wanted = len(selection.indices)
    control = drawn(
        f"{kind.removesuffix('-matched')}-{seed}",
        kind,
        f"one row outside {selection.name} for each of its rows, {rule}, ties at random, seed {seed}",
        rows,
        wanted,
        seed,
        f"{wanted - len(rows)} rows of the selection have no row left to stand for them",
    )
    return as_control(run, selection, replace(control, filled=filled, notes=notes + control.notes), compared)
