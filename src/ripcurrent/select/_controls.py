"""The controls that stand beside a selection (methods §7).

Matched ones give rows in the order of the selection's rows they stand for; fewer, as a shortfall, where too few are
left outside. Equal seeds give equal rows. A `RipcurrentError` is raised where no usable row is left outside.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.scan import BoolArray, FloatArray, RowNumbers, ScanRun
from ripcurrent.select._rules import drawn, free_rows, generator, random, rank_by_risk
from ripcurrent.select._types import Distance, Kind, Selection

FORMAT_TRAITS: tuple[str, ...] = ("is_list", "is_bullet", "is_numbered", "is_maths", "is_code", "is_short")
"""The traits whose combination is a row's format; ``has_refusal`` is content, not format."""
LIKE_LOSS: tuple[str, ...] = ("response_tokens", "loss_first_10")
"""What a loss match is near in."""


def controls_for(run: ScanRun, selection: Selection, seeds: Sequence[int] = (0, 1, 2)) -> tuple[Selection, ...]:
    """Every control of a selection, none of which holds a row of it, each with its distance in response tokens.

    For each seed a random, a length-matched and a format-matched draw, where the scan has losses a loss-matched one;
    then the other end of the ranking: the most protective rows, or of ``bottom`` the riskiest.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise RipcurrentError(
            "Controls need at least one seed, each only once.", "Leave --seed out for the usual 0, 1 and 2."
        )
    controls: list[Selection] = []
    for seed in seeds:
        drawn = random(run, len(selection.indices), seed, without=selection.indices)
        controls.append(as_control(run, selection, replace(drawn, name=f"random-{seed}")))
        controls.append(match_length(run, selection, seed))
        controls.append(match_format(run, selection, seed))
        if np.isfinite(run.floats("loss_first_10")[run.scored]).any():
            controls.append(match_loss(run, selection, seed))
    return (*controls, _other_end(run, selection))


def _other_end(run: ScanRun, selection: Selection) -> Selection:
    column = selection.column or run.default_ranking
    # A column without a risk direction uses the default ranking's opposite end.
    by = column if run.risk_direction(column) != "none" else run.default_ranking
    kind: Kind = "top" if selection.kind == "bottom" else "bottom"
    ranked = rank_by_risk(run, kind, len(selection.indices), by, without=selection.indices)
    if not ranked.indices:
        raise RipcurrentError(
            f"No row with a score by {ranked.column} is left outside the selection for its control, the other end of "
            "the ranking.",
            f"Select fewer than {len(selection.indices)} rows.",
        )
    return as_control(run, selection, replace(ranked, name=ranked.kind))


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
    draw = generator(seed, "format")
    chosen, pool = np.array(selection.indices), draw.permutation(free_rows(run, selection.indices))
    traits = np.stack([run.flags(trait) for trait in FORMAT_TRAITS], axis=1)
    codes = traits @ (1 << np.arange(len(FORMAT_TRAITS)))
    free = {int(code): pool[codes[pool] == code].tolist() for code in np.unique(codes[pool])}
    found: dict[int, int] = {}
    differing: list[int] = []
    order = draw.permutation(len(chosen)).tolist()
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
        found[place] = free[near[int(draw.choice(len(near), p=weights / weights.sum()))]].pop()
        differing.append(fewest)
    rows = np.array([found[place] for place in sorted(found)], dtype=np.int64)
    note = f"{len(differing)} rows of the nearest other trait combination, {sum(differing)} traits differing in all"
    notes = (note,) if differing else ()
    rule = f"by the same combination of {', '.join(FORMAT_TRAITS)}"
    return _matched(run, selection, "format-matched", rule, rows, seed, filled=len(differing), notes=notes)


def match_loss(run: ScanRun, selection: Selection, seed: int) -> Selection:
    """For every row of a selection the free row outside it nearest in ``response_tokens`` and ``loss_first_10``.

    Both are ranks among the usable rows; rows take their match in random order.
    """
    from scipy.stats import rankdata

    values = np.stack([run.floats(column) for column in LIKE_LOSS], axis=1)
    known: BoolArray = np.asarray(np.isfinite(values).all(axis=1) & run.scored)
    chosen, pool = np.array(selection.indices), free_rows(run, selection.indices)
    pool = pool[known[pool]]
    if len(pool) == 0 or not known[chosen].any():
        raise RipcurrentError(
            "This run has no losses to match by.",
            "Scan with --signals all or --signals gradient, or leave the loss match out.",
            code=ExitCode.NOT_MEASURED,
        )
    values[known] = rankdata(values[known], axis=0)
    draw = generator(seed, "loss")
    pool = draw.permutation(pool)
    offered = values[pool]
    found: dict[int, int] = {}
    for place in draw.permutation(np.flatnonzero(known[chosen])).tolist()[: len(pool)]:
        nearest = int(((offered - values[chosen[place]]) ** 2).sum(axis=1).argmin())
        found[place] = int(pool[nearest])
        offered[nearest] = np.inf
    rows = np.array([found[place] for place in sorted(found)], dtype=np.int64)
    rule = f"by nearest {' and '.join(LIKE_LOSS)}, each as ranks, in random order"
    return _matched(run, selection, "loss-matched", rule, rows, seed, compared=LIKE_LOSS)


def distance(column: str, selected: FloatArray, control: FloatArray) -> Distance:
    """How far apart two samples of a column lie; values that are not finite are left out, NaN if none is left."""
    from scipy.stats import ks_2samp, wasserstein_distance

    selected, control = selected[np.isfinite(selected)], control[np.isfinite(control)]
    if len(selected) == 0 or len(control) == 0:
        return Distance(column, *[float("nan")] * 4)
    return Distance(
        column=column,
        mean_absolute_difference=float(wasserstein_distance(selected, control)),
        ks_statistic=float(ks_2samp(selected, control, method="asymp").statistic),
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


def match_on_line(wanted: FloatArray, offered: FloatArray, draw: np.random.Generator) -> tuple[RowNumbers, RowNumbers]:
    """Pair whole numbers one to one with the least possible sum of absolute differences; their places on both sides.

    The pairs number ``min(wanted, offered)``; of the longer side it is also chosen which numbers take part. Equal
    numbers, and choices of equal cost, are settled at random.
    """
    if len(wanted) > len(offered):
        right, left = match_on_line(offered, wanted, draw)
        return left, right
    values, group = np.unique(np.concatenate([wanted, offered]), return_inverse=True)
    demand = np.bincount(group[: len(wanted)], minlength=len(values))
    supply = np.bincount(group[len(wanted) :], minlength=len(values))
    used = _cheapest_use(values, demand, supply, draw)
    # Within one value every offered number is as good as another: shuffle first, then a stable sort keeps the shuffle.
    shuffled = draw.permutation(len(offered))
    shuffled = shuffled[np.argsort(offered[shuffled], kind="stable")]
    first_of_group = np.cumsum(supply) - supply
    within_group = np.arange(len(offered)) - first_of_group[group[len(wanted) :][shuffled]]
    taken = shuffled[within_group < used[group[len(wanted) :][shuffled]]]
    # Both sides sorted: on a line, pairing in order is never dearer than any other pairing.
    return np.argsort(wanted, kind="stable").astype(np.int64), taken.astype(np.int64)


def _cheapest_use(values: FloatArray, demand: RowNumbers, supply: RowNumbers, draw: np.random.Generator) -> RowNumbers:
    """How many offered numbers of each distinct value take part: a transport problem on a line."""
    from scipy.optimize import linprog
    from scipy.sparse import diags_array, eye_array, hstack

    n = len(values)
    if n == 1:
        return demand
    gaps = np.diff(values)
    # Row v: used[v] + what arrives over the gaps - what leaves over them = demand[v].
    leaves = diags_array([np.full(n - 1, -1.0), np.full(n - 1, 1.0)], offsets=[0, -1], shape=(n, n - 1))
    balance = hstack([eye_array(n), leaves, -leaves], format="csr")
    # All of them together weigh less than one unit of distance, so they decide only between choices of equal cost.
    tie_price = draw.random(n) * (0.5 / demand.sum())
    solved = linprog(
        np.concatenate([tie_price, gaps, gaps]),
        A_eq=balance,
        b_eq=demand,
        bounds=[(0, int(s)) for s in supply] + [(0, None)] * (2 * (n - 1)),
        method="highs-ds",
    )
    # the constraints are those of a network, so the simplex method ends in whole numbers
    used: RowNumbers = np.rint(solved.x[:n]).astype(np.int64)
    assert used.sum() == demand.sum()
    assert (used <= supply).all()
    return used
