"""A loaded chat model, what manifests keep of it, and its template: hash and variables. Imports no torch."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel

from ripcurrent.data import default_template
from ripcurrent.errors import RipcurrentError
from ripcurrent.models._identity import text_sha256

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Scope = Literal["all", "linear", "lora"]
"""Which parameters a gradient is taken over: every one, those of linear layers, or an unmerged LoRA's A and B."""
Value = bool | int | float | str
FRESH_RANK = 8


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
    """Where the parameters are, and batches go."""
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


class ModelInfo(BaseModel, frozen=True, use_attribute_docstrings=True):
    """What a manifest keeps of a `ChatModel`; None, in a fine-tuning run's manifest, where training changes it."""

    name: str
    revision: str | None = None
    architecture: str | None = None
    parameters: int | None = None
    """Number of scalar parameters; a matrix that two modules share counts once."""
    device: str | None = None
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
        bare = [str(one).replace("\\", "/").rstrip("/").rpartition("/")[2].lower() for one in (name, self.adapter_base)]
        if self.adapter_base is None or bare[0] == bare[1]:
            return None
        base = f"names the base model {self.adapter_base} and was put on {name}"
        return f"The adapter {self.adapter} {base}: see that it belongs there."


def describe(chat_model: ChatModel) -> ModelInfo:
    """What a manifest keeps of the model, without the weights."""
    config = chat_model.model.config
    rank, seed = chat_model.fresh_lora or (None, None)
    known: dict[str, Any] = {name: getattr(chat_model, name, None) for name in ModelInfo.model_fields}
    known |= {"architecture": config.model_type, "attention": config._attn_implementation}
    known |= {"parameters": sum(parameter.numel() for parameter in chat_model.model.parameters())}
    known |= {"device": str(chat_model.device), "dtype": str(chat_model.dtype).removeprefix("torch.")}
    return ModelInfo(**{**known, "fresh_lora_rank": rank, "fresh_lora_seed": seed})


def split_variables(name: str) -> tuple[str, dict[str, Value]]:
    """A model's name as it is found by, and the template variables behind it; a file or folder so called has none."""
    bare, *settings = name.split(",")
    if not any("=" in one for one in settings) or Path(name).expanduser().exists():
        return name, {}
    variables = {}
    for one in settings:
        key, sign, text = (part.strip() for part in one.partition("="))
        value = _value(text)
        if not sign or not key.isidentifier() or not isinstance(value, Value):
            raise RipcurrentError(
                f"{one!r} in {name} sets no variable of a chat template.",
                f"Write it as in {bare},enable_thinking=false",
            )
        variables[key] = value
    return bare, variables


def _value(text: str) -> Any:
    """True, false or a number where it is written as one, else the text; a date is text to a template."""
    try:
        value = yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        return text
    return text if isinstance(value, date) else value


def set_variables(tokenizer: PreTrainedTokenizerBase, variables: dict[str, Value], name: str) -> None:
    """Make them part of the tokenizer's template, so that its hash, and what is saved of it, has them too."""
    if not variables:
        return
    template = tokenizer.chat_template
    if not isinstance(template, str):
        raise RipcurrentError(
            f"{name} has {'several chat templates' if template else 'no chat template'}: no variable of it can be set.",
            "Leave what stands behind the comma out.",
        )
    for key in variables:
        if not re.search(rf"\b{key}\b", template):
            raise RipcurrentError(
                f"The chat template of {name} has no variable {key}.",
                "See the model's card for what its template takes, such as enable_thinking.",
            )
    lines = [f"{{% set {key} = {json.dumps(value, ensure_ascii=False)} %}}" for key, value in variables.items()]
    # a template that was saved with a variable sets it at its beginning
    for key in variables:
        template = re.sub(rf"\A((?:\{{% set \w+ = [^\n]*? %\}})*?)\{{% set {key} = [^\n]*? %\}}", r"\1", template)
    tokenizer.chat_template = "".join(lines) + template


def template_sha256(tokenizer: PreTrainedTokenizerBase) -> str | None:
    template = default_template(tokenizer)
    return None if template is None else text_sha256(template)


def tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 in hex of a fast tokenizer's definition and of its special tokens, which templates print by role."""
    roles = {role: str(token) for role, token in tokenizer.special_tokens_map.items()}
    return text_sha256(tokenizer.backend_tokenizer.to_str() + json.dumps(roles, sort_keys=True))


def require_chat_template(chat_model: ChatModel) -> None:
    if default_template(chat_model.tokenizer) is None:
        raise RipcurrentError(
            f"{chat_model.name} has no chat template, so a conversation cannot be rendered for it.",
            "Use the chat (instruct) version, or add a chat_template to its tokenizer; the anchors need one too.",
        )
