"""What other rooms hold: a loaded chat model, and what manifests keep of it. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from ripcurrent.models._template import split_variables

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Scope = Literal["all", "linear", "lora"]
"""Which parameters a gradient is taken over: every one, those of linear layers, or an unmerged LoRA's A and B."""

Attention = Literal["sdpa", "eager"]
"""Attention kernels: PyTorch's fused one, or the plain products, whose results depend least on the batch's shape."""


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


class ModelInfo(BaseModel):
    """What a manifest keeps of a `ChatModel`; None, in a fine-tuning run's manifest, where training changes it."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    name: str
    revision: str | None = None
    architecture: str | None = None
    """Its family's name in transformers, such as ``llama``."""
    parameters: int | None = None
    """Number of scalar parameters; a matrix that two modules share counts once."""
    device: str | None = None
    """Every device that parameters are on, separated by commas."""
    dtype: str | None = None
    attention: str | None = None
    """Attention kernel, by its name in transformers."""
    scope: str | None = None
    adapter: str | None = None
    adapter_base: str | None = None
    fresh_lora_rank: int | None = None
    fresh_lora_seed: int | None = None
    fingerprint: str
    template_sha256: str | None = None
    tokenizer_sha256: str | None = None

    def other_base(self) -> str | None:
        """A warning where the adapter names another base model than it was put on; else None."""
        name, _ = split_variables(self.name)
        if self.adapter_base is None or _last_part(self.adapter_base) == _last_part(name):
            return None
        return (
            f"The adapter {self.adapter} names the base model {self.adapter_base} and was put on {name}: "
            "see that it belongs there."
        )


def describe(chat_model: ChatModel) -> ModelInfo:
    """What a manifest keeps of the model, without the weights."""
    config = chat_model.model.config
    rank, seed = chat_model.fresh_lora or (None, None)
    return ModelInfo(
        name=chat_model.name,
        revision=chat_model.revision,
        architecture=config.model_type,
        parameters=sum(parameter.numel() for parameter in chat_model.model.parameters()),
        device=", ".join(map(str, chat_model.devices)),
        dtype=str(chat_model.dtype).removeprefix("torch."),
        attention=config._attn_implementation,
        scope=chat_model.scope,
        adapter=chat_model.adapter,
        adapter_base=chat_model.adapter_base,
        fresh_lora_rank=rank,
        fresh_lora_seed=seed,
        fingerprint=chat_model.fingerprint,
        template_sha256=chat_model.template_sha256,
        tokenizer_sha256=chat_model.tokenizer_sha256,
    )


def _last_part(name: str) -> str:
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2].lower()
