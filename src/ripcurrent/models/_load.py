"""Load a chat model: find its files, read them safely, put adapters on, freeze it."""

import copy
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from ripcurrent.data import default_template
from ripcurrent.errors import RipcurrentError
from ripcurrent.models._adapter import adapter_sha256, attach_adapter, attach_fresh_lora, merge_adapter, named_base
from ripcurrent.models._attention import use_grouped_attention
from ripcurrent.models._chat_model import (
    FRESH_RANK,
    ChatModel,
    Scope,
    split_variables,
    template_sha256,
    tokenizer_sha256,
)
from ripcurrent.models._identity import combine_sha256, config_sha256, file_sha256
from ripcurrent.models._libraries import quiet_libraries
from ripcurrent.models._machine import choose_device, choose_dtype, sum_in_float32
from ripcurrent.models._source import EMBEDDED, GUARD_FOLDER, Source, find_adapter, find_tokenizer, weight_files
from ripcurrent.models._tokenizer import found_model, load_tokenizer
from ripcurrent.models._weights import load_base, read_config


def load_model(
    name: str | Path,
    *,
    adapter: str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    scope: Scope = "all",
    seed: int = 0,
) -> ChatModel:
    """Load a chat model for scoring. Never runs code of a model's repository; only a hub id touches the network.

    Raises `RipcurrentError` for anything that keeps the model from being loaded whole and as meant.

    Args:
        name: A hub id, a folder with safetensors, a ``.gguf`` file, ``embedded`` or ``embedded-bare``. Variables of the
            chat template may stand behind it: ``owner/name,enable_thinking=false``.
        adapter: A PEFT LoRA adapter, folder or hub id. Scopes ``all`` and ``linear`` merge it in float32; ``lora``
            keeps it unmerged. A tokenizer that was saved with it takes the place of the model's.
        device: ``cuda``, ``cuda:1``, ``mps`` or ``cpu``; None is the best here.
        dtype: ``float32``, ``bfloat16`` or ``float16``; None is bfloat16 where the device computes in it natively.
        scope: What gradients will be taken over; ``lora`` without an adapter takes a fresh LoRA of rank 8 (B = 0).
        seed: Seed of the fresh LoRA's A.
    """
    called, adapter = str(name), None if adapter is None else str(adapter)
    name, _ = split_variables(called)
    if scope not in get_args(Scope):
        raise RipcurrentError(f"There is no scope {scope!r}.", f"Choices: {', '.join(get_args(Scope))}.")
    # oneDNN keeps a thousand compiled kernels with their buffers: memory would grow with the number of batch shapes
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    sum_in_float32()
    torch_device = choose_device(device)
    torch_dtype = choose_dtype(dtype, torch_device)
    source, folder = found_model(name)
    own = None if adapter is None else find_adapter(adapter)
    merged = [("guard", find_adapter(str(GUARD_FOLDER)))] if name == EMBEDDED else []
    if own is not None and scope != "lora":
        merged.append((str(adapter), own))
    adapters = [folder for _, folder in merged]
    fresh_lora = (FRESH_RANK, seed) if scope == "lora" and own is None else None
    with quiet_libraries():
        config = read_config(folder, name)
        tokenizer = load_tokenizer(called, adapter=adapter)
        # Before a merge the weights stay as they are stored, so that they are rounded once, after it.
        stored_dtype = "auto" if merged and torch_dtype != torch.float32 else torch_dtype
        model = load_base(folder, name, config, torch_device, stored_dtype)
        _check_vocabulary(model, tokenizer, tokenizer.name_or_path if own is not None else name)
        model = _merged(model, merged, torch_dtype, name)
        if torch_device.type == "cpu" and torch_dtype == torch.bfloat16 and model.config._attn_implementation == "sdpa":
            use_grouped_attention(model)
        if fresh_lora is not None:
            model = attach_fresh_lora(model, seed=seed)
        elif own is not None and scope == "lora":
            model = attach_adapter(model, own, name=str(adapter), model_name=name)
            adapters.append(own)
    model.eval().requires_grad_(False)
    return ChatModel(
        name=called,
        model=model,
        tokenizer=tokenizer,
        device=torch_device,
        dtype=torch_dtype,
        scope=scope,
        adapter=adapter,
        fingerprint=_fingerprint(source, adapters, fresh_lora),
        template_sha256=template_sha256(tokenizer),
        tokenizer_sha256=tokenizer_sha256(tokenizer),
        revision=source.revision,
        fresh_lora=fresh_lora,
        adapter_base=None if own is None else named_base(own),
    )


