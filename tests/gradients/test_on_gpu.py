"""What a GPU computes is what a processor computes: ``make test-gpu``, where PyTorch can use one."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ripcurrent as rc
from ripcurrent.gradients import FeatureReader, GradientPass, make_batch, stack_directions
from ripcurrent.models import ChatModel, attach_fresh_lora, sum_in_float32
from ripcurrent.scan import ScanRun, scan
from ripcurrent.scan._signal_stage import SignalStage
from ripcurrent.statistics import spearman
from tests.gradients.all_signals import apart, computed, rows_of
from tests.gradients.oracle import chat_model, random_directions
from tests.gradients.test_halving import assert_same, fresh, make_stage, rows
from tests.models.tiny import tiny_model
from tests.scan_fixtures import anchors_file, no_page, shared_cache, tiny_folder
from tests.tiny_scan import good_rows, small_shards, write_jsonl

__all__ = ["anchors_file", "no_page", "shared_cache", "tiny_folder"]
"""Fixtures."""

CASES = ("llama_tied", "llama_untied", "gpt2", "gemma2", "qwen2", "mistral", "phi3", "llama_tied lora")
TOLERANCE = 1e-4

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
def test_every_signal_is_the_processors(case: str, factored: bool, gpu: torch.device) -> None:
    """Rows begin alike, so that what they share passes once; directions, anchors and token shares are among it."""
    expected, found = (computed(on(device, case), factored) for device in (torch.device("cpu"), gpu))
    differences = {name: apart(expected[name], values) for name, values in found.items()}
    assert {name: far for name, far in differences.items() if not far < TOLERANCE} == {}


@pytest.mark.parametrize("case", ["llama_tied", "qwen2"])
def test_in_bfloat16_rows_keep_their_order(case: str, gpu: torch.device) -> None:
    cosines = []
    for device, dtype in ((torch.device("cpu"), torch.float32), (gpu, torch.bfloat16)):
        model = on(device, case, dtype)
        gradient_pass = GradientPass(model)
        plain = random_directions(tiny_model(case), set(gradient_pass.layers.parameter_shapes()))
        directions = stack_directions(gradient_pass.layers, plain, dtype)
        signals = gradient_pass.measure(make_batch(rows_of(4, 64), device), directions)
        assert signals.dots is not None
        assert signals.squared_norm is not None
        cosines.append(signals.dots / np.sqrt(signals.squared_norm)[:, None])
    assert min(spearman(cosines[0][:, side], cosines[1][:, side]) for side in (0, 1)) > 0.99


def test_a_card_that_is_too_small_gets_smaller_batches(gpu: torch.device) -> None:
    """The card's own error, not an imitation."""
    stage, many = make_stage(), rows(1200)
    usual = fresh(stage, token_budget=512)(many)
    moved = replace(stage.chat_model, model=copy.deepcopy(stage.chat_model.model).to(gpu), device=gpu)
    assert stage.directions is not None
    directions = replace(
        stage.directions,
        linear={key: tensor.to(gpu) for key, tensor in stage.directions.linear.items()},
        other={name: tensor.to(gpu) for name, tensor in stage.directions.other.items()},
    )
    there: dict[str, Any] = {"chat_model": moved, "gradient_pass": GradientPass(moved), "directions": directions}
    tight: SignalStage = fresh(stage, **there, features=FeatureReader(moved), token_budget=2**20)
    whole = torch.cuda.get_device_properties(gpu).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(gpu) + 200 * 2**20) / whole, gpu)
    try:
        found = tight(many)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, gpu)
    assert tight.halving.batches_halved > 0
    assert_same(usual, found)


def test_a_scan_leaves_what_one_on_the_processor_leaves(
    tmp_path: Path, tiny_folder: Path, anchors_file: Path, no_page: None
) -> None:
    dataset = write_jsonl(tmp_path / "rows.jsonl", good_rows(40))
    options = small_shards(tiny_folder, anchors_file)

    def scanned(name: str, **changes: Any) -> ScanRun:
        return scan(dataset, tmp_path / name, **{**options, **changes})

    usual = scanned("cpu").scores()
    budget: dict[str, Any] = {"device": "cuda", "memory": "4GB", "tokens": "top:3"}
    for found in (scanned("gpu", **budget), scanned("auto", device="auto")):
        for name in ("gradient_bidirectional", "representation_bidirectional", "loss"):
            difference = np.abs(usual[name].to_numpy() - found.scores()[name].to_numpy())
            assert difference.max() < 1e-4, name
        assert found.manifest["memory"]["device_peak_bytes"] > 0
    within = rc.load_tokens(tmp_path / "gpu")
    assert len(within["row"].unique()) == 6
