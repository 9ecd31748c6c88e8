"""Load a chat model: find its files, read them safely, put adapters on, freeze it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from ripcurrent.errors import RipcurrentError
from ripcurrent.models._adapter import (
    FRESH_RANK,
    adapter_sha256,
    attach_adapter,
    attach_fresh_lora,
    merge_adapter,
    named_base,
)
from ripcurrent.models._attention import use_grouped_attention
from ripcurrent.models._coverage import check_config, check_modules
from ripcurrent.models._device import (
    WEIGHTS_SHARE,
    bound_kernel_cache,
    choose_device,
    choose_dtype,
    room_on_gpus,
    sum_in_float32,
)
from ripcurrent.models._gguf import converted_gguf
from ripcurrent.models._identity import combine_sha256, config_sha256, file_sha256
from ripcurrent.models._libraries import first_line, is_out_of_memory, quiet_libraries
from ripcurrent.models._source import (
    EMBEDDED,
    EMBEDDED_BARE,
    TOKENIZER_CONFIG,
    VOCABULARIES,
    Source,
    embedded_gguf,
    find_adapter,
    find_model,
    guard_adapter,
    weight_files,
)
from ripcurrent.models._template import set_variables, split_variables, template_sha256, tokenizer_sha256
from ripcurrent.models._types import Attention, ChatModel, Scope

_LOAD_ERRORS = (OSError, RuntimeError, MemoryError, ValueError, KeyError, TypeError, ImportError)


def load_model(
    name: str | Path,
    *,
    adapter: str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    scope: Scope = "all",
    attention: Attention = "sdpa",
    seed: int = 0,
    weights_share: float = WEIGHTS_SHARE,
) -> ChatModel:
    """Load a chat model for scoring. Never runs code of a model's repository; only a hub id touches the network.

    Args:
        name: A hub id, a folder with safetensors, a ``.gguf`` file, ``embedded`` or ``embedded-bare``. Variables of the
            chat template may stand behind it: ``owner/name,enable_thinking=false``.
        adapter: A PEFT LoRA adapter, folder or hub id. Scopes ``all`` and ``linear`` merge it in float32; ``lora``
            keeps it unmerged. A tokenizer that was saved with it takes the place of the model's.
        device: ``cuda``, ``cuda:1``, ``mps``, ``cpu`` or ``auto`` (layers on all GPUs); None is the best here.
        dtype: ``float32``, ``bfloat16`` or ``float16``; None is bfloat16 where the device computes in it natively.
        scope: What gradients will be taken over; ``lora`` without an adapter takes a fresh LoRA of rank 8 (B = 0).
        attention: ``sdpa`` or ``eager``. Architectures without a fused kernel (Gemma 2) always run ``eager``.
        seed: Seed of the fresh LoRA's A.
        weights_share: Share of each GPU's free memory that weights may take with ``auto``.

    Raises:
        RipcurrentError: Anything that keeps the model from being loaded whole and as meant.
    """
    called, adapter = str(name), None if adapter is None else str(adapter)
    name, variables = split_variables(called)
    for option, value, choices in (("scope", scope, get_args(Scope)), ("attention", attention, get_args(Attention))):
        if value not in choices:
            raise RipcurrentError(f"There is no {option} {value!r}.", f"Choices: {', '.join(choices)}.")
    bound_kernel_cache()
    sum_in_float32()
    torch_device = choose_device(device)
    torch_dtype = choose_dtype(dtype, torch_device)
    room = room_on_gpus(device, weights_share)
    source = Source(embedded_gguf(), None) if name in (EMBEDDED, EMBEDDED_BARE) else find_model(name)
    own = None if adapter is None else find_adapter(adapter).path
    merged = [("guard", guard_adapter())] if name == EMBEDDED else []
    if own is not None and scope != "lora":
        merged.append((str(adapter), own))
    adapters = [folder for _, folder in merged]
    fresh_lora = (FRESH_RANK, seed) if scope == "lora" and own is None else None
    folder = converted_gguf(source.path, name=name) if source.is_gguf else source.path
    with quiet_libraries():
        config = _load_config(folder, name)
        tokenizer = _load_tokenizer(folder, name)
        if own is not None:
            tokenizer = _of_adapter(tokenizer, own, str(adapter))
        set_variables(tokenizer, variables, name)
        # Before a merge the weights stay as they are stored, so that they are rounded once, after it.
        stored_dtype = "auto" if merged and torch_dtype != torch.float32 else torch_dtype
        model = _load_base(folder, name, config, torch_device, stored_dtype, attention, room)
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
        device=torch_device if room is None else model.get_input_embeddings().weight.device,
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


def _load_config(folder: Path, name: str) -> PretrainedConfig:
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # checks of a configuration's fields raise errors of their own
        raise _unreadable(name, error) from error
    check_config(config, name)
    return config


def _of_adapter(tokenizer: PreTrainedTokenizerBase, folder: Path, adapter: str) -> PreTrainedTokenizerBase:
    """The tokenizer that was saved with an adapter, which was trained with it; the model's where there is none."""
    if not (folder / TOKENIZER_CONFIG).is_file() or not any((folder / file).is_file() for file in VOCABULARIES):
        return tokenizer
    own = _load_tokenizer(folder, adapter)
    if own.chat_template is None:
        own.chat_template = tokenizer.chat_template
    return own


