"""What the other rooms hold: a loaded chat model and what it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

Scope = Literal["all", "linear", "lora"]
"""Which parameters a gradient is taken over: every one, those of linear layers, or an unmerged LoRA's A and B."""

Attention = Literal["sdpa", "eager"]
"""Attention kernels: PyTorch's fused one, or the plain products, whose results depend least on the batch's shape."""

SCOPES: tuple[Scope, ...] = get_args(Scope)
ATTENTIONS: tuple[Attention, ...] = get_args(Attention)


@dataclass(frozen=True, slots=True, eq=False)
class ChatModel:
    """A chat model ready to be scored with: in eval mode, every parameter frozen."""

    name: str
    """As the user gave it: hub id, folder, ``.gguf`` file, ``embedded`` or ``embedded-bare``."""
    model: PreTrainedModel
    """The causal language model; a ``PeftModel`` around it when ``scope`` is ``lora``."""
    tokenizer: PreTrainedTokenizerBase
    """Its fast tokenizer, which pads on the right; pad = eos where the model names no pad token."""
    device: torch.device
    """Where the parameters are, and batches go; of a model spread over GPUs the embedding's."""
    dtype: torch.dtype
    """Compute type, that of the parameters; an unmerged LoRA's A and B stay in float32."""
    scope: Scope
    """The scope it was loaded for; it decides whether an adapter is merged."""
    adapter: str | None
    """The user's adapter, merged or (scope ``lora``) unmerged; None without one. A guard is part of the model."""
    fingerprint: str
    """SHA-256 in hex of the weights' identity: configuration, weight files, adapters. Not of device or dtype."""
    template_sha256: str | None
    """SHA-256 in hex of the chat template; None when the model has none."""
    revision: str | None
    """Commit of the hub repository; None for local weights."""
    tokenizer_sha256: str | None = None
    """SHA-256 in hex of the tokenizer's own definition: vocabulary, merges, normalisation."""
    adapter_base: str | None = None
    """The base model that the user's adapter names, which need not be this one."""
    fresh_lora: tuple[int, int] | None = None
    """Rank and seed of the fresh LoRA that scope ``lora`` takes without an adapter; else None."""

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """Every device that parameters are on: several where layers are spread over GPUs, else ``device`` alone."""
        found = {parameter.device for parameter in self.model.parameters()}
        return tuple(sorted(found, key=lambda one: (one.type, one.index or 0))) if len(found) > 1 else (self.device,)
