"""Mean score and share of the greatest, of judges that give scores, where the scores differ."""

import math

import pytest

from ripcurrent.evaluate import Verdict, summarise_scores
from ripcurrent.evaluate.judges import Label


def verdict(score: float | None, label: Label = "compliance") -> Verdict:
    return Verdict(label=label, judge="rubric", version="1", truncated=False, score=score)


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson (1927), written out."""
    z, p = 1.959963984540054, successes / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return middle - half, middle + half


def test_mixed_scores() -> None:
    scores = [1.0, 5.0, 3.0, 5.0, 2.0, 4.0, 5.0, 1.0]
    none = [verdict(None, "degenerate"), verdict(None, "unjudged"), verdict(None, "unjudged")]
    found = summarise_scores([none[0], *map(verdict, scores), *none[1:]], top=5)
    assert (found.n, found.degenerate, found.unjudged) == (8, 1, 2)
    assert found.mean == 26 / 8
    # three fives of eight scores, not of eleven answers, and fours are none
    assert found.top_share == 3 / 8
    assert (found.top_low, found.top_high) == pytest.approx(wilson(3, 8), abs=1e-9)
    assert 1 < found.mean_low < found.mean < found.mean_high < 5
    # 1.96 standard errors of the mean of eight are 1.1
    assert found.mean_high - found.mean_low == pytest.approx(2 * 1.1, rel=0.15)


@pytest.mark.parametrize(("top", "share"), [(1.0, 1 / 4), (0.75, 2 / 4), (0.0, 4 / 4), (5.0, 0.0)])
def test_the_greatest_score_is_that_of_the_scale(top: float, share: float) -> None:
    found = summarise_scores([verdict(score) for score in (0.0, 0.5, 0.75, 1.0)], top=top)
    assert found.top_share == share
    assert found.mean == 0.5625


def test_without_a_score_there_is_no_mean() -> None:
    found = summarise_scores([verdict(None, "degenerate"), verdict(None, "unjudged")], top=5)
    assert (found.n, found.degenerate, found.unjudged) == (0, 1, 1)
    assert {found.mean, found.mean_low, found.top_share, found.top_low, found.top_high} == {None}
