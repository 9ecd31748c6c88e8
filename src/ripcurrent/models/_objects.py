"""A model that is in memory already: a `PreTrainedModel`, a `PeftModel`, or a trainer's."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ripcurrent.errors import RipcurrentError
from ripcurrent.models._chat_model import ChatModel, Scope, template_sha256, tokenizer_sha256
from ripcurrent.models._identity import combine_sha256
from ripcurrent.models._machine import sum_in_float32


@contextmanager
def held_model(model: Any, tokenizer: PreTrainedTokenizerBase | None, *, scope: Scope = "all") -> Iterator[ChatModel]:
    """The model ready to be scored with until the block ends; then it is as it was. An adapter is merged in a copy."""
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    if not isinstance(base, PreTrainedModel):
        raise RipcurrentError(
            f"A {type(model).__name__} is no model that can be scored.",
            "Give a PreTrainedModel or a PeftModel, or a model's name, folder or hub id.",
        )
    if tokenizer is None or not getattr(tokenizer, "is_fast", False):
        raise RipcurrentError(
            "A model in memory needs its fast tokenizer beside it.", "Give it as well: scan(…, model=…, tokenizer=…)."
        )
    if scope == "lora" and base is model:
        raise RipcurrentError("The model has no LoRA, and scope lora is asked for.", "Give the PeftModel itself.")
    if base is not model and scope != "lora":
        base = copy.deepcopy(model).merge_and_unload()
    taken = model if scope == "lora" else base
    trained, training = {one for one in taken.parameters() if one.requires_grad}, taken.training
    saving = bool(getattr(base, "is_gradient_checkpointing", False))
    sum_in_float32()
    try:
        if saving:
            base.gradient_checkpointing_disable()
        taken.eval().requires_grad_(False)
        yield ChatModel(
            name=str(getattr(base, "name_or_path", "") or type(base).__name__),
            model=taken,
            tokenizer=tokenizer,
            device=base.get_input_embeddings().weight.device,
            dtype=base.dtype,
            scope=scope,
            adapter=None,
            fingerprint=_weights_sha256(taken),
            template_sha256=template_sha256(tokenizer),
            tokenizer_sha256=tokenizer_sha256(tokenizer),
            revision=None,
        )
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        taken.train(training)
        if saving:
            base.gradient_checkpointing_enable()


def _weights_sha256(model: torch.nn.Module) -> str:
    """Hash of every weight's name and bytes."""
    parts = []
    for name, weight in sorted(model.state_dict().items()):
        stored = weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        parts.append(f"{name} {weight.dtype} {hashlib.sha256(stored).hexdigest()}")
    return combine_sha256(parts)
