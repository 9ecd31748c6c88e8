"""Chat models: loading them from a hub id, a folder, a GGUF file or a package, with device and type chosen.

Names are loaded when first used: most of them import torch, and a reader of manifests needs `ModelInfo` alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ripcurrent.lazy import lazily

if TYPE_CHECKING:
    from ripcurrent.models._adapter import adapter_sha256, attach_fresh_lora, merge_adapter, named_base
    from ripcurrent.models._attention import use_grouped_attention
    from ripcurrent.models._device import (
        AUTO_DEVICE,
        WEIGHTS_SHARE,
        WEIGHTS_SHARE_WITH_DIRECTIONS,
        choose_device,
        choose_dtype,
        sum_in_float32,
    )
    from ripcurrent.models._gguf import cache_folder
    from ripcurrent.models._identity import combine_sha256, config_sha256, file_sha256
    from ripcurrent.models._libraries import first_line, is_out_of_memory, quiet_libraries
    from ripcurrent.models._load import load_model
    from ripcurrent.models._memory import (
        FreedMemory,
        device_peak,
        give_back_freed_memory,
        memory_in_use,
        peak_bytes,
        process_peak,
        reset_peak,
    )
    from ripcurrent.models._source import (
        ADAPTER_CONFIG,
        ADAPTER_WEIGHTS,
        EMBEDDED,
        EMBEDDED_BARE,
        Source,
        embedded_gguf,
        find_adapter,
        find_model,
        guard_adapter,
        weight_files,
    )
    from ripcurrent.models._template import require_chat_template, split_variables, tokenizer_sha256
    from ripcurrent.models._types import Attention, ChatModel, ModelInfo, Scope, describe

__all__ = [
    "ADAPTER_CONFIG", "ADAPTER_WEIGHTS", "AUTO_DEVICE", "EMBEDDED", "EMBEDDED_BARE",
    "WEIGHTS_SHARE", "WEIGHTS_SHARE_WITH_DIRECTIONS", "Attention", "ChatModel", "FreedMemory", "ModelInfo", "Scope",
    "Source", "adapter_sha256", "attach_fresh_lora", "cache_folder", "choose_device", "choose_dtype",
    "combine_sha256", "config_sha256", "describe", "device_peak", "embedded_gguf", "file_sha256", "find_adapter",
    "find_model", "first_line", "give_back_freed_memory", "guard_adapter", "is_out_of_memory",
    "load_model", "memory_in_use", "merge_adapter", "named_base", "peak_bytes", "process_peak", "quiet_libraries",
    "require_chat_template", "reset_peak", "split_variables", "sum_in_float32", "tokenizer_sha256",
    "use_grouped_attention", "weight_files",
]  # fmt: skip

_HOMES = {
    "_adapter": "adapter_sha256 attach_fresh_lora merge_adapter named_base",
    "_attention": "use_grouped_attention",
    "_device": "AUTO_DEVICE WEIGHTS_SHARE WEIGHTS_SHARE_WITH_DIRECTIONS choose_device choose_dtype sum_in_float32",
    "_gguf": "cache_folder",
    "_identity": "combine_sha256 config_sha256 file_sha256",
    "_libraries": "first_line is_out_of_memory quiet_libraries",
    "_load": "load_model",
    "_memory": "FreedMemory device_peak give_back_freed_memory memory_in_use peak_bytes process_peak reset_peak",
    "_source": "ADAPTER_CONFIG ADAPTER_WEIGHTS EMBEDDED EMBEDDED_BARE Source embedded_gguf find_adapter find_model "
    "guard_adapter weight_files",
    "_template": "require_chat_template split_variables tokenizer_sha256",
    "_types": "Attention ChatModel ModelInfo Scope describe",
}

# hidden from type checkers, which would otherwise let every misspelt name pass
if not TYPE_CHECKING:
    __getattr__ = lazily(__name__, {module: names.split() for module, names in _HOMES.items()})
