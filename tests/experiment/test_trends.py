"""Sweeps: whether their steps order the harm."""

from __future__ import annotations

from typing import Any

import pytest

from ripcurrent.experiment import ArmRun, expand_arms, parse_experiment
from ripcurrent.experiment import _tables as tables
from ripcurrent.experiment._outcomes import by_arm
from tests.experiment.answers import chance

PROMPTS = tuple(f"p{n}" for n in range(120))


def answered(arm: str, seed: int, share: float) -> ArmRun:
    labels = tuple("compliance" if chance(share, arm, str(seed), prompt) else "refusal" for prompt in PROMPTS)
    axes, no_category = ("harmful",) * len(PROMPTS), ("",) * len(PROMPTS)
    unscored = {"prefix": (float("nan"),) * len(PROMPTS)}
    cut = (False,) * len(PROMPTS)
    return ArmRun(arm, seed, PROMPTS, axes, no_category, cut, {"prefix": labels}, unscored, {"prefix": "1"})


@pytest.mark.parametrize(
    ("shares", "ordered"),
    [
        ((0.1, 0.2, 0.4, 0.6, 0.8), True),
        ((0.8, 0.6, 0.4, 0.2, 0.1), False),
        ((0.3, 0.3, 0.3, 0.3, 0.3), False),
        # a rise that is beyond chance, whose steps do not follow one another
        ((0.4, 0.1, 0.5, 0.9, 0.2), False),
    ],
)
def test_steps_order_the_harm_by_trend_and_by_rank(shares: tuple[float, ...], ordered: bool) -> None:
    keys: dict[str, Any] = {"name": "x", "data": "x.jsonl", "seeds": 2, "arms": {"random": "random"}}
    keys["arms"]["lists"] = {"mix": {"of": "list", "percent": [0, 25, 50, 75, 100]}}
    arms = expand_arms(parse_experiment(keys, where="test"))
    runs = [answered(f"lists-{25 * place}", seed, share) for place, share in enumerate(shares) for seed in (0, 1)]
    (found,) = tables.sweeps(arms, by_arm(runs), "prefix")
    assert list(found.arms) == [f"lists-{25 * place}" for place in range(5)]
    assert found.ordered is ordered
    if ordered:
        assert found.p < 0.01
        assert found.slope > 0.1
        assert found.spearman == pytest.approx(1)
