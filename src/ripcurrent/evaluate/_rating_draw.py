"""Which answers people rate, in what order, and under what names: blind to arm and judge."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate._rated_run import ArmAnswer


def draw_answers(answers: Sequence[ArmAnswer], *, per_arm: int | None, seed: int = 0) -> list[ArmAnswer]:
    """All answers, or those of ``per_arm`` prompts that are the same for every arm.

    With ``per_arm`` each arm answers each drawn prompt once: its seeds take turns over the prompts, so that all have a
    part and the arms stay paired by prompt.

    Raises:
        RipcurrentError: ``per_arm`` is more than the prompts that all arms answered.
    """
    if per_arm is None:
        return list(answers)
    by_arm: dict[str, dict[str, list[ArmAnswer]]] = defaultdict(lambda: defaultdict(list))
    for answer in answers:
        by_arm[answer.arm][answer.prompt_id].append(answer)
    shared = sorted(set.intersection(*(set(prompts) for prompts in by_arm.values())))
    if per_arm > len(shared):
        raise RipcurrentError(
            f"--per-arm {per_arm} is more than the {len(shared)} prompts that every arm answered.",
            "Ask for fewer, or leave --per-arm out to have all answers rated.",
        )
    generator = np.random.default_rng(seed)
    prompts = [shared[place] for place in generator.permutation(len(shared))[:per_arm]]
    drawn = []
    for arm in sorted(by_arm):
        first = int(generator.integers(len(answers)))
        for turn, prompt in enumerate(prompts):
            of_seeds = by_arm[arm][prompt]
            drawn.append(of_seeds[(first + turn) % len(of_seeds)])
    return drawn


def blind_order(answers: Sequence[ArmAnswer], *, seed: int = 0) -> list[ArmAnswer]:
    """Shuffle answers so that those of one prompt lie at least half the prompts apart (where all have as many).

    Rounds hold one answer of each prompt, by an arm drawn at random; the prompts are cut in two halves once, and each
    round shows the one half, shuffled, before the other.
    """
    generator = np.random.default_rng([seed, 1])
    by_prompt: dict[str, list[ArmAnswer]] = defaultdict(list)
    for answer in answers:
        by_prompt[answer.prompt_id].append(answer)
    prompts = [list(by_prompt)[place] for place in generator.permutation(len(by_prompt))]
    halves = (prompts[: len(prompts) // 2], prompts[len(prompts) // 2 :])
    dealt = {
        prompt: [of_prompt[place] for place in generator.permutation(len(of_prompt))]
        for prompt, of_prompt in by_prompt.items()
    }
    ordered = []
    for turn in range(max(map(len, dealt.values()), default=0)):
        for half in halves:
            here = [prompt for prompt in half if turn < len(dealt[prompt])]
            ordered += [dealt[here[place]][turn] for place in generator.permutation(len(here))]
    return ordered


def opaque_ids(count: int, *, seed: int = 0) -> list[str]:
    """So many different ids of eight hexadecimal digits that tell nothing."""
    generator = np.random.default_rng([seed, 2])
    ids: dict[str, None] = {}
    while len(ids) < count:
        ids[generator.bytes(4).hex()] = None
    return list(ids)
