"""The rate over the steps, beside the schedulers that recipes are described with."""

from __future__ import annotations

import pytest
import torch
from torch.optim.lr_scheduler import StepLR
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from ripcurrent.finetune._schedule import make_schedule
from tests.finetune.runs import recipe

ROWS = 11


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)


def rates(scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int) -> list[float]:
    seen = []
    for _ in range(steps):
        seen.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return seen


def test_step_is_steplr_stepped_once_an_epoch() -> None:
    how = recipe(schedule="step", gamma=0.85, epochs=4)
    ours = rates(make_schedule(how, optimizer(), total_steps=12, steps_per_epoch=3), 12)
    assert how.steps_per_epoch(ROWS) == 3
    expected = []
    scheduler = StepLR(optimizer(), step_size=1, gamma=0.85)
    for _ in range(4):
        expected += [scheduler.get_last_lr()[0]] * 3
        scheduler.optimizer.step()
        scheduler.step()
    assert ours == pytest.approx(expected)


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.34, 0.99])
def test_linear_cosine_and_constant_are_those_of_transformers(warmup: float) -> None:
    steps = 12
    warm = -(-int(warmup * 100) * steps // 100)
    linear = make_schedule(recipe(schedule="linear", warmup=warmup), optimizer(), total_steps=steps, steps_per_epoch=3)
    cosine = make_schedule(recipe(schedule="cosine", warmup=warmup), optimizer(), total_steps=steps, steps_per_epoch=3)
    constant = make_schedule(recipe(warmup=warmup), optimizer(), total_steps=steps, steps_per_epoch=3)
    assert rates(linear, steps) == pytest.approx(
        rates(get_linear_schedule_with_warmup(optimizer(), warm, steps), steps)
    )
    assert rates(cosine, steps) == pytest.approx(
        rates(get_cosine_schedule_with_warmup(optimizer(), warm, steps), steps)
    )
    assert rates(constant, steps) == pytest.approx(rates(get_constant_schedule_with_warmup(optimizer(), warm), steps))