def _load_tokenizer(folder: Path, name: str) -> PreTrainedTokenizerBase:
    try:
        # Mistral's own library, where it is installed, would give a tokenizer without offsets
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, mistral_format=False
        )
    except Exception as error:  # what a tokenizer's own library cannot read is a bare Exception
        raise RipcurrentError(
            f"{name} has no tokenizer that can be read: {first_line(error)}.",
            "Save the model's tokenizer into the same folder.",
        ) from error
    if not tokenizer.is_fast:
        raise RipcurrentError(
            f"The tokenizer of {name} cannot tell which text a token stands for.",
            "Save its fast version (tokenizer.json) into the model's folder.",
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def _load_base(
    folder: Path,
    name: str,
    config: PretrainedConfig,
    device: torch.device,
    dtype: torch.dtype | str,
    attention: Attention,
    room: dict[int, int] | None,
) -> PreTrainedModel:
    has_fused = getattr(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], "_supports_sdpa", True)
    options: dict[str, Any] = {"device_map": {"": str(device)}} if device.type != "cpu" else {}
    if room is not None:
        options = {"device_map": "auto", "max_memory": room}
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation=attention if has_fused else "eager",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            # Reported below, by name.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    except (*_LOAD_ERRORS, SafetensorError) as error:
        if is_out_of_memory(error):
            raise RipcurrentError(
                f"{name} does not fit into the memory of {device if room is None else 'these GPUs'}.",
                "Try dtype bfloat16 or another device.",
            ) from error
        if room is not None and "offload" in str(error):
            raise _too_large_for_gpus(name, room) from error
        raise _unreadable(name, error) from error
    if room is not None:
        _check_placement(model, name, room)
    _check_keys(model, name, loading)
    check_modules(model, name)
    return model


def _check_keys(model: PreTrainedModel, name: str, loading: Mapping[str, Any]) -> None:
    """Refuse weights and a configuration that are not of one model; nothing is filled with random weights."""
    hint = "Fetch the model again, or put its own config.json beside its weights."
    if loading["mismatched_keys"]:
        tensor, stored, expected = sorted(loading["mismatched_keys"])[0]
        raise RipcurrentError(
            f"{name} mixes two models: its configuration gives {tensor} the shape {tuple(expected)}, its weights "
            f"{tuple(stored)}.",
            hint,
        )
    if missing := sorted(loading["missing_keys"]):
        raise RipcurrentError(
            f"{name} lacks {len(missing)} of the weights that its configuration asks for, the first {missing[0]}.", hint
        )
    if unused := sorted(key for key in loading["unexpected_keys"] if _belongs_to(model, key)):
        raise RipcurrentError(
            f"{name} holds {len(unused)} weights that its configuration has no place for, the first {unused[0]}: "
            "without them it would be another model.",
            hint,
        )


