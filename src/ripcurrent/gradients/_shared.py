"""What rows that begin alike share (a system prompt, mostly): every linear layer is given their first tokens once.

Each row's own loss reaches these tokens too, so the backward pass is that of the whole batch.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ripcurrent.gradients._batch import Batch

SHORTEST_SHARE = 0.1
"""Of a batch's tokens, how many must go through the layers less: below it the copies cost what they save."""
NARROWEST = 64
"""Inputs or outputs below which a layer's products cost less than copying its inputs, as those of a LoRA."""


def worth_sharing(batch: Batch) -> int:
    """How many first tokens of all rows to pass once; 0 where it would not save a tenth of the batch's tokens."""
    if batch.rows == 1:
        return 0
    rows, tokens = batch.ids.shape
    common = batch.common_tokens()
    return common if common * (rows - 1) >= SHORTEST_SHARE * rows * tokens else 0


class SharedLinear:
    """Hooks before and after a linear layer, which passes each of the batch's distinct tokens once; not narrow ones."""

    def __init__(self, shape: tuple[int, int], shared: int) -> None:
        self._shape, self._shared = shape, shared
        self._whole: dict[nn.Module, Tensor] = {}
        self._last: tuple[Tensor, Tensor] | None = None

    def forget(self) -> None:
        """Let go of the last pass: what its graph holds holds this."""
        self._whole.clear()
        self._last = None

    def before(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Replace a layer's input of ``(rows, tokens, in)`` by the shared tokens and then every row's own."""
        inputs = args[0]
        weight: Any = module.weight
        if inputs.shape[:-1] != self._shape or min(weight.shape) < NARROWEST:
            return None
        if self._last is None or self._last[0] is not inputs:  # layers of one group have one input
            first, own = inputs.detach()[0, : self._shared], inputs.detach()[:, self._shared :]
            self._last = inputs, torch.cat([first, own.flatten(0, 1)])
        self._whole[module] = inputs
        return self._last[1], *args[1:]

    def after(self, module: nn.Module, inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor, int]:
        """The whole batch's inputs and outputs of a layer, and how many first tokens were passed once."""
        whole = self._whole.pop(module, None)
        if whole is None:
            return inputs, outputs, 0
        # Conv1D, the other kind of linear layer, has its weight the other way round
        weight: Any = module.weight if isinstance(module, nn.Linear) else module.weight.mT
        spread = _SpreadOut.apply(whole, outputs, weight, self._shared)  # type: ignore[no-untyped-call]
        return whole, spread, self._shared


class _SpreadOut(torch.autograd.Function):
    """A layer's outputs for all rows, from those of distinct tokens; backwards, the gradient at the whole input."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, distinct: Tensor, weight: Tensor, shared: int) -> Tensor:
        ctx.weight = weight
        rows, tokens = inputs.shape[:2]
        outputs = distinct.new_empty(rows, tokens, distinct.shape[-1])
        outputs[:, :shared] = distinct[:shared]
        outputs[:, shared:] = distinct[shared:].view(rows, tokens - shared, distinct.shape[-1])
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return grads[0] @ ctx.weight, None, None, None
