"""Facts about a loaded model for manifests and reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from ripcurrent.models._variables import split_variables

if TYPE_CHECKING:
    from ripcurrent.models._types import ChatModel


class ModelInfo(BaseModel):
    """What a manifest keeps of a model. The fields that training changes are None in a fine-tuning run's manifest."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    name: str
    """As the user gave it."""
    revision: str | None = None
    """Commit of the hub repository; None for local weights."""
    architecture: str | None = None
    """Its family's name in transformers, such as ``llama``."""
    parameters: int | None = None
    """Number of scalar parameters; a matrix that two modules share counts once."""
    device: str | None = None
    """Every device that parameters are on, separated by commas."""
    dtype: str | None = None
    """Compute type, such as ``bfloat16``."""
    attention: str | None = None
    """Attention kernel, by its name in transformers."""
    scope: str | None = None
    """Parameters that gradients are taken over."""
    adapter: str | None = None
    """The user's adapter."""
    adapter_base: str | None = None
    """The base model that the adapter's configuration names."""
    fresh_lora_rank: int | None = None
    """Rank of the fresh LoRA of scope ``lora``; None without one."""
    fresh_lora_seed: int | None = None
    """Its seed."""
    fingerprint: str
    """SHA-256 in hex of configuration, weights and adapters."""
    template_sha256: str | None = None
    """SHA-256 in hex of the chat template."""
    tokenizer_sha256: str | None = None
    """SHA-256 in hex of the tokenizer's definition."""

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
