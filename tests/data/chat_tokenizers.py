"""Small tokenizers of the kinds that chat models have, trained on the spot, each with a chat template of its family."""

import functools
import json
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "The harbour was quiet and the boats lay still in the morning light.",
    "Here are three ways to keep a kitchen tidy: 1. Wash up. 2. Wipe the table. 3. Sweep the floor.",
    "Please tell me how the tide works, and why the water goes out so far.",
    "Sure, here is a short plan for the week; it begins on Monday and ends on Friday.",
    "User: Assistant: system user assistant model [INST] [/INST]\n\n",
] * 20

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}"
    "{% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}"
    "{% else %}{% set rest = messages %}{% set system = '' %}{% endif %}"
    "{% for m in rest %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + (system if loop.first else '') + m['content'].strip()"
    " + ' [/INST]' }}{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\\n' + (m['content'] | trim) + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n'"
    " + (m['content'] | trim) + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
PHI = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)
MARKED = (
    "{% if tools %}{{ '<|im_start|>system\\n' + (tools | tojson) + '<|im_end|>\\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}{% if m['role'] == 'assistant' %}{% generation %}"
    "{% if m['reasoning_content'] and keep_reasoning %}{{ '<think>' + m['reasoning_content'] + '</think>' }}{% endif %}"
    "{{ m['content'] or '' }}{% for call in m['tool_calls'] or [] %}{{ '<call>' + (call['function'] | tojson) }}"
    "{% endfor %}{{ '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}{% else %}{{ m['content'] + '<|im_end|>\\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
PLAIN = (
    "{% for m in messages %}{{ 'User: ' if m['role'] == 'user' else 'Assistant: ' }}{{ m['content'] + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
)


_wrap: Any = functools.partial(PreTrainedTokenizerFast, bos_token="<s>", eos_token="</s>", name_or_path="tiny")


def byte_level(template: str | None, specials: list[str], *, trim_offsets: bool = False) -> Any:
    """Byte-level BPE, as GPT-2, Llama 3, Qwen and SmolLM have; BOS before plain text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=500, special_tokens=["<s>", "</s>", *specials], initial_alphabet=alphabet, show_progress=False
        ),
    )
    bos = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
    trimming = [processors.ByteLevel(trim_offsets=True)] if trim_offsets else []
    tokenizer.post_processor = processors.Sequence([*trimming, bos])
    return _wrap(tokenizer_object=tokenizer, chat_template=template)


def sentence_piece(template: str, specials: list[str], *, prepend: bool) -> Any:
    """BPE over text whose spaces are ▁, with bytes for what is unknown, as Llama 2, Mistral and Gemma have."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    spaces: list[Any] = [normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence(([normalizers.Prepend("▁")] if prepend else []) + spaces)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.train_from_iterator(
        (word for line in CORPUS for word in line.replace(" ", " ▁").split()),
        trainers.BpeTrainer(vocab_size=700, special_tokens=["<unk>", "<s>", "</s>", *specials], show_progress=False),
    )
    # The bytes have to be in the model's own vocabulary for the fallback to find them.
    state = json.loads(tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    return _wrap(tokenizer_object=Tokenizer.from_str(json.dumps(state)), chat_template=template)


_BUILDERS: dict[str, Any] = {
    "chatml": lambda: byte_level(CHATML, ["<|im_start|>", "<|im_end|>"]),
    "chatml-trimmed": lambda: byte_level(CHATML, ["<|im_start|>", "<|im_end|>"], trim_offsets=True),
    "llama3": lambda: byte_level(LLAMA3, ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]),
    "llama2": lambda: sentence_piece(LLAMA2, [], prepend=True),
    "mistral": lambda: sentence_piece(MISTRAL, [], prepend=True),
    "gemma": lambda: sentence_piece(GEMMA, ["<start_of_turn>", "<end_of_turn>"], prepend=False),
    "phi": lambda: byte_level(PHI, ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]),
    "marked": lambda: byte_level(MARKED, ["<|im_start|>", "<|im_end|>"]),
    "plain": lambda: byte_level(PLAIN, []),
    "none": lambda: byte_level(None, []),
}
FAMILIES = ("chatml", "chatml-trimmed", "llama2", "mistral", "gemma", "phi")
"""Families whose turns are set apart by special tokens or brackets."""


@functools.cache
def build(family: str) -> Any:
    """The tokenizer of that family."""
    return _BUILDERS[family]()
