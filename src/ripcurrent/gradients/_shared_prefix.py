"""The tokens that all rows of a batch begin with (a system prompt, mostly), run through the model once.

Exact for states: a causal model's states at the prefix do not depend on what follows, and later tokens see the prefix
through its keys and values alone. Where gradients are wanted each row's own loss reaches the prefix too: what is shared
then is in ``_shared_linear.py``.
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

SHORTEST = 8
"""Tokens below which sharing is not worth a second forward pass."""

KEPT = 2
"""Prefixes whose keys and values are kept for the next batches: a dataset's system prompt, and what differs from it."""


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
    answers = batch.answers.any(dim=0).nonzero()
    first_answer = int(answers[0]) if len(answers) else batch.ids.shape[1]
    asked = torch.stack([batch.lengths - 1, batch.last_prompt, batch.last_content]).min()
    return max(0, min(batch.common_tokens(), first_answer, int(asked)))