def with_adapter(chat_model: ChatModel, adapter: str | Path) -> ChatModel:
    """The model with a PEFT LoRA adapter merged into its weights in place, in float32: nothing is loaded again.

    The model given is that one from then on. A tokenizer that was saved with the adapter takes the place of its own.
    Raises `RipcurrentError` for an adapter that is not there, does not fit or cannot be merged.
    """
    bare, _ = split_variables(chat_model.name)
    source, _ = found_model(bare)
    own = find_adapter(str(adapter))
    guard = [find_adapter(str(GUARD_FOLDER))] if bare == EMBEDDED else []
    with quiet_libraries():
        tokenizer = load_tokenizer(chat_model.name, adapter=str(adapter))
        _check_vocabulary(chat_model.model, tokenizer, tokenizer.name_or_path)
        model = _merged(chat_model.model, [(str(adapter), own)], chat_model.dtype, bare)
    model.eval().requires_grad_(False)
    return replace(
        chat_model,
        model=model,
        tokenizer=tokenizer,
        adapter=str(adapter),
        adapter_base=named_base(own),
        fingerprint=_fingerprint(source, [*guard, own], None),
        template_sha256=template_sha256(tokenizer),
        tokenizer_sha256=tokenizer_sha256(tokenizer),
    )


def empty_model(name: str) -> PreTrainedModel:
    """A model as its configuration says, whose tensors have shapes and no values; its weights need not be there."""
    name, _ = split_variables(name)
    with quiet_libraries(), torch.device("meta"):
        return AutoModelForCausalLM.from_config(read_config(find_tokenizer(name) or found_model(name)[1], name))


def _merged(model: PreTrainedModel, adapters: list[tuple[str, Path]], dtype: torch.dtype, name: str) -> PreTrainedModel:
    """The model with adapters merged in float32, one after another, and all weights in the type asked for."""
    for number, (adapter_name, folder) in enumerate(adapters, start=1):
        kept = dtype if number == len(adapters) else torch.float32
        model = merge_adapter(model, folder, name=adapter_name, model_name=name, dtype=kept)
    # Parameters only: a model's own .to(dtype) would also round its buffers, the rotary frequencies among them.
    # Packed weights of a quantised model are whole numbers, or of a byte, and stay what they are.
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.element_size() > 1:
            parameter.data = parameter.data.to(dtype)
    return model


def _check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    added, ends = tokenizer.get_added_vocab(), (tokenizer.bos_token, tokenizer.eos_token)
    # an added token that no conversation needs does no harm: Gemma 3's text models have one for images
    template = default_template(tokenizer) or ""
    used = [at for one, at in tokenizer.get_vocab().items() if one not in added or one in ends or one in template]
    largest = max(used, default=-1)
    if largest >= rows:
        raise RipcurrentError(
            f"The tokenizer of {name} has token {largest}, but the model embeds only {rows}.",
            "The folder mixes two models; save the model's own tokenizer into it.",
        )


def _fingerprint(source: Source, adapters: Sequence[Path], fresh_lora: tuple[int, int] | None) -> str:
    if source.is_gguf:
        parts = [file_sha256(source.path)]
    else:
        parts = [config_sha256(source.path / "config.json"), *map(file_sha256, weight_files(source.path))]
    parts += map(adapter_sha256, adapters)
    if fresh_lora is not None:
        parts.append(f"fresh LoRA of rank {fresh_lora[0]}, seed {fresh_lora[1]}")
    return combine_sha256(parts)


@contextmanager
def held_model(model: Any, tokenizer: PreTrainedTokenizerBase | None, *, scope: Scope = "all") -> Iterator[ChatModel]:
    """The model ready to be scored with until the block ends; then it is as it was. An adapter is merged in a copy."""
    modules = model.modules() if hasattr(model, "modules") else ()
    if not hasattr(model, "get_base_model") and any(isinstance(one, BaseTunerLayer) for one in modules):
        raise RipcurrentError(
            f"The {type(model).__name__} has an adapter's layers inside: it is not the model before fine-tuning.",
            "Give the PeftModel around it, or load the base again.",
        )
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
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
        # the trainer's own forward, as TRL has one, would run the model that was copied
        vars(base).pop("forward", None)
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
