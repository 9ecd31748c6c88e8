"""Write a tiny Llama as a GGUF file, the way llama.cpp's converter lays it out."""

import json
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
from transformers import PreTrainedModel

from tests.models.tiny import CHAT_TEMPLATE, SPECIAL_TOKENS, _trained_bpe


def write_tiny_gguf(
    path: Path,
    model: PreTrainedModel,
    *,
    scaling: tuple[gguf.RopeScalingType, float] | None = None,
    more: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Write a bias-free Llama and the tiny tokenizer to ``path`` with float32 tensors; returns ``path``.

    ``scaling`` is of the rotary positions; ``more`` are tensors besides, by name.
    """
    config = model.config
    bpe = json.loads(_trained_bpe())["model"]
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].__getitem__)
    writer = gguf.GGUFWriter(path, "llama")
    settings = {
        "name": "tiny",
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "head_count": config.num_attention_heads,
        "head_count_kv": config.num_key_value_heads,
        "rope_dimension_count": config.hidden_size // config.num_attention_heads,
        "rope_freq_base": config.rope_parameters["rope_theta"],
        **({} if scaling is None else {"rope_scaling_type": scaling[0], "rope_scaling_factor": scaling[1]}),
        "layer_norm_rms_eps": config.rms_norm_eps,
        "vocab_size": config.vocab_size,
        "tokenizer_model": "gpt2",
        "tokenizer_pre": "smollm",
        "token_list": tokens,
        "token_types": [gguf.TokenType.CONTROL if t in SPECIAL_TOKENS else gguf.TokenType.NORMAL for t in tokens],
        "token_merges": [" ".join(merge) for merge in bpe["merges"]],
        **{"bos_token_id": 1, "eos_token_id": 2, "unk_token_id": 0, "pad_token_id": 2, "add_bos_token": False},
        "chat_template": CHAT_TEMPLATE,
    }
    for name, value in settings.items():
        getattr(writer, f"add_{name}")(value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        writer.add_tensor(names.get_name(name, [".weight"]), _permuted(name, parameter.detach().numpy(), config))
    for name, tensor in (more or {}).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _permuted(name: str, weight: np.ndarray, config: object) -> np.ndarray:
    # llama.cpp rotates neighbouring pairs, transformers halves: the converter reorders the rows of q and k.
    if "q_proj" not in name and "k_proj" not in name:
        return weight
    heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
    pairs = weight.reshape(heads, 2, len(weight) // heads // 2, -1)
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(weight.shape))
