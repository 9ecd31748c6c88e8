"""Tiny random chat models and a tokenizer for them, made on the fly: nothing is downloaded, nothing stored.

``tiny_model(kind)`` gives a 2- or 3-layer model whose norm weights and biases are random too, so that a formula that
forgets one of them fails. ``tiny_tokenizer()`` is a byte-level BPE of the same vocabulary size with a ChatML template.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

VOCAB_SIZE = 300
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = [END_OF_TEXT, TURN_START, TURN_END]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = [
    "user asks the assistant how to bake bread, and the assistant lists the steps.",
    "system: answer in one short line. user: what is seven times eight? assistant: fifty-six.",
    "The river ran past the old mill while the children counted boats.",
    "Sure, here is a list of three things to pack for the hills: water, a map and a warm coat.",
    "I am sorry, but that is not a thing that the assistant can help with.",
]


@lru_cache(maxsize=1)
def _trained_bpe() -> str:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    return str(tokenizer.to_str())


def tiny_tokenizer(*, chat_template: str | None = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    """A fresh byte-level BPE tokenizer: 300 tokens, ChatML template, ``<|im_end|>`` = eos, no bos, pad = eos."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained_bpe()),
        eos_token=TURN_END,
        pad_token=TURN_END,
        additional_special_tokens=[END_OF_TEXT, TURN_START],
        model_max_length=1_000_000,
    )
    tokenizer.chat_template = chat_template
    return tokenizer


# The wide initialisation keeps logits, and so gradients, far from the trivial near-uniform model.
_ENDS: dict[str, Any] = {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": 2}
_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096, "initializer_range": 0.15,
    **_ENDS,
}  # fmt: skip
_HEADS8 = {**_COMMON, "head_dim": 8}
_SLIDING = {**_HEADS8, "query_pre_attn_scalar": 8, "sliding_window": 16}
_WINDOW, _FULL = "sliding_attention", "full_attention"
_SOFT_CAPS = {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0}
_BIASES = {"attention_bias": True, "mlp_bias": True}
_MULTIPLIERS = {
    "embedding_multiplier": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2, "logits_scaling": 3.0
}  # fmt: skip
_SIZES = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}

_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama_tied": ("LlamaConfig", {**_COMMON, "tie_word_embeddings": True}),
    "llama_untied": ("LlamaConfig", {**_COMMON, "num_hidden_layers": 3, "tie_word_embeddings": False, **_BIASES}),
    "qwen2": ("Qwen2Config", {**_COMMON, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {**_HEADS8, "num_hidden_layers": 3, "tie_word_embeddings": False}),
    "gemma": ("GemmaConfig", _HEADS8),
    "gemma2": ("Gemma2Config", {**_SLIDING, "layer_types": [_WINDOW, _FULL], **_SOFT_CAPS}),
    "gemma3": ("Gemma3TextConfig", {**_SLIDING, "num_hidden_layers": 3, "layer_types": [_WINDOW, _WINDOW, _FULL]}),
    "gpt2": ("GPT2Config", {"vocab_size": VOCAB_SIZE, "initializer_range": 0.15, **_SIZES, **_ENDS}),
    "mistral": ("MistralConfig", {**_COMMON, "sliding_window": None}),
    "phi3": ("Phi3Config", {**_COMMON, "tie_word_embeddings": False}),
    "cohere": ("CohereConfig", {**_COMMON, "logit_scale": 0.25}),
    "granite": ("GraniteConfig", {**_COMMON, **_MULTIPLIERS}),
}
KINDS = tuple(_CONFIGS)
"""What ``tiny_model`` can make. ``llama_untied`` has attention and MLP biases; ``gemma2`` soft caps and a window;
``cohere`` layer norms of a class of their own; ``granite`` multipliers everywhere."""


def tiny_model(kind: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A random model of ``kind``, in eval mode on the CPU; parameters still require gradients.

    The same ``kind`` and ``seed`` give the same weights. GPT-2 takes at most 512 tokens. Gemma 2 runs with eager
    attention, which alone applies its soft cap; the others with sdpa.
    """
    name, settings = _CONFIGS[kind]
    config = getattr(transformers, name)(**settings)
    attention = "eager" if kind == "gemma2" else "sdpa"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.3 * torch.randn_like(parameter))
    for parameter in model.parameters():
        # Not model.to(): it would round the rotary frequencies too, which loading in a lower type does not.
        parameter.data = parameter.data.to(dtype)
    return model.eval()


def save_tiny(
    folder: Path, kind: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, chat_template: bool = True
) -> Path:
    """Write a tiny model and its tokenizer into ``folder`` as a user would have them; returns ``folder``."""
    tiny_model(kind, seed=seed, dtype=dtype).save_pretrained(folder)
    tiny_tokenizer(chat_template=CHAT_TEMPLATE if chat_template else None).save_pretrained(folder)
    return folder


def write_tiny_gguf(
    path: Path,
    model: PreTrainedModel,
    *,
    scaling: tuple[gguf.RopeScalingType, float] | None = None,
    more: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Write a bias-free Llama and the tiny tokenizer as llama.cpp's converter lays them out; returns ``path``.

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
        weight = parameter.detach().numpy()
        if "q_proj" in name or "k_proj" in name:
            # llama.cpp rotates neighbouring pairs, transformers halves: the converter reorders the rows of q and k
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            pairs = weight.reshape(heads, 2, len(weight) // heads // 2, -1)
            weight = np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(weight.shape))
        writer.add_tensor(names.get_name(name, [".weight"]), weight)
    for name, tensor in (more or {}).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
