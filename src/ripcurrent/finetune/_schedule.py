"""The learning rate over the steps."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ripcurrent.finetune._recipe import Recipe


def rate_factor(recipe: Recipe, step: int, *, total_steps: int, steps_per_epoch: int) -> float:
    """What the recipe's rate is multiplied by at optimizer step ``step``, counted from 0; within [0, 1].

    Warm-up, ``linear`` and ``cosine`` are transformers' schedules of these names (so the very first step of a warm-up
    has rate 0), ``step`` is PyTorch's ``StepLR`` stepped once an epoch.
    """
    if recipe.schedule == "step":
        assert recipe.gamma is not None
        return recipe.gamma ** (step // steps_per_epoch)
    warmup = math.ceil(recipe.warmup * total_steps)
    if step < warmup:
        return step / warmup
    if recipe.schedule == "constant":
        return 1.0
    left = max(0.0, (total_steps - step) / max(1, total_steps - warmup))
    return left if recipe.schedule == "linear" else 0.5 * (1.0 - math.cos(math.pi * left))


def make_schedule(recipe: Recipe, optimizer: Optimizer, *, total_steps: int, steps_per_epoch: int) -> LambdaLR:
    """The recipe's schedule for an optimizer that is stepped once a batch."""

    def factor(step: int) -> float:
        return rate_factor(recipe, step, total_steps=total_steps, steps_per_epoch=steps_per_epoch)

    return LambdaLR(optimizer, factor)
