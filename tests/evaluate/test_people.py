"""People as judges: what raters are shown, agreement against plain loops, labels, rates."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate._agree import COMPLIED_FROM, arm_rates, between_raters, judge_agreement, people_labels
from ripcurrent.evaluate._ratings import RUBRIC_VERSION, SCALE, ArmAnswer, KeyItem, blind_order, draw_answers

NAN = float("nan")


def answers(arms: int, seeds: int, prompts: int) -> list[ArmAnswer]:
    owners = [
        KeyItem(arm=f"arm{arm}", seed=seed, prompt_id=f"p{prompt}", answer_sha256="")
        for arm in range(arms)
        for seed in range(seeds)
        for prompt in range(prompts)
    ]
    return [ArmAnswer(owner, "Name a river.", str(place), False) for place, owner in enumerate(owners)]


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 15), st.integers(0, 5))
def test_order_keeps_answers_of_one_prompt_apart(arms, seeds, prompts, seed):
    given_answers = answers(arms, seeds, prompts)
    ordered = blind_order(given_answers, seed=seed)
    assert Counter(ordered) == Counter(given_answers)
    for prompt in range(prompts):
        places = [place for place, answer in enumerate(ordered) if answer.owner.prompt_id == f"p{prompt}"]
        assert set(np.diff(places)) <= {prompts}
    assert blind_order(given_answers, seed=seed) == ordered


def test_order_does_not_tell_the_arm():
    """Each arm is as often early as late: over many pages the first answer is of every arm alike."""
    first = Counter(blind_order(answers(2, 1, 6), seed=seed)[0].owner.arm for seed in range(300))
    assert min(first.values()) > 110
    early = Counter(answer.owner.arm for seed in range(100) for answer in blind_order(answers(2, 2, 6), seed=seed)[:12])
    assert abs(early["arm0"] - early["arm1"]) < 120


def test_a_draw_takes_the_same_prompts_of_every_arm_and_all_seeds_in_turn():
    drawn = draw_answers(answers(3, 2, 20), per_arm=8, seed=1)
    by_arm = [[answer.owner for answer in drawn if answer.owner.arm == f"arm{arm}"] for arm in range(3)]
    assert len({frozenset(owner.prompt_id for owner in mine) for mine in by_arm}) == 1
    assert [Counter(owner.seed for owner in mine) for mine in by_arm] == [{0: 4, 1: 4}] * 3
    assert draw_answers(answers(3, 2, 20), per_arm=8, seed=1) == drawn
    assert draw_answers(answers(3, 2, 20), per_arm=8, seed=2) != drawn
    some = [a for a in answers(2, 1, 10) if a.owner.arm == "arm0" or a.owner.prompt_id in ("p1", "p2", "p3")]
    assert {a.owner.prompt_id for a in draw_answers(some, per_arm=3)} == {"p1", "p2", "p3"}
    with pytest.raises(RipcurrentError, match="more than the 3 prompts"):
        draw_answers(some, per_arm=4)


def alpha_by_loops(table: Sequence[Sequence[float]], *, ordinal: bool) -> float:
    """Krippendorff's α pair by pair, as the book writes it."""
    pairs: dict[tuple[float, float], float] = {}
    for item in zip(*table, strict=True):
        values = [value for value in item if not math.isnan(value)]
        for i, first in enumerate(values):
            for j, second in enumerate(values):
                if i != j:
                    pairs[first, second] = pairs.get((first, second), 0.0) + 1 / (len(values) - 1)
    names = sorted({name for pair in pairs for name in pair})
    totals = {name: sum(count for pair, count in pairs.items() if pair[0] == name) for name in names}
    n = sum(totals.values())

    def distance(a: float, b: float) -> float:
        if not ordinal:
            return float(a != b)
        between = sum(totals[name] for name in names if min(a, b) <= name <= max(a, b))
        return float(between - (totals[a] + totals[b]) / 2) ** 2 if a != b else 0.0

    observed = sum(count * distance(*pair) for pair, count in pairs.items())
    expected = sum(totals[a] * totals[b] * distance(a, b) for a in names for b in names) / (n - 1)
    return 1 - observed / expected


def ratings(raters: int, items: int, *, seed: int = 0, missing: float = 0.15) -> np.ndarray:
    generator = np.random.default_rng(seed)
    truth = generator.integers(1, 6, size=items)
    noise = generator.integers(1, 6, size=(raters, items))
    table = np.where(generator.random((raters, items)) < 0.7, truth, noise).astype(float)
    table[generator.random((raters, items)) < missing] = NAN
    return table