def _belongs_to(model: PreTrainedModel, key: str) -> bool:
    """Whether a weight that was not read is of the model itself: a bias of a layer that it has, or one more layer.

    Weights of another modality, or of heads that predict several tokens, do not belong to it.
    """
    names = {name for name, _ in model.named_parameters()}
    if key.endswith(".bias") and f"{key.removesuffix('bias')}weight" in names:
        return True
    numbered = re.match(r"(.*?\.)\d+\.", key)
    if numbered is None:
        return False
    has = [any(name.startswith(layer) for name in names) for layer in (f"{numbered[1]}0.", numbered[0])]
    return has == [True, False]


def _check_placement(model: PreTrainedModel, name: str, room: dict[int, int]) -> None:
    """Refuse layers that found no GPU, and a matrix that embeds and predicts but became two."""
    places: dict[str, Any] = getattr(model, "hf_device_map", {})
    if outside := [part for part, place in places.items() if str(place) in ("cpu", "disk")]:
        raise _too_large_for_gpus(name, room, outside)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    if getattr(model.config.get_text_config(decoder=True), "tie_word_embeddings", False) and embedding is not head:
        raise RipcurrentError(
            f"The embedding and the head of {name} are one matrix, and became two on {embedding.device} and "
            f"{head.device}.",
            "Do not use device auto: its gradient is only that of one matrix on one GPU.",
        )


def _too_large_for_gpus(name: str, room: dict[int, int], outside: Sequence[str] = ()) -> RipcurrentError:
    left = f": {len(outside)} of its parts, the first {outside[0]}, found no place" if outside else ""
    share = " + ".join(f"{size / 1e9:.1f}" for size in room.values())
    return RipcurrentError(
        f"{name} does not fit on the {len(room)} GPUs here{left}. Of their free memory {share} GB are for weights.",
        "Use dtype bfloat16, more or emptier GPUs, or device cpu; in a scan signals representation, where weights may "
        "take more without directions.",
    )


def _check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    added = tokenizer.get_added_vocab()
    # a spare added token that no text needs does no harm: Gemma 3's text models have one for images
    needed = [number for token, number in tokenizer.get_vocab().items() if token not in added]
    largest = max([*needed, *_template_tokens(tokenizer)], default=-1)
    if largest >= rows:
        raise RipcurrentError(
            f"The tokenizer of {name} has token {largest}, but the model embeds only {rows}.",
            "The folder mixes two models; save the model's own tokenizer into it.",
        )


def _template_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens of a short conversation, where the tokenizer has a template that takes one."""
    from jinja2 import TemplateError

    chat = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello"}]
    try:
        text = str(tokenizer.apply_chat_template(chat, tokenize=False))
    except (TemplateError, ValueError, TypeError, KeyError, AttributeError):
        return []
    return list(tokenizer(text, add_special_tokens=True, verbose=False)["input_ids"])


def _fingerprint(source: Source, adapters: Sequence[Path], fresh_lora: tuple[int, int] | None) -> str:
    if source.is_gguf:
        parts = [file_sha256(source.path)]
    else:
        parts = [config_sha256(source.path / "config.json"), *map(file_sha256, weight_files(source.path))]
    parts += map(adapter_sha256, adapters)
    if fresh_lora is not None:
        parts.append(f"fresh LoRA of rank {fresh_lora[0]}, seed {fresh_lora[1]}")
    return combine_sha256(parts)


def _unreadable(name: str, error: Exception) -> RipcurrentError:
    if "trust_remote_code" in str(error) or "custom code" in str(error):
        return RipcurrentError(
            f"{name} needs code from its own repository, which is never run here.",
            "Use a model whose architecture transformers itself has.",
        )
    return RipcurrentError(
        f"{name} cannot be loaded: {first_line(error)}.", "Fetch the model again, or check that its files are whole."
    )
