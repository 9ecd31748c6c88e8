"""What raters are shown: everything or a paired draw, in an order that keeps answers of a prompt apart."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate._ratings import ArmAnswer, KeyItem, blind_order, draw_answers


def answers(arms: int, seeds: int, prompts: int) -> list[ArmAnswer]:
    return [
        ArmAnswer(
            KeyItem(arm=f"arm{arm}", seed=seed, prompt_id=f"p{prompt}", answer_sha256=""),
            "Name a river.", f"{arm}.{seed}.{prompt}", False,
        )
        for arm in range(arms)
        for seed in range(seeds)
        for prompt in range(prompts)
    ]  # fmt: skip


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 15), st.integers(0, 5))
def test_order_keeps_answers_of_one_prompt_apart(arms: int, seeds: int, prompts: int, seed: int) -> None:
    given_answers = answers(arms, seeds, prompts)
    ordered = blind_order(given_answers, seed=seed)
    assert Counter(ordered) == Counter(given_answers)
    last: dict[str, int] = {}
    for place, answer in enumerate(ordered):
        prompt = answer.owner.prompt_id
        assert place - last.get(prompt, place - prompts) == prompts
        last[prompt] = place
    assert blind_order(given_answers, seed=seed) == ordered


def test_order_does_not_tell_the_arm() -> None:
    """Each arm is as often early as late: over many pages the first answer is of every arm alike."""
    first = Counter(blind_order(answers(2, 1, 6), seed=seed)[0].owner.arm for seed in range(300))
    assert min(first.values()) > 110
    early = Counter(answer.owner.arm for seed in range(100) for answer in blind_order(answers(2, 2, 6), seed=seed)[:12])
    assert abs(early["arm0"] - early["arm1"]) < 120


def test_a_draw_takes_the_same_prompts_of_every_arm_and_all_seeds_in_turn() -> None:
    drawn = draw_answers(answers(3, 2, 20), per_arm=8, seed=1)
    by_arm = {arm: [answer for answer in drawn if answer.owner.arm == arm] for arm in ("arm0", "arm1", "arm2")}
    assert {len(mine) for mine in by_arm.values()} == {8}
    assert len({frozenset(answer.owner.prompt_id for answer in mine) for mine in by_arm.values()}) == 1
    for mine in by_arm.values():
        assert Counter(answer.owner.seed for answer in mine) == {0: 4, 1: 4}
    assert draw_answers(answers(3, 2, 20), per_arm=8, seed=1) == drawn
    assert draw_answers(answers(3, 2, 20), per_arm=8, seed=2) != drawn


def test_only_prompts_that_every_arm_answered_are_drawn() -> None:
    some = [a for a in answers(2, 1, 10) if a.owner.arm == "arm0" or a.owner.prompt_id in ("p1", "p2", "p3")]
    assert {a.owner.prompt_id for a in draw_answers(some, per_arm=3)} == {"p1", "p2", "p3"}
    with pytest.raises(RipcurrentError, match="more than the 3 prompts"):
        draw_answers(some, per_arm=4)
