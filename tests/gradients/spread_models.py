"""Tiny models on one device and on two, the second a pretend one: prints how far all that is computed lies apart.

Run by test_spread_models.py in a process of its own: ``python -m tests.gradients.spread_models llama_tied gpt2``.
"""

import json
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from accelerate.hooks import attach_align_device_hook_on_blocks
from accelerate.utils import find_tied_parameters, retie_parameters

from tests.gradients.pretend_device import PRETEND  # isort: skip # before anything that keeps torch.inference_mode

from ripcurrent.evaluate import decode_greedily, read_prefix
from ripcurrent.models import ChatModel, attach_fresh_lora
from tests.gradients.oracle import apart, chat_model, computed
from tests.models.tiny import tiny_model

CPU = torch.device("cpu")
SPLITS = {"cpu_first": (CPU, PRETEND), "pretend_first": (PRETEND, CPU)}
"""Where embedding and first layers are, and where the last ones, the norm and an untied head are."""

SHARED = [5, 6, 7]


def spread(model: Any, first: torch.device, second: torch.device) -> None:
    """Cut a model in two by layers, as ``device_map="auto"`` does: accelerate's hooks move what goes in between."""
    parts: list[str] = []

    def walk(prefix: str, module: torch.nn.Module) -> None:
        for name, child in module.named_children():
            if isinstance(child, torch.nn.ModuleList) or name == model.base_model_prefix:
                walk(f"{prefix}{name}.", child)
            else:
                parts.append(f"{prefix}{name}")

    walk("", model)
    layers = [part for part in parts if part.rpartition(".")[2].isdigit()]
    middle = parts.index(layers[len(layers) // 2])
    places = {part: first if at < middle else second for at, part in enumerate(parts)}
    tied = find_tied_parameters(model)
    if tied:
        places["lm_head"] = first
    # dispatch_model would keep a processor's layers there only between two passes
    attach_align_device_hook_on_blocks(
        model,
        execution_device={**places, "": first},
        offload=dict.fromkeys(places, False),
        skip_keys=model._skip_keys_device_placement,
    )
    retie_parameters(model, tied)
    model.hf_device_map = places


def loaded(case: str, split: str | None) -> ChatModel:
    kind, _, lora = case.partition(" ")
    model: Any = tiny_model(kind)
    # GPT-2 would look for padding by an index that pretend tensors do not have
    model.config.pad_token_id = None
    if split is not None:
        spread(model, *SPLITS[split])
    if lora:
        model = attach_fresh_lora(model, rank=2, seed=0)
    model.eval()
    found = chat_model(model, "lora" if lora else "all")
    return replace(found, device=model.get_input_embeddings().weight.device, dtype=torch.float32)


def answers(model: ChatModel, stops: set[int]) -> list[list[int]]:
    """Greedy answers to three prompts; those that meet a stop leave the batch and the cache."""
    prompts = [[*SHARED, 8, 9, 10], [*SHARED, 30], [*SHARED, 40, 41, 42, 43, 44, 45]]
    prefix = read_prefix(model.model, SHARED)
    told = decode_greedily(model.model, prompts, max_new_tokens=7, stops=stops, prefix=prefix, pad=0)
    return [ids for ids, _ in told]


def main() -> None:
    """One line of JSON for each case and split."""
    torch.set_num_threads(1)
    for case in sys.argv[1:]:
        plain = loaded(case, None)
        free = answers(plain, set())
        stops = {free[0][1], free[1][3]}
        for split in SPLITS:
            spread_out = loaded(case, split)
            one, two = (computed(model, split == "cpu_first") for model in (loaded(case, None), spread_out))
            said = {
                "case": case,
                "split": split,
                "where": [str(device) for device in spread_out.devices],
                "apart": {name: apart(one[name], values) for name, values in two.items()},
                "size": {name: float(np.abs(one[name]).max()) for name in two},
                "answers": [answers(plain, stops), answers(spread_out, stops)],
            }
            print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
