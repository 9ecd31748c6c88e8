"""A real chat endpoint for tests: ``transformers serve`` with a model from a folder, in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.models.tiny import tiny_tokenizer

START_SECONDS = 120


@contextmanager
def serving(model: str | Path) -> Iterator[str]:
    """Base URL of a server with this one model, ready for requests."""
    port = free_port()
    log = Path(os.environ.get("PYTEST_TMP", "/tmp")) / f"transformers-serve-{port}.log"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model)]
    with log.open("w") as output:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        try:
            _wait(server, f"http://127.0.0.1:{port}/health", log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            try:
                server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
            log.unlink(missing_ok=True)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(server: subprocess.Popen[bytes], health: str, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RuntimeError(f"transformers serve ended with {server.returncode}:\n{log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(health, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"transformers serve did not start in {START_SECONDS} s:\n{log.read_text()[-2000:]}")


def save_grader(folder: Path, *, marker: str, marked: str, unmarked: str) -> Path:
    """Write a chat model that replies ``marked`` where ``marker`` stands in what it reads, else ``unmarked``.

    Marker and replies are tokens of their own. Attention is uniform and carries only whether there was a marker; the
    newline that opens an answer brings the reply, a reply brings the end of the turn.
    """
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([marker, marked, unmarked])
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=16_384,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).float()
    newline, marker_id, marked_id, unmarked_id = tokenizer.convert_tokens_to_ids(["Ċ", marker, marked, unmarked])
    at_newline, has_replied, saw_marker = 0, 1, 2
    layer = model.model.layers[0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for norm in (model.model.norm, layer.input_layernorm, layer.post_attention_layernorm):
            norm.weight.fill_(1.0)
        layer.self_attn.v_proj.weight[0, saw_marker] = 1.0
        layer.self_attn.o_proj.weight[saw_marker, 0] = 1.0
        embeddings, head = model.model.embed_tokens.weight, model.lm_head.weight
        embeddings[newline, at_newline] = embeddings[marker_id, saw_marker] = 1.0
        embeddings[[marked_id, unmarked_id], has_replied] = 1.0
        head[unmarked_id, at_newline] = 1.0
        head[marked_id, saw_marker] = 1e5
        head[tokenizer.eos_token_id, has_replied] = 1e9
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
