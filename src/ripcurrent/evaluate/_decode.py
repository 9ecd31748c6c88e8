"""Greedy decoding of a batch on a model at hand: a shared beginning read once, finished rows out of the batch.

The same tokens as transformers' ``generate``, for less: every chat prompt begins with the same system turn, whose
states are computed once; and a row that has ended its turn is dropped instead of being carried to the last step.
"""

import inspect
from collections.abc import Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

FEWEST_DROPPED = 8
"""Rows leave the batch when an eighth of it has ended: dropping them copies the whole cache."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """Tokens that every prompt begins with, read once."""

    ids: tuple[int, ...]
    cache: Cache | None


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a model said to one prompt."""

    ids: tuple[int, ...]
    """New tokens, the one that ends the turn left out."""
    ended: bool
    """Whether the model ended its turn; if not, it was cut at the limit."""


@torch.inference_mode()
def read_prefix(model: PreTrainedModel, ids: Sequence[int]) -> Prefix:
    """The states of a beginning; nothing is kept for models whose attention has windows or recurrent layers.

    Rows of different lengths are padded between the beginning and the rest, which a window would count as tokens.
    """
    cache = DynamicCache(config=model.config)
    if not ids or not all(type(layer) is DynamicLayer for layer in cache.layers) or _has_window(model.config):
        return Prefix((), None)
    _forward(model, torch.tensor([list(ids)], device=model.device), None, None, cache)
    return Prefix(tuple(ids), cache)


@torch.inference_mode()
def decode_greedily(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stops: Collection[int],
    prefix: Prefix,
    pad: int,
) -> list[Decoded]:
    """The likeliest token after each prompt, again and again, until its turn ends or the limit is reached.

    ``prompts`` are token ids, each longer than ``prefix`` and beginning with it; ``stops`` end a turn; ``pad`` is any
    token, of which nothing is read. The model is in eval mode.
    """
    shared = len(prefix.ids)
    rests = [list(prompt[shared:]) for prompt in prompts]
    longest = max(map(len, rests))
    device = model.device
    tokens = torch.tensor([[pad] * (longest - len(rest)) + rest for rest in rests], device=device)
    real = torch.tensor([[0] * (longest - len(rest)) + [1] * len(rest) for rest in rests], device=device)
    mask = torch.cat([real.new_ones(len(rests), shared), real], dim=1)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, shared:]
    cache: Cache = DynamicCache(config=model.config)
    if prefix.cache is not None:
        cache = deepcopy(prefix.cache)
        cache.batch_repeat_interleave(len(rests))
    can_drop = all(isinstance(layer, DynamicLayer) for layer in cache.layers)

    new: list[list[int]] = [[] for _ in rests]
    ended = [False] * len(rests)
    rows = list(range(len(rests)))
    position = positions[:, -1:]
    chosen = _forward(model, tokens, mask, positions, cache)
    for step in range(max_new_tokens):
        going = []
        for place, (row, token) in enumerate(zip(rows, chosen.tolist(), strict=True)):
            if ended[row]:
                continue
            if token in stops:
                ended[row] = True
            else:
                new[row].append(token)
                going.append(place)
        if not going or step + 1 == max_new_tokens:
            break
        if can_drop and len(rows) - len(going) >= max(1, len(rows) // FEWEST_DROPPED):
            kept = torch.tensor(going, device=device)
            for layer in cache.layers:
                if isinstance(layer.keys, Tensor):
                    layer.batch_select_indices(kept.to(layer.keys.device))
            mask, position, chosen = mask[kept], position[kept], chosen[kept]
            rows = [rows[place] for place in going]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        position = position + 1
        chosen = _forward(model, chosen[:, None], mask, position, cache)
    return [Decoded(tuple(ids), end) for ids, end in zip(new, ended, strict=True)]


def _forward(
    model: PreTrainedModel, tokens: Tensor, mask: Tensor | None, positions: Tensor | None, cache: Cache
) -> Tensor:
    """The likeliest next token of each row; the cache grows by ``tokens``."""
    # renamed in transformers 5.2x
    cache_name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    # An index where a number would do: the slice that a number makes is not contiguous, and on CPU its product
    # with the head copies the head's matrix for every row (four fifths of the time of reading a batch).
    # Where layers are spread over GPUs the index would lie on the first and the states on the last.
    spread = len(set(getattr(model, "hf_device_map", {}).values())) > 1
    last = 1 if spread else torch.tensor([-1], device=tokens.device)
    output = model(
        input_ids=tokens,
        attention_mask=mask,
        position_ids=positions,
        use_cache=True,
        logits_to_keep=last,
        **{cache_name: cache},
    )
    chosen: Tensor = output.logits[:, -1].argmax(dim=-1)
    return chosen


def _has_window(config: PretrainedConfig) -> bool:
    text = config.get_text_config(decoder=True)
    kinds = getattr(text, "layer_types", None) or ()
    window = getattr(text, "sliding_window", None)
    return any("full" not in kind for kind in kinds) if kinds else window is not None
