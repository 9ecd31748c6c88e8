"""What a GPU computes is what a CPU computes: ``make test-gpu``, where PyTorch can use one."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import ripcurrent as rc
from ripcurrent.gradients import GradientPass, Halving, make_batch
from ripcurrent.models import ChatModel, attach_fresh_lora, sum_in_float32
from ripcurrent.statistics import spearman
from tests.gradients.oracle import apart, chat_model, computed, random_rows, random_stack, rows_of
from tests.gradients.test_halving import assert_close, measured
from tests.models.tiny import tiny_model
from tests.scan_fixtures import anchors_file, good_rows, shared_cache, small_shards, tiny_folder, write_jsonl

__all__ = ["anchors_file", "shared_cache", "tiny_folder"]
"""Fixtures."""

CASES = ("llama_tied", "llama_untied", "gpt2", "gemma2", "qwen2", "mistral", "phi3", "llama_tied lora")
CPU = torch.device("cpu")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that PyTorch can use"),
]


@pytest.fixture(autouse=True)
def gpu() -> Iterator[torch.device]:
    """The first one, summing in float32 as the product has it."""
    sum_in_float32()
    yield torch.device("cuda", 0)
    torch.cuda.empty_cache()


def on(device: torch.device, case: str, dtype: torch.dtype = torch.float32) -> ChatModel:
    kind, _, lora = case.partition(" ")
    model: Any = tiny_model(kind)
    if lora:
        model = attach_fresh_lora(model, rank=2, seed=0)
    found = chat_model(model.eval().to(device, dtype), "lora" if lora else "all")
    return replace(found, device=device, dtype=dtype)


@pytest.mark.parametrize("factored", [False, True], ids=["dense", "factored"])
@pytest.mark.parametrize("case", CASES)
def test_every_signal_is_the_cpus(case, factored, gpu):
    """Rows begin alike, so that what they share passes once; directions, anchors and token shares are among it."""
    expected, found = (computed(on(device, case), factored) for device in (CPU, gpu))
    differences = {name: apart(expected[name], values) for name, values in found.items()}
    assert {name: far for name, far in differences.items() if not far < 1e-4} == {}


@pytest.mark.parametrize("case", ["llama_tied", "qwen2"])
def test_in_bfloat16_rows_keep_their_order(case, gpu):
    cosines = []
    for device, dtype in ((CPU, torch.float32), (gpu, torch.bfloat16)):
        gradient_pass = GradientPass(on(device, case, dtype))
        directions = random_stack(tiny_model(case), gradient_pass)
        signals = gradient_pass.measure(make_batch(rows_of(4, 64), device), directions)
        cosines.append(signals.dots / np.sqrt(signals.squared_norm)[:, None])
    assert min(spearman(cosines[0][:, side], cosines[1][:, side]) for side in (0, 1)) > 0.99


def test_a_card_that_is_too_small_gets_smaller_batches(gpu):
    """The card's own error, not an imitation."""
    model, many = tiny_model("llama_tied"), random_rows(np.random.default_rng(2), 1200, longest=60)
    on_gpu = replace(chat_model(copy.deepcopy(model).to(gpu)), device=gpu)
    usual, _ = measured((one := GradientPass(chat_model(model)), random_stack(model, one)), Halving(), many, room=512)
    tiny = (two := GradientPass(on_gpu), random_stack(model, two))
    torch.cuda.empty_cache()
    halving, total = Halving(), torch.cuda.get_device_properties(gpu).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(gpu) + 200 * 2**20) / total, gpu)
    try:
        found, _ = measured(tiny, halving, many)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, gpu)
    assert halving.batches_halved > 0
    assert_close(found, usual)


def test_a_scan_leaves_what_one_on_the_cpu_leaves(tmp_path, tiny_folder, anchors_file):
    dataset = write_jsonl(tmp_path / "rows.jsonl", good_rows(40))
    options = small_shards(tiny_folder, anchors_file)
    usual = rc.scan(dataset, tmp_path / "cpu", **options)
    on_gpu: dict[str, Any] = {**options, "device": "cuda", "memory": "4GB", "tokens": "top:3"}
    found = rc.scan(dataset, tmp_path / "gpu", **on_gpu)
    for column in ("gradient_bidirectional", "representation_bidirectional", "loss"):
        assert np.abs(usual.floats(column) - found.floats(column)).max() < 1e-4, column
    assert len(rc.load_tokens(tmp_path / "gpu")["row"].unique()) == 6
