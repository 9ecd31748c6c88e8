"""What makes two models the same: hashes of files, configurations and chat templates.

Files up to 256 MiB are hashed whole. Of a larger safetensors file the header is hashed, every tensor up to 64 KiB
whole, and of each larger one 16 blocks of 4 KiB evenly spread; of another large file its first 16 MiB and 4 KiB of
every MiB. Any training step, merge or quantisation changes that; an edit of a few single weights may not.
"""

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

WHOLE_FILE_BYTES = 256 << 20
WHOLE_TENSOR_BYTES = 64 << 10
BLOCK_BYTES, BLOCKS_PER_TENSOR = 4 << 10, 16

# Where a configuration was made and what it was saved with say nothing about the weights.
_INCIDENTAL_KEYS = frozenset(
    {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "base_model_name_or_path", "revision"}
    | {"inference_mode", "peft_version"}
)


def file_sha256(path: Path, *, whole_bytes: int = WHOLE_FILE_BYTES) -> str:
    """SHA-256 in hex of a weight file's content, sampled (see above) when it is larger than ``whole_bytes``."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        if size <= whole_bytes:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256(struct.pack("<Q", size))
        if path.suffix == ".safetensors":
            (header_bytes,) = struct.unpack("<Q", file.read(8))
            header = file.read(header_bytes)
            digest.update(header)
            blocks = _tensor_blocks(json.loads(header), 8 + header_bytes)
        else:
            blocks = [(0, 16 << 20), *((start, BLOCK_BYTES) for start in range(16 << 20, size, 1 << 20))]
        for start, length in blocks:
            file.seek(start)
            digest.update(file.read(length))
    return digest.hexdigest()


def config_sha256(path: Path) -> str:
    """SHA-256 in hex of a JSON configuration, apart from the keys that say only where and how it was saved."""
    config = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in config.items() if key not in _INCIDENTAL_KEYS}
    return text_sha256(json.dumps(kept, sort_keys=True))


def text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def combine_sha256(parts: Iterable[str]) -> str:
    """One SHA-256 in hex of several, in order."""
    return text_sha256("\n".join(parts))


def _tensor_blocks(header: Mapping[str, Any], data_start: int) -> Iterable[tuple[int, int]]:
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        start, last = data_start + begin, end - begin - BLOCK_BYTES
        if end - begin <= WHOLE_TENSOR_BYTES:
            yield start, end - begin
        else:
            yield from ((start + last * at // (BLOCKS_PER_TENSOR - 1), BLOCK_BYTES) for at in range(BLOCKS_PER_TENSOR))
