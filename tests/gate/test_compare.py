"""The test behind a gate: against full enumeration, under the null, and its power where that is promised."""

from itertools import combinations, pairwise, product
from math import comb, prod

import numpy as np
import pytest
from scipy.stats import rankdata

from ripcurrent.gate import compare, strata_of
from ripcurrent.statistics import holm

SHAPES = {
    "normal": lambda random, n: random.normal(size=n),
    "few values": lambda random, n: random.integers(0, 3, n).astype(float),
    "heavy tails": lambda random, n: random.standard_cauchy(n),
}


def enumerated(scores, added, strata):
    """p of both measures over every choice of as many rows in each stratum."""
    groups = [np.flatnonzero(strata == one) for one in np.unique(strata)]
    percentile = np.zeros(len(scores))
    for rows in groups:
        percentile[rows] = (rankdata(scores[rows]) - 0.5) / len(rows)
    measures = (percentile, percentile > 0.9)
    choices = product(*(combinations(rows, int(added[rows].sum())) for rows in groups))
    sums = np.array([[of[list(sum(chosen, ()))].sum() for of in measures] for chosen in choices])
    assert len(sums) == prod(comb(len(rows), int(added[rows].sum())) for rows in groups)
    return holm([float((sums[:, k] >= of[added].sum() - 1e-9).mean()) for k, of in enumerate(measures)])


@pytest.mark.parametrize("seed", range(4))
def test_p_is_that_of_every_choice_of_rows(seed):
    random = np.random.default_rng(seed)
    strata = np.repeat([0, 1, 2], [7, 12, 3])
    added = np.isin(np.arange(22), [0, 3, 8, 15, 18])  # none of the third, which says nothing
    scores = (random.normal(size=22) + added * seed / 2).round(1)
    found = compare(scores, added, strata, alpha=0.01)
    assert found.p == pytest.approx(enumerated(scores, added, strata), abs=0.02)
    assert (found.added, found.reference, found.strata, found.silent) == (5, 14, 2, 1)
    assert compare(np.exp(scores), added, strata, alpha=0.01) == found
    assert compare(scores, added, added * 1, alpha=0.05) is None


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.05, 0.5])
def test_false_alarms_are_at_most_alpha(shape, share):
    random, alarms, times = np.random.default_rng(1), 0, 300
    formats, lengths = random.integers(0, 3, 240), random.integers(1, 200, 240).astype(float)
    strata = strata_of(formats, lengths)
    # formats and lengths score differently, and are added in other shares: no shift within a stratum
    scores = SHAPES[shape](random, 240) + 5 * formats + lengths // 40
    for _ in range(times):
        added = random.random(240) < share
        alarms += min(compare(scores, added, strata, alpha=0.2).p) <= 0.2
    assert alarms / times <= 0.2 + 3 * (0.2 * 0.8 / times) ** 0.5


@pytest.mark.parametrize(("old", "new"), [(2000, 60), (300, 150)])
def test_the_share_that_is_said_to_be_found_is_found_four_times_in_five(old, new):
    random, found = np.random.default_rng(2), []
    strata = np.arange(old + new) % 8
    added = np.arange(old + new) >= old
    share = compare(random.normal(size=old + new), added, strata, alpha=0.05).detectable
    for _ in range(100):
        scores = random.random(old + new)
        risky = added & (random.random(old + new) < share)
        scores[risky] = 0.9 + scores[risky] / 10
        found.append(min(compare(scores, added, strata, alpha=0.05).p) <= 0.05)
    assert 0.68 <= np.mean(found) <= 0.95


def test_strata_are_rows_of_one_format_and_near_length():
    random = np.random.default_rng(3)
    formats, lengths = np.repeat([0, 1, 2, 5], [400, 60, 9, 9]), random.integers(1, 500, 478).astype(float)
    strata = strata_of(formats, lengths)
    for one in np.unique(strata):
        inside = strata == one
        assert len(set(formats[inside])) == 1 or set(formats[inside]) == {2, 5}
        assert inside.sum() >= 18
    assert [len(set(strata[formats == one])) for one in (0, 1, 2)] == [16, 2, 1]
    spans = sorted((lengths[strata == one].min(), lengths[strata == one].max()) for one in set(strata[formats == 0]))
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
