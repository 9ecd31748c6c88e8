"""Chat models: loading them from a hub id, a folder, a GGUF file or a package, with device and type chosen.

Importing this room imports torch and transformers.
"""

from ripcurrent.models._describe import count_parameters, describe
from ripcurrent.models._freed_memory import FreedMemory, give_back_freed_memory
from ripcurrent.models._gguf import cache_folder
from ripcurrent.models._identity import file_sha256
from ripcurrent.models._load import load_model
from ripcurrent.models._memory_use import device_peak, memory_in_use, peak_bytes, process_peak, reset_peak
from ripcurrent.models._quiet import quiet_libraries
from ripcurrent.models._template import require_chat_template
from ripcurrent.models._types import Attention, ChatModel, Scope

__all__ = [
    "Attention",
    "ChatModel",
    "FreedMemory",
    "Scope",
    "cache_folder",
    "count_parameters",
    "describe",
    "device_peak",
    "file_sha256",
    "give_back_freed_memory",
    "load_model",
    "memory_in_use",
    "peak_bytes",
    "process_peak",
    "quiet_libraries",
    "require_chat_template",
    "reset_peak",
]
