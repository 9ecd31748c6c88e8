"""Facts about a loaded model for manifests and reports."""

from __future__ import annotations

from ripcurrent.models._types import ChatModel


def count_parameters(chat_model: ChatModel) -> int:
    """Number of the model's scalar parameters; a matrix that two modules share counts once."""
    return sum(parameter.numel() for parameter in chat_model.model.parameters())


def describe(chat_model: ChatModel) -> dict[str, str | int | None]:
    """What a manifest keeps of the model: JSON-ready, without the weights."""
    config = chat_model.model.config
    rank, seed = chat_model.fresh_lora or (None, None)
    return {
        "name": chat_model.name,
        "revision": chat_model.revision,
        "architecture": config.model_type,
        "parameters": count_parameters(chat_model),
        "device": ", ".join(map(str, chat_model.devices)),
        "dtype": str(chat_model.dtype).removeprefix("torch."),
        "attention": config._attn_implementation,
        "scope": chat_model.scope,
        "adapter": chat_model.adapter,
        "adapter_base": chat_model.adapter_base,
        "fresh_lora_rank": rank,
        "fresh_lora_seed": seed,
        "fingerprint": chat_model.fingerprint,
        "template_sha256": chat_model.template_sha256,
        "tokenizer_sha256": chat_model.tokenizer_sha256,
    }
