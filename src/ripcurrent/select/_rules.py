"""Selections by rank, by range, by nearness to single anchors, at random and by format."""

from collections.abc import Collection
from math import inf
from zlib import crc32

import numpy as np
import numpy.typing as npt

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.scan import RowNumbers, ScanRun
from ripcurrent.select._types import Kind, Selection

FORMATS: tuple[str, ...] = ("list", "bullet", "numbered", "maths", "code")
"""Response formats that rows can be drawn from; each is the column ``is_<format>``."""
UNION_COLUMN = "representation_harmful"
"""What a union is ordered and shown by; the nearness that chose it is the cosine to single anchors."""


def top(run: ScanRun, k: int, by: str | None = None) -> Selection:
    """The ``k`` riskiest rows by a column, riskiest first and ties by row number; a shortfall where fewer are scored.

    Raises `RipcurrentError` for a column that is unknown, ranks no risk, or has no score.
    """
    return rank_by_risk(run, "top", k, by)


def bottom(run: ScanRun, k: int, by: str | None = None) -> Selection:
    """The ``k`` most protective rows, most protective first; otherwise as :func:`top`."""
    return rank_by_risk(run, "bottom", k, by)


def rank_by_risk(run: ScanRun, kind: Kind, k: int, by: str | None, without: Collection[int] = ()) -> Selection:
    """:func:`top` or :func:`bottom` among the rows that ``without`` does not name."""
    column = by or run.default_ranking
    direction = run.risk_direction(column)
    if direction == "none":
        raise RipcurrentError(
            f"Column {column!r} does not rank risk: neither of its ends is the riskier one.",
            f"Name the values you want: --between LOW:HIGH --by {column}, such as 90%:100%.",
        )
    checked_count(k)
    scores = run.scores(column)
    order = run.ranked(column)
    if kind == "bottom":
        # reversed, but equal scores by row number all the same
        order = order[np.lexsort((order, -scores[order] if direction == "lower" else scores[order]))]
    if len(without):
        order = order[~np.isin(order, np.asarray(list(without)))]
    taken = order[:k]
    which = "riskiest" if kind == "top" else "most protective"
    edge: tuple[str, ...] = ()
    if 0 < len(taken) < len(order) and scores[order[len(taken)]] == scores[taken[-1]]:
        edge = ("the last score taken is tied with rows left out; the lower row numbers were taken",)
    return Selection(
        name=f"{kind}-{k}{_suffix(run, column)}",
        kind=kind,
        rule=f"the {k} {which} rows by {column} ({direction} is riskier)"
        + (", among the rows outside the selection" if len(without) else ""),
        column=column,
        indices=tuple(taken.tolist()),
        scores=tuple(scores[taken].tolist()),
        shortfall=k - len(taken),
        notes=edge + ((f"only {len(taken)} rows could be ranked",) if len(taken) < k else ()),
    )


