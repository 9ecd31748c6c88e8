"""Read a model's weights, and refuse those that the method does not cover or that are not of one model."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

from ripcurrent.errors import RipcurrentError
from ripcurrent.models._libraries import first_line
from ripcurrent.models._machine import is_out_of_memory

_LOAD_ERRORS = (OSError, RuntimeError, MemoryError, ValueError, KeyError, TypeError, ImportError, SafetensorError)
_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "num_routed_experts", "moe_num_experts")
_EXPERT_MODULE = re.compile(r"Moe|MoE|Experts")
_HINT = "Use a dense decoder-only chat model, such as a Llama, Qwen, Gemma, Mistral, Phi or SmolLM instruct model."


def read_config(folder: Path, name: str) -> PretrainedConfig:
    """The configuration of a model in a folder; a RipcurrentError where it cannot be read or is not covered."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # checks of a configuration's fields raise errors of their own
        raise _unreadable(name, error) from error
    check_config(config, name)
    return config


def check_config(config: PretrainedConfig, name: str) -> None:
    """Raise a RipcurrentError unless ``config`` is that of a dense decoder-only language model with weights to read."""
    if getattr(config, "is_encoder_decoder", False):
        raise RipcurrentError(f"{name} is an encoder-decoder model ({config.model_type}), which is not covered.", _HINT)
    if any(value > 1 for value in _expert_counts(config.to_dict())):
        raise _has_experts(name, config.model_type)
    if (method := _quantisation(config)) not in (None, "bitsandbytes"):
        raise RipcurrentError(
            f"The weights of {name} are stored in a packed form ({method}), which is not covered.",
            "Use the model's own weights in bfloat16, or with bitsandbytes.",
        )
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise RipcurrentError(f"{name} is a {config.model_type} model, which does not generate text.", _HINT)
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING:
        raise RipcurrentError(f"{name} is a {config.model_type} model, whose tokens see the tokens after them.", _HINT)


def _check_modules(model: PreTrainedModel, name: str) -> None:
    """Raise a RipcurrentError when ``model`` has experts that its configuration did not tell of."""
    counts = list(_expert_counts(model.config.to_dict()))
    if counts and max(counts) <= 1:
        return  # a dense model of a family that also has experts, such as Granite 4.0's small ones
    if any(_EXPERT_MODULE.search(type(module).__name__) for module in model.modules()):
        raise _has_experts(name, model.config.model_type)


def _has_experts(name: str, kind: str) -> RipcurrentError:
    why = "its experts tie the rows of a batch together, so a row has no gradient of its own"
    return RipcurrentError(f"{name} is a mixture-of-experts model ({kind}): {why}.", _HINT)


def _quantisation(config: PretrainedConfig) -> str | None:
    """How the weights are packed, by the name of the method; None where they are not."""
    packed = getattr(config, "quantization_config", None)
    if packed is None:
        return None
    method = packed.get("quant_method") if isinstance(packed, Mapping) else getattr(packed, "quant_method", None)
    return str(getattr(method, "value", method or "unnamed"))


def _expert_counts(config: Mapping[str, Any]) -> Iterator[int]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _expert_counts(value)
        elif key in _EXPERT_COUNTS and isinstance(value, int):
            yield value


def load_base(
    folder: Path, name: str, config: PretrainedConfig, device: torch.device, dtype: torch.dtype | str
) -> PreTrainedModel:
    # older transformers run Gemma 2 with fused attention too, which leaves its soft cap out
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    has_fused = getattr(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], "_supports_sdpa", True) and not capped
    options: dict[str, Any] = {"device_map": {"": str(device)}} if device.type != "cpu" else {}
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation="sdpa" if has_fused else "eager",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            # Reported below, by name.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    except _LOAD_ERRORS as error:
        if is_out_of_memory(error):
            raise RipcurrentError(
                f"{name} does not fit into the memory of {device}.", "Try dtype bfloat16 or another device."
            ) from error
        raise _unreadable(name, error) from error
    _check_keys(model, name, loading)
    _check_modules(model, name)
    return model


def _check_keys(model: PreTrainedModel, name: str, loading: Mapping[str, Any]) -> None:
    """Refuse weights and a configuration that are not of one model; nothing is filled with random weights."""
    unused = sorted(key for key in loading["unexpected_keys"] if _belongs_to(model, key))
    if loading["mismatched_keys"]:
        tensor, stored, wanted = sorted(loading["mismatched_keys"])[0]
        what = f"gives {tensor} the shape {tuple(wanted)}, its weights {tuple(stored)}"
    elif missing := sorted(loading["missing_keys"]):
        what = f"asks for {len(missing)} weights that it lacks, the first {missing[0]}"
    elif unused:
        what = f"has no place for {len(unused)} of its weights, the first {unused[0]}"
    else:
        return
    hint = "Fetch the model again, or put its own config.json beside its weights."
    raise RipcurrentError(f"{name} mixes two models: its configuration {what}.", hint)


def _belongs_to(model: PreTrainedModel, key: str) -> bool:
    """Whether a weight that was not read is of the model itself: a bias of a layer that it has, or one more layer."""
    names = {name for name, _ in model.named_parameters()}
    if key.endswith(".bias") and f"{key.removesuffix('bias')}weight" in names:
        return True
    numbered = re.match(r"(.*?\.)\d+\.", key)
    if numbered is None:
        return False
    has = [any(name.startswith(layer) for name in names) for layer in (f"{numbered[1]}0.", numbered[0])]
    return has == [True, False]


def _unreadable(name: str, error: Exception) -> RipcurrentError:
    if "trust_remote_code" in str(error) or "custom code" in str(error):
        hint = "Use a model whose architecture transformers itself has."
        return RipcurrentError(f"{name} needs code from its own repository, which is never run here.", hint)
    hint = "Fetch the model again, or check that its files are whole."
    return RipcurrentError(f"{name} cannot be loaded: {first_line(error)}.", hint)
