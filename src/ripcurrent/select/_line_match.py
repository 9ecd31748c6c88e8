"""The cheapest one-to-one matching of whole numbers, exactly, at the cost of its distinct values only."""

import numpy as np

from ripcurrent.scan import FloatArray, RowNumbers


def match_on_line(
    wanted: FloatArray, offered: FloatArray, random: np.random.Generator
) -> tuple[RowNumbers, RowNumbers]:
    """Pair whole numbers one to one, without replacement, with the least possible sum of absolute differences.

    The pairs number ``min(wanted, offered)``; of the longer side it is also chosen which numbers take part. Equal
    numbers, and choices of equal cost, are settled at random.

    Args:
        wanted: Whole numbers to be matched, shape ``(wanted,)``.
        offered: Whole numbers to match them with, shape ``(offered,)``.
        random: Settles ties.

    Returns:
        Places in ``wanted`` and places in ``offered`` of the pairs, shape ``(pairs,)`` each.
    """
    if len(wanted) > len(offered):
        right, left = match_on_line(offered, wanted, random)
        return left, right
    values, group = np.unique(np.concatenate([wanted, offered]), return_inverse=True)
    demand = np.bincount(group[: len(wanted)], minlength=len(values))
    supply = np.bincount(group[len(wanted) :], minlength=len(values))
    used = _cheapest_use(values, demand, supply, random)
    # Within one value every offered number is as good as another: shuffle first, then a stable sort keeps the shuffle.
    shuffled = random.permutation(len(offered))
    shuffled = shuffled[np.argsort(offered[shuffled], kind="stable")]
    first_of_group = np.cumsum(supply) - supply
    within_group = np.arange(len(offered)) - first_of_group[group[len(wanted) :][shuffled]]
    taken = shuffled[within_group < used[group[len(wanted) :][shuffled]]]
    # Both sides sorted: on a line, pairing in order is never dearer than any other pairing.
    return np.argsort(wanted, kind="stable").astype(np.int64), taken.astype(np.int64)


def _cheapest_use(
    values: FloatArray, demand: RowNumbers, supply: RowNumbers, random: np.random.Generator
) -> RowNumbers:
    """How many offered numbers of each distinct value take part.

    A transport problem on a line: supply may flow to the next value on either side at the price of the gap. Its
    constraint matrix is that of a network, so the simplex method ends in whole numbers.
    """
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
    tie_price = random.random(n) * (0.5 / demand.sum())
    solved = linprog(
        np.concatenate([tie_price, gaps, gaps]),
        A_eq=balance,
        b_eq=demand,
        bounds=[(0, int(s)) for s in supply] + [(0, None)] * (2 * (n - 1)),
        method="highs-ds",
    )
    if solved.x is None:
        raise ArithmeticError(f"the transport problem of the length match was not solved: {solved.message}")
    used: RowNumbers = np.rint(solved.x[:n]).astype(np.int64)
    if used.sum() != demand.sum() or (used > supply).any():
        raise ArithmeticError("the transport problem of the length match has no whole-number solution")
    return used
