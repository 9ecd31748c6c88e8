"""``--device auto``: what transformers is asked for, what the manifest says, and placements that are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from ripcurrent.errors import RipcurrentError
from ripcurrent.models import describe, load_model
from tests.models.tiny import save_tiny

FREE = {0: 10 * 10**9, 1: 20 * 10**9}
"""Pretended free memory of two GPUs."""


class Asked:
    """Loads on the processor whatever is asked for, and keeps what that was."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self.places: dict[str, Any] = {"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": 1}
        self.untied = False
        self.error: Exception | None = None
        self._load = AutoModelForCausalLM.from_pretrained

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.options = options
        if self.error is not None:
            raise self.error
        kept = {key: value for key, value in options.items() if key not in ("device_map", "max_memory")}
        model, loading = self._load(*arguments, **kept)
        model.hf_device_map = self.places
        if self.untied:
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
        return model, loading


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """A machine that says it has two GPUs; layers come onto the processor all the same."""
    found = Asked()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(FREE))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (FREE[number], 80 * 10**9))
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", found)
    return found


@pytest.fixture
def tied(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "tied", "llama_tied")


def load(folder: Path, **options: Any) -> Any:
    return load_model(folder, device="auto", dtype="float32", **options)


def test_two_gpus_share_a_models_layers_and_keep_room_free(asked: Asked, tied: Path) -> None:
    loaded = load(tied, weights_share=0.5)
    assert asked.options["device_map"] == "auto"
    assert asked.options["max_memory"] == {0: 5 * 10**9, 1: 10 * 10**9}
    # batches go where the embedding came, here the processor
    assert loaded.device == torch.device("cpu")


def test_a_named_device_is_one_device_on_a_machine_with_two(asked: Asked, tied: Path) -> None:
    loaded = load_model(tied, device="cpu", dtype="float32")
    assert "device_map" not in asked.options
    assert loaded.devices == (torch.device("cpu"),)


@pytest.mark.parametrize("gpus", [0, 1])
def test_with_one_gpu_or_none_it_is_as_if_nothing_was_named(
    gpus: int, asked: Asked, tied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    auto = load(tied)
    asked_of_auto = asked.options
    plain = load_model(tied, dtype="float32")
    for option in ("device_map", "max_memory"):
        assert asked_of_auto.get(option) == asked.options.get(option)
    assert auto.device == plain.device
    assert describe(auto) == describe(plain)


@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_a_layer_without_a_gpu_is_refused(place: str, asked: Asked, tied: Path) -> None:
    asked.places["model.layers.1"] = place
    with pytest.raises(RipcurrentError, match=r"tied does not fit on the 2 GPUs here: 1 of its parts") as caught:
        load(tied, weights_share=0.5)
    assert "model.layers.1" in caught.value.message
    assert "5.0 + 10.0 GB" in caught.value.message
    assert "--dtype bfloat16" in caught.value.hint


def test_a_layer_that_transformers_itself_cannot_leave_aside_is_refused_alike(asked: Asked, tied: Path) -> None:
    asked.error = ValueError("The current `device_map` had weights offloaded to the disk: provide an `offload_folder`.")
    with pytest.raises(RipcurrentError, match="does not fit on the 2 GPUs here"):
        load(tied)


def test_a_damaged_model_is_not_called_too_large(asked: Asked, tied: Path) -> None:
    asked.error = ValueError("the header is cut short")
    with pytest.raises(RipcurrentError, match="cannot be loaded: the header is cut short"):
        load(tied)


def test_a_shared_matrix_that_became_two_is_refused(asked: Asked, tied: Path) -> None:
    asked.untied = True
    with pytest.raises(RipcurrentError, match=r"embedding and the head of .* are one matrix, and became two"):
        load(tied)


def test_two_matrices_may_be_two(asked: Asked, tmp_path: Path) -> None:
    assert load(save_tiny(tmp_path / "untied", "llama_untied")).scope == "all"


def test_the_manifest_names_every_device(tied: Path) -> None:
    loaded = load_model(tied, device="cpu", dtype="float32")
    assert describe(loaded).device == "cpu"
    loaded.model.model.layers[1].to("meta")
    assert describe(loaded).device == "cpu, meta"
    # where all of it is elsewhere than it was loaded, it was one device
    loaded.model.to("meta")
    assert describe(replace(loaded, device=torch.device("cuda"))).device == "cuda"