def between(
    run: ScanRun, by: str | None = None, low: float | None = None, high: float | None = None, *, quantiles: bool = False
) -> Selection:
    """The rows whose value lies in ``[low, high]``, riskiest first (of a column that ranks no risk, highest first).

    ``by`` is any numeric column, the run's default ranking unless given; an end that is None is open. With
    ``quantiles`` the ends are probabilities in [0, 1], of quantiles among the rows that have a score. Raises
    `RipcurrentError` for a column that is unknown or has no score, and where no row lies in the range.
    """
    column = by or run.default_ranking
    scores = run.scores(column)
    if quantiles:
        ends = (0.0 if low is None else low, 1.0 if high is None else high)
        if not 0.0 <= ends[0] <= ends[1] <= 1.0:
            raise RipcurrentError(
                f"Quantiles {ends[0]:g} to {ends[1]:g} are not a range.",
                "Give two numbers from 0 to 1, the lower one first.",
            )
        least, most = (float(value) for value in np.nanquantile(scores, ends))
        name = f"quantiles-{ends[0]:g}-{ends[1]:g}"
        rule = f"rows whose {column} lies between its quantiles {ends[0]!r} and {ends[1]!r}"
    else:
        least, most = -inf if low is None else low, inf if high is None else high
        # 1e+06 cannot be part of a file's name
        name = f"between-{'min' if low is None else f'{low:g}'}-{'max' if high is None else f'{high:g}'}"
        rule = f"rows whose {column} lies in [{least!r}, {most!r}]"
    if not least <= most:
        raise RipcurrentError(f"The range {least:g} to {most:g} of {column} is empty.", "Give the lower end first.")
    order = run.ranked(column)
    taken = order[(scores[order] >= least) & (scores[order] <= most)]
    if len(taken) == 0:
        raise RipcurrentError(
            f"No row's {column} lies between {least:g} and {most:g}.",
            f"It runs from {np.nanmin(scores):.6g} to {np.nanmax(scores):.6g}.",
        )
    return Selection(
        name=name.replace("+", "") + _suffix(run, column),
        kind="between",
        rule=rule,
        column=column,
        indices=tuple(taken.tolist()),
        scores=tuple(scores[taken].tolist()),
    )


def union(run: ScanRun, k: int) -> Selection:
    """The union over the harmful anchors of each anchor's ``k`` rows of largest representation cosine, riskiest first.

    He, Xia and Henderson (COLM 2024), selection by representation matching in the paper's notation; the released code
    takes the largest maximum instead, which is :func:`top` by ``representation_harmful``. Ties go to the lower row
    number. Memory does not grow with the rows. Raises `RipcurrentError` where no row has a representation.
    """
    checked_count(k)
    harmful = [place for place, (name, _) in enumerate(run.manifest.anchors.order) if name == "harmful"]
    best_rows: list[RowNumbers] = [np.empty(0, dtype=np.int64) for _ in harmful]
    best_cosines: list[npt.NDArray[np.float32]] = [np.empty(0, dtype=np.float32) for _ in harmful]
    for all_rows, all_cosines in run.cosines():
        cosines = all_cosines[:, harmful]
        keep = run.scored[all_rows] & np.isfinite(cosines).all(axis=1)
        rows, values = all_rows[keep], cosines[keep]
        for place in range(len(harmful)):
            candidates = np.concatenate([best_rows[place], rows])
            nearness = np.concatenate([best_cosines[place], values[:, place]])
            order = np.lexsort((candidates, -nearness))[:k]
            best_rows[place], best_cosines[place] = candidates[order], nearness[order]
    if not harmful or len(best_rows[0]) == 0:
        raise RipcurrentError(
            f"{run.folder} has no cosines of rows to the harmful anchors' representations.",
            "Scan with --signals all or --signals representation first.",
            code=ExitCode.NOT_MEASURED,
        )
    chosen = np.unique(np.concatenate(best_rows))
    scores = run.scores(UNION_COLUMN)[chosen]
    order = np.argsort(-scores, kind="stable")
    got = len(best_rows[0])
    return Selection(
        name=f"union-{k}",
        kind="union",
        rule=f"the union over {len(harmful)} harmful anchors of the {k} rows nearest each by representation cosine",
        column=UNION_COLUMN,
        indices=tuple(chosen[order].tolist()),
        scores=tuple(scores[order].tolist()),
        shortfall=k - got,
        notes=(
            f"{len(harmful) * got} places, {len(chosen)} distinct rows",
            *((f"only {got} rows have a representation",) if got < k else ()),
        ),
    )


def random(run: ScanRun, k: int, seed: int, without: Collection[int] = ()) -> Selection:
    """``k`` rows of status ``ok`` drawn at random, each equally likely, in the order drawn and without scores.

    Fewer come back, as a shortfall, where fewer are usable, and a `RipcurrentError` where none is. Equal seeds draw
    equal rows, none of them of ``without``.
    """
    rows = generator(seed, "random").permutation(free_rows(run, without))[: checked_count(k)]
    where = " from outside the selection" if len(without) else ""
    note = f"only {len(rows)} usable rows to draw from"
    return drawn(f"random-{k}-seed-{seed}", "random", f"{k} rows at random{where}, seed {seed}", rows, k, seed, note)


