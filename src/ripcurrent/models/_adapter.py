"""PEFT LoRA adapters: merged in float32, kept unmerged, or made fresh."""

import json
from collections import Counter
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, PeftModel, PeftModelForCausalLM, PeftType, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from transformers import PreTrainedModel

from ripcurrent.errors import RipcurrentError
from ripcurrent.models._chat_model import FRESH_RANK
from ripcurrent.models._identity import combine_sha256, config_sha256, file_sha256
from ripcurrent.models._libraries import first_line
from ripcurrent.models._machine import is_out_of_memory
from ripcurrent.models._source import ADAPTER_CONFIG, ADAPTER_WEIGHTS

_FETCH = "Copy or fetch the adapter again."


def merge_adapter(
    model: PreTrainedModel, folder: Path, *, name: str, model_name: str, dtype: torch.dtype
) -> PreTrainedModel:
    """``model`` with the adapter's update added to its weights: summed in float32, then rounded once to ``dtype``.

    Raises `RipcurrentError` for an adapter that does not fit, cannot be merged, or updates a weight that layers share.
    """
    wrapped = _wrap(model, folder, name=name, model_name=model_name)
    layers = [module for module in wrapped.modules() if isinstance(module, BaseTunerLayer)]
    weights = [module._parameters.get("weight") for module in wrapped.modules()]
    owners = Counter(id(weight) for weight in weights if weight is not None)
    if any(owners[id(layer.get_base_layer().weight)] > 1 for layer in layers):
        raise RipcurrentError(
            f"The adapter {name} updates a weight that several modules share, such as embedding and head: merging it "
            "would change all of them.",
            "A scan takes it with scope lora and signals representation; no scope has gradients of it.",
        )
    for layer in layers:
        layer.to(torch.float32)
        try:
            layer.merge()
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise RipcurrentError(
                f"The adapter {name} cannot be merged: {first_line(error)}.",
                "A scan takes it with scope lora, which keeps it unmerged; other commands need another adapter.",
            ) from error
        layer.get_base_layer().to(dtype)
    # The layers are merged already: unloading only takes PEFT's wrappers off.
    return wrapped.unload()


def attach_adapter(model: PreTrainedModel, folder: Path, *, name: str, model_name: str) -> PeftModel:
    """``model`` wrapped with the LoRA adapter of ``folder``, unmerged; A and B are in float32."""
    wrapped = _wrap(model, folder, name=name, model_name=model_name)
    if wrapped.peft_config["default"].use_dora:
        hint = "Scan with scope all or linear, which merge it."
        raise RipcurrentError(f"The adapter {name} is a DoRA, which has magnitudes beside A and B.", hint)
    return wrapped


def attach_fresh_lora(model: PreTrainedModel, *, seed: int, rank: int = FRESH_RANK) -> PeftModel:
    """``model`` with a new LoRA on every linear layer but the head: A random by ``seed`` alone, B zero, in float32."""
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", bias="none", task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def named_base(folder: Path) -> str | None:
    """The base model that an adapter's configuration names; None where it names none."""
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    named = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    return named if isinstance(named, str) and named else None


def adapter_sha256(folder: Path) -> str:
    """SHA-256 in hex of an adapter: how it is applied and its weights, the whole file."""
    weights = folder / ADAPTER_WEIGHTS
    whole = file_sha256(weights, whole_bytes=weights.stat().st_size)
    return combine_sha256([config_sha256(folder / ADAPTER_CONFIG), whole])


def _wrap(model: PreTrainedModel, folder: Path, *, name: str, model_name: str) -> PeftModel:
    config = _read_config(folder)
    base = config.base_model_name_or_path or "(none)"
    other = f"The adapter {name} does not fit {model_name}: its {ADAPTER_CONFIG} names the base model {base}"
    hint = "Load it with the model that it was trained on."
    config.inference_mode = True
    try:
        wrapped = PeftModelForCausalLM(model, config)
        loaded = wrapped.load_adapter(str(folder), "default", torch_device=str(model.device))
    except SafetensorError as error:
        damaged = f"{folder / ADAPTER_WEIGHTS} is damaged or cut short: {first_line(error)}."
        raise RipcurrentError(damaged, _FETCH) from error
    except (ValueError, RuntimeError, KeyError) as error:
        raise RipcurrentError(f"{other}, and {first_line(error)}.", hint) from error
    for keys, what in (
        (loaded.unexpected_keys, "updates {} tensors that the model has not"),
        (loaded.missing_keys, "lacks {} tensors that the model needs"),
    ):
        if keys:
            raise RipcurrentError(f"{other}, and it {what.format(len(keys))}, such as {keys[0]}.", hint)
    return wrapped


def _read_config(folder: Path) -> PeftConfig:
    file = folder / ADAPTER_CONFIG
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (ValueError, KeyError, TypeError) as error:
        raise RipcurrentError(f"{file} is no PEFT configuration: {first_line(error)}.", _FETCH) from error
    if config.peft_type != PeftType.LORA:
        kind = getattr(config.peft_type, "value", "nameless")
        raise RipcurrentError(f"{file} is of a {kind} adapter.", "Only LoRA adapters are covered.")
    return config
