"""Greedy answers of a model at hand, batched: a shared beginning read once, finished rows out of the batch.

The same tokens as transformers' ``generate``, for less: every chat prompt begins with the same system turn, whose
states are computed once; and a row that has ended its turn is dropped instead of being carried to the last step.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Sequence
from copy import deepcopy
from itertools import takewhile
from operator import itemgetter

import torch
from jinja2.exceptions import TemplateError
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from ripcurrent.data import opened_thought, rendered
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.evaluate._batches import in_batches
from ripcurrent.evaluate._prompts import Prompt
from ripcurrent.evaluate._responses import Response
from ripcurrent.models import ChatModel

FEWEST_DROPPED = 8
"""Rows leave the batch when an eighth of it has ended: dropping them copies the whole cache."""
Decoded = tuple[list[int], bool]
"""A prompt's new tokens, the one that ends the turn left out; and whether the model ended its turn within the limit."""


def answer_locally(
    chat_model: ChatModel, prompts: Sequence[Prompt], *, system: str | None, max_new_tokens: int, batch_size: int
) -> Iterator[list[Response]]:
    """Greedy answers in batches of prompts of like length; a batch that does not fit into memory is halved.

    ``max_new_tokens`` is the longest answer; reaching it makes one ``truncated``. ``system`` None leaves the system
    prompt to the chat template.
    """
    tokenizer, model = chat_model.tokenizer, chat_model.model
    pad = tokenizer.pad_token_id or 0
    tokens = [_prompt_tokens(chat_model, prompt, system) for prompt in prompts]
    _check_window(chat_model, prompts, tokens, max_new_tokens)
    # what all prompts begin with, at least one token of each left over
    alike = takewhile(lambda column: len(set(column)) == 1, zip(*tokens, strict=False)) if len(tokens) > 1 else ()
    shared = [column[0] for column in alike][: min(map(len, tokens), default=1) - 1]
    prefix = read_prefix(model, shared)
    # the model's own, as its generation configuration has them, and the tokenizer's
    named = getattr(model.generation_config, "eos_token_id", None)
    stops = {tokenizer.eos_token_id, *([named] if isinstance(named, int) else named or ())} - {None}
    order = sorted(range(len(prompts)), key=lambda place: len(tokens[place]))

    def decode(places: Sequence[int]) -> list[Decoded]:
        asked = [tokens[place] for place in places]
        return decode_greedily(model, asked, max_new_tokens=max_new_tokens, stops=stops, prefix=prefix, pad=pad)

    def does_not_fit(place: int, said: str) -> RipcurrentError:
        return RipcurrentError(
            f"The prompt {prompts[place].id} ({len(tokens[place])} tokens, and up to {max_new_tokens} of an answer) "
            f"does not fit into the memory of {chat_model.device}, even alone ({said}).",
            "A lower --batch-size (in a file, batch_size) was tried, down to 1. In another folder, lower "
            "--max-new-tokens (max_new_tokens), or use --dtype bfloat16 (dtype) or another --device (device).",
            code=ExitCode.NOT_MEASURED,
        )

    for places, decoded in in_batches(order, batch_size, decode, does_not_fit):
        yield [
            Response(prompts[place].id, _answer_text(chat_model, tokens[place], ids), len(ids), not ended)
            for place, (ids, ended) in zip(places, decoded, strict=True)
        ]


