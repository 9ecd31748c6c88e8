"""``--device auto``: what transformers is asked for, what the manifest says, and placements that are refused."""

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
    """Loads on the CPU whatever is asked for, and keeps what that was."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self.places: dict[str, Any] = {"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": 1}
        self.untied = False
        self.error: Exception | None = None
        self._load = AutoModelForCausalLM.from_pretrained

    def __call__(self, *arguments: Any, device_map: Any = None, max_memory: Any = None, **options: Any) -> Any:
        self.options = {"device_map": device_map, "max_memory": max_memory}
        if self.error is not None:
            raise self.error
        model, loading = self._load(*arguments, **options)
        model.hf_device_map = self.places
        if self.untied:
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
        return model, loading


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """A machine that says it has two GPUs; layers come onto the CPU all the same."""
    found = Asked()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(FREE))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (FREE[number], 80 * 10**9))
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", found)
    return found


@pytest.fixture
def tied(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "tied", "llama_tied")


def load(folder: Path, device: str = "auto") -> Any:
    return load_model(folder, device=device, dtype="float32", weights_share=0.5)


def test_two_gpus_share_a_models_layers_and_keep_room_free(asked, tied, tmp_path):
    # batches go where the embedding came, here the CPU
    assert load(tied).device == torch.device("cpu")
    assert asked.options == {"device_map": "auto", "max_memory": {0: 5 * 10**9, 1: 10 * 10**9}}
    # two matrices may be two
    assert load(save_tiny(tmp_path / "untied", "llama_untied")).scope == "all"
    assert load(tied, "cpu").devices == (torch.device("cpu"),)
    assert asked.options["device_map"] is None


@pytest.mark.parametrize("gpus", [0, 1])
def test_with_one_gpu_or_none_it_is_as_if_nothing_was_named(gpus, asked, tied, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    auto, asked_of_auto = load(tied), asked.options
    plain = load_model(tied, dtype="float32")
    assert asked_of_auto == asked.options
    assert (auto.device, describe(auto)) == (plain.device, describe(plain))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"places": {"model.layers.1": "cpu"}}, r"tied does not fit on the 2 GPUs here: 1 of .* 5\.0 \+ 10\.0 GB"),
        # as transformers itself says it
        ({"error": ValueError("weights offloaded to the disk: provide an `offload_folder`")}, "does not fit on the 2"),
        ({"untied": True}, r"embedding and the head of .* are one matrix, and became two"),
    ],
)
def test_what_cannot_be_spread_is_refused(change, says, asked, tied):
    vars(asked).update(change)
    with pytest.raises(RipcurrentError, match=says) as caught:
        load(tied)
    if "GPUs here" in caught.value.message:
        assert "dtype bfloat16" in caught.value.hint


def test_the_manifest_names_every_device(tied):
    loaded = load_model(tied, device="cpu", dtype="float32")
    assert describe(loaded).device == "cpu"
    loaded.model.model.layers[1].to("meta")
    assert describe(loaded).device == "cpu, meta"
    # where all of it is elsewhere than it was loaded, it was one device
    loaded.model.to("meta")
    assert describe(replace(loaded, device=torch.device("cuda"))).device == "cuda"