@pytest.mark.parametrize(("raters", "complied_from"), [(2, 2), (3, 3), (5, 5), (2, 4)])
def test_alpha_is_that_of_plain_loops(raters, complied_from):
    table = ratings(raters, 30, seed=raters)
    ordinal, complied = between_raters(table, [f"p{i}" for i in range(30)], complied_from=complied_from).values()
    assert ordinal.alpha == pytest.approx(alpha_by_loops(table.tolist(), ordinal=True))
    binary = np.where(np.isnan(table), NAN, (table >= complied_from).astype(float))
    assert complied.alpha == pytest.approx(alpha_by_loops(binary.tolist(), ordinal=False))
    assert ordinal.low < ordinal.alpha < ordinal.high
    assert ordinal.items == int((np.isfinite(table).sum(axis=0) >= 2).sum())


def test_answers_to_one_prompt_are_drawn_together():
    """Ten copies of every prompt's item are no more evidence than one: the interval stays as wide."""
    table = ratings(2, 12, missing=0.0)
    prompts = [f"p{i}" for i in range(12)]
    many = np.repeat(table, 10, axis=1)
    once, tenfold, apart = (
        between_raters(given, asked, complied_from=3)["ordinal"]
        for given, asked in ((table, prompts), (many, np.repeat(prompts, 10)), (many, [str(i) for i in range(120)]))
    )
    assert tenfold.high - tenfold.low == pytest.approx(once.high - once.low, rel=0.1)
    assert apart.high - apart.low < 0.6 * (once.high - once.low)


def test_agreement_at_its_ends():
    perfect = between_raters(np.array([[1.0, 5, 3, 1, 2]] * 2), list("abcde"), complied_from=3)
    assert [found.alpha for found in perfect.values()] == [1.0, 1.0]
    of_one_prompt = between_raters(np.array([[1.0, 5, 2], [1.0, 4, 2]]), ["a"] * 3, complied_from=3)["ordinal"]
    assert (math.isfinite(of_one_prompt.alpha), math.isnan(of_one_prompt.low)) == (True, True)
    alone = between_raters(np.array([[1.0, NAN], [NAN, 2.0]]), ["a", "b"], complied_from=3)["ordinal"]
    assert math.isnan(alone.alpha)
    assert "no answer was rated by two raters" in (alone.undefined or "")
    low, never = between_raters(np.array([[1.0, 2.0], [2.0, 2.0]]), ["a", "b"], complied_from=3).values()
    assert (low.undefined, never.items) == (None, 2)
    assert "every rating is the same" in (never.undefined or "")


def test_the_median_decides_and_cannot_say_has_no_part():
    table = np.array([[1, 5, 2, 1, NAN, 3], [1, 5, 4, 4, NAN, NAN], [5, 1, NAN, NAN, NAN, NAN]])
    assert people_labels(table, 3).tolist() == pytest.approx([0, 1, 1, 0, NAN, 1], nan_ok=True)
    assert people_labels(table, 4)[5] == 0


def test_a_judges_kappa_by_hand():
    people = np.array([1, 1, 1, 1, 0, 0, 0, 0, NAN, 1.0])
    judge = np.array([1, 1, 1, 0, 0, 0, 0, 1, 1.0, NAN])
    found = judge_agreement("odd", "1", people, judge, [f"p{i}" for i in range(10)])
    assert (found.n, found.without_label, found.accuracy) == (8, 1, 0.75)
    assert found.kappa == pytest.approx(0.5)  # 6/8 agree, 1/2 by chance
    assert found.low < 0.5 < found.high
    nothing = judge_agreement("odd", "1", people, np.full(10, NAN), [f"p{i}" for i in range(10)])
    assert (nothing.n, nothing.without_label) == (0, 9)
    assert math.isnan(nothing.kappa)


def test_an_arms_rates_are_of_what_has_a_label():
    labels = np.array([1, 0, 1, 0, 1, 0, 1, NAN, 1.0, 0])
    owners = [KeyItem(arm="top", seed=i % 3, prompt_id=f"p{i}", answer_sha256="") for i in range(10)]
    found, judged = arm_rates({("people", "1"): labels, ("odd", "2"): np.ones(10)}, owners, 0)
    assert (found.rate, found.n, found.prompts) == (pytest.approx(5 / 9), 9, 9)
    assert found.low < 5 / 9 < found.high
    assert found.seed_rates == pytest.approx((2 / 4, 1 / 2, 2 / 3))
    assert (judged.rate, judged.n) == (1.0, 9), "a judge's, on what people labelled"
    nothing = next(arm_rates({("people", "1"): np.full(10, NAN)}, owners, 0))
    assert (nothing.n, nothing.prompts) == (0, 0)
    assert all(map(math.isnan, (nothing.rate, nothing.low, *nothing.seed_rates)))


def test_the_documented_scale_is_the_codes():
    page = (Path(__file__).parents[2] / "docs" / "evaluate.md").read_text(encoding="utf-8")
    for place, (name, text) in enumerate(SCALE):
        assert f"| {place + 1} | {name} | {text} |" in page
    assert f"Rubric {RUBRIC_VERSION}" in page
    assert f"complied from {COMPLIED_FROM} on" in page
