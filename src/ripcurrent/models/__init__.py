"""Chat models: loading them from a hub id, a folder, a GGUF file or a package, with device and type chosen.

Names are loaded when first used: most of them import torch, and a reader of manifests needs `ModelInfo` alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ripcurrent.models._adapter import adapter_sha256, attach_fresh_lora, merge_adapter, named_base
    from ripcurrent.models._attention import LONGEST_GROUPED, grouped_attention, use_grouped_attention
    from ripcurrent.models._describe import ModelInfo, describe
    from ripcurrent.models._device import (
        AUTO_DEVICE,
        WEIGHTS_SHARE,
        WEIGHTS_SHARE_WITH_DIRECTIONS,
        choose_device,
        choose_dtype,
        sum_in_float32,
    )
    from ripcurrent.models._embedded import EMBEDDED, EMBEDDED_BARE, embedded_gguf, guard_adapter
    from ripcurrent.models._freed_memory import FreedMemory, give_back_freed_memory
    from ripcurrent.models._gguf import cache_folder
    from ripcurrent.models._identity import combine_sha256, config_sha256, file_sha256
    from ripcurrent.models._load import load_model
    from ripcurrent.models._memory_use import device_peak, memory_in_use, peak_bytes, process_peak, reset_peak
    from ripcurrent.models._messages import first_line, is_out_of_memory
    from ripcurrent.models._quiet import quiet_libraries
    from ripcurrent.models._source import (
        ADAPTER_CONFIG,
        ADAPTER_WEIGHTS,
        Source,
        find_adapter,
        find_model,
        weight_files,
    )
    from ripcurrent.models._template import require_chat_template, tokenizer_sha256
    from ripcurrent.models._types import Attention, ChatModel, Scope
    from ripcurrent.models._variables import split_variables

_HOMES = {
    "_adapter": "adapter_sha256 attach_fresh_lora merge_adapter named_base",
    "_attention": "LONGEST_GROUPED grouped_attention use_grouped_attention",
    "_describe": "ModelInfo describe",
    "_device": "AUTO_DEVICE WEIGHTS_SHARE WEIGHTS_SHARE_WITH_DIRECTIONS choose_device choose_dtype sum_in_float32",
    "_embedded": "EMBEDDED EMBEDDED_BARE embedded_gguf guard_adapter",
    "_freed_memory": "FreedMemory give_back_freed_memory",
    "_gguf": "cache_folder",
    "_identity": "combine_sha256 config_sha256 file_sha256",
    "_load": "load_model",
    "_memory_use": "device_peak memory_in_use peak_bytes process_peak reset_peak",
    "_messages": "first_line is_out_of_memory",
    "_quiet": "quiet_libraries",
    "_source": "ADAPTER_CONFIG ADAPTER_WEIGHTS Source find_adapter find_model weight_files",
    "_template": "require_chat_template tokenizer_sha256",
    "_types": "Attention ChatModel Scope",
    "_variables": "split_variables",
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_WEIGHTS",
    "AUTO_DEVICE",
    "EMBEDDED",
    "EMBEDDED_BARE",
    "LONGEST_GROUPED",
    "WEIGHTS_SHARE",
    "WEIGHTS_SHARE_WITH_DIRECTIONS",
    "Attention",
    "ChatModel",
    "FreedMemory",
    "ModelInfo",
    "Scope",
    "Source",
    "adapter_sha256",
    "attach_fresh_lora",
    "cache_folder",
    "choose_device",
    "choose_dtype",
    "combine_sha256",
    "config_sha256",
    "describe",
    "device_peak",
    "embedded_gguf",
    "file_sha256",
    "find_adapter",
    "find_model",
    "first_line",
    "give_back_freed_memory",
    "grouped_attention",
    "guard_adapter",
    "is_out_of_memory",
    "load_model",
    "memory_in_use",
    "merge_adapter",
    "named_base",
    "peak_bytes",
    "process_peak",
    "quiet_libraries",
    "require_chat_template",
    "reset_peak",
    "split_variables",
    "sum_in_float32",
    "tokenizer_sha256",
    "use_grouped_attention",
    "weight_files",
]

# hidden from type checkers, which would otherwise let every misspelt name pass
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        return value
