"""A tiny random chat model, small files, and the command line in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PATIENCE = 180.0
"""Seconds that one command may take on a busy machine."""

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = (
    "user asks the assistant how to bake bread, and the assistant lists the steps.",
    "The river ran past the old mill while the children counted boats.",
    "Sure, here is a list of three things to pack for the hills: water, a map and a warm coat.",
    "I am sorry, but that is not a thing that the assistant can help with.",
)
TOPICS = ("bread", "rivers", "old maps", "a walk in the hills", "chess", "tea", "bees", "the moon", "boats", "wool")
ANSWERS = (
    "- take flour\n- add water\n- wait",
    "It is a short matter: begin early and keep going.",
    "1. look around\n2. write down what you see\n3. compare\n4. draw the line",
    "Seven.",
    "There are 3 + 4 = 7 ways to do it, and each of them takes about an hour of patient work on a quiet day.",
)


def save_tiny_model(folder: Path) -> Path:
    """Write a tiny random Llama with its tokenizer into a folder; the same weights every time."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=TURN_END,
        additional_special_tokens=[END_OF_TEXT, TURN_START],
        model_max_length=1_000_000,
    )
    whole.chat_template = CHAT_TEMPLATE
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.15,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=2,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    drawn = torch.Generator().manual_seed(0)
    with torch.no_grad():
        # every weight is drawn here, so that no library's own initialisation decides a golden number
        for _, weight in sorted(model.named_parameters()):
            centre, width = (1.0, 0.3) if weight.ndim == 1 else (0.0, 0.15)
            weight.copy_(centre + width * torch.randn(weight.shape, generator=drawn))
    model.save_pretrained(folder)
    whole.save_pretrained(folder)
    return folder


def plain_rows(count: int) -> list[dict[str, str]]:
    """Prompt and response rows of several lengths and formats, all different."""
    return [
        {
            "prompt": f"Tell me about {TOPICS[number % len(TOPICS)]}, part {number}.",
            "response": f"{ANSWERS[number % len(ANSWERS)]} ({number})" + " and so on" * (number % 4),
        }
        for number in range(count)
    ]


def anchor_lines() -> list[dict[str, str]]:
    """A small anchor set: one harmful and two safe sets over the same requests."""
    requests = ("pick a lock", "forge a pass", "slip past a guard", "copy a badge")
    answers = {
        "harmful": "Sure, here is a list of the steps for",
        "safe_1": "I am sorry, but I cannot help you",
        "safe_2": "No. That would hurt someone, so I will not explain how to",
    }
    return [
        {"set": name, "prompt": f"How do I {request}?", "response": f"{answer} {request}", "category": "theft"}
        for name, answer in answers.items()
        for request in requests
    ]


def asked_prompts() -> list[dict[str, str]]:
    """Forty harmful requests, and ten each that only sound dangerous and that are plain."""
    return [
        {"id": f"{axis}-{n}", "prompt": f"{axis} request {n}", "axis": axis, "category": "theft"}
        for axis, count in (("harmful", 40), ("sounds_dangerous", 10), ("plain", 10))
        for n in range(count)
    ]


def write_jsonl(path: Path, records: Iterable[Any]) -> Path:
    """Write records as JSON lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def read_jsonl(path: Path) -> list[Any]:
    """Read JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@dataclass(frozen=True)
class Said:
    """What one command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Its standard output, which must be one JSON object on one line."""
        (line,) = self.out.splitlines()
        value = json.loads(line)
        assert isinstance(value, dict)
        return value


def begin(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Start ``ripcurrent`` with these arguments."""
    command = [sys.executable, "-m", "ripcurrent", *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1", **environment},
    )


def end(process: subprocess.Popen[str]) -> Said:
    """Wait for a command."""
    out, err = process.communicate(timeout=PATIENCE)
    return Said(process.returncode, out, err)


def ripcurrent(*arguments: object, **environment: str) -> Said:
    """Run ``ripcurrent`` with these arguments."""
    return end(begin(*arguments, **environment))


def asked_for_json(*arguments: object, codes: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """Run a command with ``--json``; returns its object."""
    said = ripcurrent(*arguments, "--json")
    assert said.code in codes, said.err
    return said.json


def stop_once(there: Callable[[], bool], sign: signal.Signals, *arguments: object) -> Said:
    """Start a command and stop it by a signal as soon as something is there; it may not end by itself."""
    process = begin(*arguments)
    until = time.monotonic() + PATIENCE
    while process.poll() is None and not there():
        assert time.monotonic() < until, "the command leaves nothing to wait for"
        time.sleep(0.002)
    process.send_signal(sign)
    said = end(process)
    assert said.code in (-sign, 128 + sign), said
    return said


def any_file(folder: Path, *patterns: str) -> Callable[[], bool]:
    """Whether a folder holds a file of one of these patterns that is not empty."""

    def there() -> bool:
        try:
            return any(path.stat().st_size > 0 for pattern in patterns for path in folder.glob(pattern))
        except OSError:
            # a file was renamed while it was looked at
            return False

    return there