def _prompt_tokens(chat_model: ChatModel, prompt: Prompt, system: str | None) -> list[int]:
    """A prompt as the model reads it: rendered by its chat template up to where the answer begins."""
    try:
        text = rendered(chat_model.tokenizer, prompt.turns(system), generation_prompt=True)
    except (TemplateError, TypeError) as error:
        raise RipcurrentError(
            f"The chat template of {chat_model.name} refuses the prompt: {str(error).rstrip('.')}.",
            "Leave out --system (in a file, system) if the model knows no system turn.",
        ) from error
    ids: list[int] = chat_model.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _check_window(
    chat_model: ChatModel, prompts: Sequence[Prompt], tokens: Sequence[Sequence[int]], max_new_tokens: int
) -> None:
    """Raise if the longest prompt and its answer do not fit into the model's window."""
    window = getattr(chat_model.model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    length, longest = max(zip(map(len, tokens), prompts, strict=True), key=itemgetter(0), default=(0, None))
    if window is not None and longest is not None and length + max_new_tokens > window:
        raise RipcurrentError(
            f"The prompt {longest.id} has {length} tokens, and with {max_new_tokens} of an answer that is more than "
            f"the {window} positions of {chat_model.name}.",
            "Lower --max-new-tokens (in a file, max_new_tokens), or leave that prompt out.",
        )


def _answer_text(chat_model: ChatModel, asked: Sequence[int], answered: Sequence[int]) -> str:
    """The text of an answer, with the tag of thoughts that the chat template opened at the prompt's end."""
    text = str(chat_model.tokenizer.decode(list(answered), skip_special_tokens=True))
    if "</think" not in text.lower() and "</think" in str(chat_model.tokenizer.decode(list(answered))).lower():
        # tags that are special tokens are left out, so where the thoughts end is not known
        return text
    # the tag and what spaces follow it are a handful of tokens
    return opened_thought(str(chat_model.tokenizer.decode(list(asked[-12:])))) + text


@torch.inference_mode()
def read_prefix(model: PreTrainedModel, ids: Sequence[int]) -> Cache | None:
    """The states of a beginning; None for models whose attention has windows or recurrent layers.

    Rows of different lengths are padded between the beginning and the rest, which a window would count as tokens.
    """
    cache = DynamicCache(config=model.config)
    if not ids or not all(type(layer) is DynamicLayer for layer in cache.layers) or _has_window(model.config):
        return None
    _forward(model, torch.tensor([list(ids)], device=model.device), None, None, cache)
    return cache


def _has_window(config: PretrainedConfig) -> bool:
    text = config.get_text_config(decoder=True)
    kinds = getattr(text, "layer_types", None) or ()
    return any("full" not in kind for kind in kinds) if kinds else getattr(text, "sliding_window", None) is not None


@torch.inference_mode()
def decode_greedily(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stops: Collection[int],
    prefix: Cache | None,
    pad: int,
) -> list[Decoded]:
    """The likeliest token after each prompt, again and again, until its turn ends or the limit is reached.

    ``prompts`` are token ids, each longer than what ``prefix`` was read from and beginning with it; ``stops`` end a
    turn; ``pad`` is any token, of which nothing is read. The model is in eval mode.
    """
    shared = prefix.get_seq_length() if prefix is not None else 0
    rests = [list(prompt[shared:]) for prompt in prompts]
    longest = max(map(len, rests))
    device = model.device
    tokens = torch.tensor([[pad] * (longest - len(rest)) + rest for rest in rests], device=device)
    real = torch.tensor([[0] * (longest - len(rest)) + [1] * len(rest) for rest in rests], device=device)
    mask = torch.cat([real.new_ones(len(rests), shared), real], dim=1)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, shared:]
    cache = DynamicCache(config=model.config) if prefix is None else deepcopy(prefix)
    if prefix is not None:
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
    return list(zip(new, ended, strict=True))


def _forward(
    model: PreTrainedModel, tokens: Tensor, mask: Tensor | None, positions: Tensor | None, cache: Cache
) -> Tensor:
    """The likeliest next token of each row; the cache grows by ``tokens``."""
    # renamed in transformers 5.2x
    cache_name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    # An index where a number would do: the slice that a number makes is not contiguous, and on CPU its product
    # with the head copies the head's matrix for every row (four fifths of the time of reading a batch).
    last = torch.tensor([-1], device=tokens.device)
    inputs = {"input_ids": tokens, "attention_mask": mask, "position_ids": positions, cache_name: cache}
    chosen: Tensor = model(**inputs, use_cache=True, logits_to_keep=last).logits[:, -1].argmax(dim=-1)
    return chosen
