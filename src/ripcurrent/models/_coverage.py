"""Refuse the models whose rows or shape the method does not cover."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

from ripcurrent.errors import RipcurrentError

_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "num_routed_experts", "moe_num_experts")
_EXPERT_MODULE = re.compile(r"Moe|MoE|Experts")
_HINT = "Use a dense decoder-only chat model, such as a Llama, Qwen, Gemma, Mistral, Phi or SmolLM instruct model."


def check_config(config: PretrainedConfig, name: str) -> None:
    """Raise a RipcurrentError unless ``config`` is that of a dense decoder-only language model with weights to read."""
    if getattr(config, "is_encoder_decoder", False):
        raise RipcurrentError(f"{name} is an encoder-decoder model ({config.model_type}), which is not covered.", _HINT)
    if any(value > 1 for value in _expert_counts(config.to_dict())):
        _refuse_experts(name, config.model_type)
    if (method := _quantisation(config)) not in (None, "bitsandbytes"):
        raise RipcurrentError(
            f"The weights of {name} are stored in a packed form ({method}), which is not covered.",
            "Use the model's own weights in bfloat16, or with bitsandbytes.",
        )
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise RipcurrentError(f"{name} is a {config.model_type} model, which does not generate text.", _HINT)
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING:
        raise RipcurrentError(f"{name} is a {config.model_type} model, whose tokens see the tokens after them.", _HINT)


def check_modules(model: PreTrainedModel, name: str) -> None:
    """Raise a RipcurrentError when ``model`` has experts that its configuration did not tell of."""
    counts = list(_expert_counts(model.config.to_dict()))
    if counts and max(counts) <= 1:
        return  # a dense model of a family that also has experts, such as Granite 4.0's small ones
    if any(_EXPERT_MODULE.search(type(module).__name__) for module in model.modules()):
        _refuse_experts(name, model.config.model_type)


def _refuse_experts(name: str, model_type: str) -> None:
    raise RipcurrentError(
        f"{name} is a mixture-of-experts model ({model_type}): its experts tie the rows of a batch together, "
        "so a row has no gradient of its own.",
        _HINT,
    )


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