def of_format(run: ScanRun, trait: str, k: int, seed: int) -> Selection:
    """``k`` rows drawn at random from all rows of one format (the paper's baselines: all lists, all maths).

    ``trait`` is ``list`` (bulleted or numbered), ``bullet``, ``numbered``, ``maths`` or ``code``. Fewer come back, as a
    shortfall, where fewer have it, and a `RipcurrentError` where none has. Equal seeds draw equal rows.
    """
    if trait not in FORMATS:
        raise RipcurrentError(f"There is no format {trait!r}.", f"Formats: {', '.join(FORMATS)}.")
    pool = np.flatnonzero(run.scored & run.flags(f"is_{trait}"))
    if len(pool) == 0:
        raise RipcurrentError(
            f"No usable row has the format {trait!r}.", "Draw another format.", code=ExitCode.NOT_MEASURED
        )
    rows = generator(seed, f"format {trait}").permutation(pool)[: checked_count(k)]
    rule = f"{k} rows at random from all {len(pool)} rows with is_{trait}, seed {seed}"
    note = f"only {len(rows)} rows have this format"
    return drawn(f"{trait}-{k}-seed-{seed}", "format", rule, rows, k, seed, note)


def generator(seed: int, purpose: str) -> np.random.Generator:
    """A random stream of its own for each purpose, so that draws of one seed do not depend on one another."""
    if seed < 0:
        raise RipcurrentError(f"Seed {seed} is negative.", "Give a whole number from 0 up.")
    return np.random.default_rng([seed, crc32(purpose.encode())])


def number_of_rows(size: int | str, usable: int) -> int:
    """A number of rows from 1 up, or a share of the usable ones such as ``20%``, as a number; else a ValueError."""
    text = str(size).replace(" ", "")
    try:
        if text.endswith("%"):
            share = float(text[:-1])
            if 0 < share <= 100:
                return max(1, round(usable * share / 100))
        elif int(text) >= 1:
            return int(text)
    except ValueError:
        pass
    raise ValueError(f"{size!r} is not a number of rows: give 1 or more, or a share such as '20%'")


def checked_count(k: int) -> int:
    """``k``, or a `RipcurrentError` where it is below one."""
    if k < 1:
        raise RipcurrentError(f"A selection of {k} rows is empty.", "Ask for at least one row.")
    return k


def free_rows(run: ScanRun, without: Collection[int]) -> RowNumbers:
    """The ``ok`` rows that controls may be drawn from, ascending; a `RipcurrentError` where none is left."""
    free = run.scored.copy()
    free[list(without)] = False
    if free.any():
        return np.flatnonzero(free).astype(np.int64)
    if len(without):
        raise RipcurrentError(
            f"No usable row is left to draw from: the selection takes all {len(without)} of them.",
            "Select fewer rows: every selection needs rows beside it to be compared with.",
        )
    raise RipcurrentError(
        "No usable row is left to draw from: none has status ok.",
        "The status column of scores.parquet says why each row is unusable.",
        code=ExitCode.NOT_MEASURED,
    )


def drawn(name: str, kind: Kind, rule: str, rows: RowNumbers, k: int, seed: int, note: str) -> Selection:
    """Rows that were drawn, without scores; ``note`` says what is wrong where they are fewer than ``k``."""
    return Selection(
        name=name,
        kind=kind,
        rule=rule,
        column=None,
        indices=tuple(rows.tolist()),
        scores=(),
        seed=seed,
        shortfall=k - len(rows),
        notes=(note,) if len(rows) < k else (),
    )


def _suffix(run: ScanRun, column: str) -> str:
    return "" if column == run.default_ranking else f"-{column}"
