"""What rows that begin alike share (a system prompt, mostly): their first tokens go through the model once.

Exact for states: a causal model's states at the prefix do not depend on what follows, and later tokens see the prefix
through its keys and values alone (`SharedPrefix`). Where gradients are wanted each row's own loss reaches the prefix
too: the backward pass is that of the whole batch, but every linear layer is given the prefix once (`SharedLinear`).
"""

import inspect
from collections import OrderedDict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ripcurrent.gradients._batch import Batch

SHORTEST_SHARE = 0.1
"""Of a batch's tokens, how many must go through the layers less: below it the copies cost what they save."""
NARROWEST = 64
"""Inputs or outputs below which a layer's products cost less than copying its inputs, as those of a LoRA."""
SHORTEST = 8
"""Tokens below which sharing is not worth a second forward pass."""
KEPT = 2
"""Prefixes whose keys and values are kept for the next batches: a dataset's system prompt, and what differs from it."""


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


class SharedPrefix:
    """Keys and values of prefixes that were seen; the same prefix gives the same bits whenever it is met."""

    def __init__(self, base: nn.Module, config: Any) -> None:
        self._base = base
        self._config = config
        self._name = "cache" if "cache" in inspect.signature(base.forward).parameters else "past_key_values"
        layers = DynamicCache(config=config).layers
        plain = (DynamicLayer, DynamicSlidingWindowLayer)
        self._possible = bool(layers) and all(type(layer) in plain for layer in layers)
        self._kept: OrderedDict[bytes, Cache] = OrderedDict()

    def forget(self) -> None:
        """Give back what is kept, as where memory ran out."""
        self._kept.clear()

    def split(self, batch: Batch) -> tuple[dict[str, Any], Batch]:
        """What continues a forward pass after the batch's common prefix, and the batch that is left.

        Nothing and all of it where the prefix is short. To be called in inference mode; a forward pass leaves the kept
        keys and values as they are.
        """
        length = common_length(batch) if self._possible and batch.rows > 1 else 0
        if length < SHORTEST:
            return {}, batch
        prefix = batch.ids[:1, :length]
        key = prefix.cpu().numpy().tobytes()
        if key not in self._kept:
            cache = DynamicCache(config=self._config)
            self._base(input_ids=prefix, use_cache=True, **{self._name: cache})
            for layer in cache.layers:
                layer.update = partial(_joined, layer.keys, layer.values)
            self._kept[key] = cache
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return {self._name: self._kept[key], "use_cache": True}, batch.after(length)


def _joined(
    keys: Tensor, values: Tensor, new_keys: Tensor, new_values: Tensor, *rest: Any, **named: Any
) -> tuple[Tensor, Tensor]:
    """What a layer of the cache gives attention: the prefix before every row's own, and nothing of it is kept."""
    rows = len(new_keys)
    return (
        torch.cat([keys.expand(rows, -1, -1, -1), new_keys], dim=-2),
        torch.cat([values.expand(rows, -1, -1, -1), new_values], dim=-2),
    )


def common_length(batch: Batch) -> int:
    """Tokens that all rows begin with and of which no state is asked for."""
    return min(batch.common_tokens(), int(batch.lengths.min()) - 1)
