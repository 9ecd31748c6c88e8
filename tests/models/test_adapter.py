"""Adapters: merging computes what PEFT's unmerged model does; another model's are refused; packed weights."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from ripcurrent.errors import RipcurrentError
from ripcurrent.gradients import GradientPass, make_batch, stack_directions
from ripcurrent.models import describe, load_model
from tests.gradients.oracle import chat_model, inner, random_rows, row_gradient
from tests.models.tiny import save_tiny, tiny_model, tiny_tokenizer

IDS = torch.tensor([[1, 9, 40, 77, 120, 2]])


def save_adapter(folder: Path, kind: str = "llama_tied", *, seed: int = 0, **options: object) -> Path:
    """A LoRA whose B is random too, saved as PEFT saves it."""
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **options})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wrapped = get_peft_model(tiny_model(kind), config)
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.2)
    wrapped.save_pretrained(folder)
    return folder


def reconfigured(folder: Path, **changes: object) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def peft_logits(kind: str, folder: Path) -> torch.Tensor:
    return PeftModel.from_pretrained(tiny_model(kind), str(folder)).eval()(IDS).logits.detach()


@pytest.mark.parametrize("scope", ["all", "linear", "lora"])
@pytest.mark.parametrize("kind", ["llama_tied", "llama_untied", "gemma", "gpt2", "phi3"])
def test_an_adapter_computes_what_peft_computes(kind, scope, tmp_path):
    adapter = save_adapter(tmp_path / "adapter", kind)
    loaded = load_model(
        save_tiny(tmp_path / "model", kind), adapter=adapter, device="cpu", dtype="float32", scope=scope
    )
    assert torch.allclose(loaded.model(IDS).logits, peft_logits(kind, adapter), atol=2e-5)
    assert not torch.allclose(loaded.model(IDS).logits, tiny_model(kind)(IDS).logits, atol=1e-2)
    assert isinstance(loaded.model, PeftModel) == (scope == "lora")
    assert any("lora_" in name for name, _ in loaded.model.named_modules()) == (scope == "lora")
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert (loaded.model.training, loaded.adapter) == (False, str(adapter))
    if kind == "llama_tied":
        assert loaded.model.get_input_embeddings().weight is loaded.model.get_output_embeddings().weight


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_a_merge_for_bfloat16_is_summed_in_float32_and_rounded_once(stored, tmp_path):
    adapter = save_adapter(tmp_path / "adapter", "llama_untied", use_rslora=True)
    folder = save_tiny(tmp_path / "model", "llama_untied", dtype=stored)
    exact = load_model(folder, adapter=adapter, device="cpu", dtype="float32").model
    rounded = load_model(folder, adapter=adapter, device="cpu", dtype="bfloat16").model
    for name, parameter in rounded.named_parameters():
        assert torch.equal(parameter, exact.get_parameter(name).to(torch.bfloat16)), name
    for name, buffer in rounded.named_buffers():
        assert torch.equal(buffer, exact.get_buffer(name)), f"{name} was rounded"
    unmerged = load_model(folder, adapter=adapter, device="cpu", dtype="bfloat16", scope="lora").model
    for name, parameter in unmerged.named_parameters():
        assert parameter.dtype == (torch.float32 if "lora_" in name else torch.bfloat16), name
    assert torch.isfinite(unmerged(IDS).logits).all()


@pytest.mark.parametrize("kind", ["llama_tied", "gpt2"])
def test_a_fresh_lora_changes_nothing_and_depends_on_its_seed_alone(kind, tmp_path):
    folder, before = save_tiny(tmp_path, kind), torch.random.get_rng_state()
    first, again, other = (
        load_model(folder, device="cpu", dtype="float32", scope="lora", seed=seed) for seed in (5, 5, 6)
    )
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first.model(IDS).logits, tiny_model(kind)(IDS).logits)
    matrices = {name: parameter for name, parameter in first.model.named_parameters() if "lora_" in name}
    assert matrices
    for name, parameter in matrices.items():
        assert not any(part in name for part in ("head", "embed", "wte")), name
        assert (parameter == 0).all() == ("lora_B" in name), name
        assert 8 in parameter.shape
        assert torch.equal(parameter, again.model.get_parameter(name)), name
        assert torch.equal(parameter, other.model.get_parameter(name)) == ("lora_B" in name), name
    assert (describe(first).fresh_lora_rank, describe(first).fresh_lora_seed) == (8, 5)
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_the_fingerprint_follows_the_adapter_and_its_strength(tmp_path):
    folder = save_tiny(tmp_path / "model", "llama_tied")
    first, second = save_adapter(tmp_path / "a"), save_adapter(tmp_path / "b", seed=1)
    stronger = save_adapter(tmp_path / "c", lora_alpha=16)
    adapters = [None, first, second, stronger]
    prints = [load_model(folder, adapter=adapter, device="cpu").fingerprint for adapter in adapters]
    assert len(set(prints)) == 4
    assert load_model(folder, adapter=first, device="cpu", dtype="float16").fingerprint == prints[1]


def other_width(folder: Path) -> None:
    tensors = save_adapter(folder) / "adapter_model.safetensors"
    wider = {name: torch.cat([tensor, tensor], dim=-1).contiguous() for name, tensor in load_file(tensors).items()}
    save_file(wider, tensors, metadata={"format": "pt"})


def fewer_modules_than_it_says(folder: Path) -> None:
    reconfigured(save_adapter(folder, target_modules=["up_proj"]), target_modules=["up_proj", "down_proj"])


def more_layers(folder: Path) -> None:
    save_adapter(folder, "qwen3", target_modules=["up_proj", "down_proj"])


@pytest.mark.parametrize("scope", ["all", "lora"])
@pytest.mark.parametrize(
    "make", [other_width, more_layers, fewer_modules_than_it_says, lambda folder: save_adapter(folder, "gpt2")]
)
def test_an_adapter_of_another_model_is_refused_naming_both(make, scope, tmp_path):
    folder, adapter = save_tiny(tmp_path / "model", "llama_tied"), tmp_path / "adapter"
    make(adapter)
    reconfigured(adapter, base_model_name_or_path="some/other-base")
    with pytest.raises(RipcurrentError, match="some/other-base") as caught:
        load_model(folder, adapter=adapter, device="cpu", scope=scope)
    for part in (str(folder), str(adapter), "trained on"):
        assert part in str(caught.value)
    assert "\n" not in caught.value.message


def test_what_is_no_lora_is_refused_and_a_dora_is_merged_alone(tmp_path):
    folder, other = save_tiny(tmp_path / "model", "llama_tied"), tmp_path / "ia3"
    config = IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
    get_peft_model(tiny_model("llama_tied"), config).save_pretrained(other)
    with pytest.raises(RipcurrentError, match="IA3 adapter"):
        load_model(folder, adapter=other, device="cpu")
    dora = save_adapter(tmp_path / "dora", use_dora=True)
    merged = load_model(folder, adapter=dora, device="cpu", dtype="float32")
    assert torch.allclose(merged.model(IDS).logits, peft_logits("llama_tied", dora), atol=2e-5)
    with pytest.raises(RipcurrentError, match="DoRA") as caught:
        load_model(folder, adapter=dora, device="cpu", scope="lora")
    assert "scope all" in caught.value.hint


def test_an_update_of_a_shared_embedding_is_not_merged_but_kept(tmp_path):
    adapter = save_adapter(tmp_path / "adapter", target_modules=["embed_tokens", "up_proj"])
    folder = save_tiny(tmp_path / "model", "llama_tied")
    with pytest.raises(RipcurrentError, match="several modules share") as caught:
        load_model(folder, adapter=adapter, device="cpu")
    assert "scope lora" in caught.value.hint
    kept = load_model(folder, adapter=adapter, device="cpu", dtype="float32", scope="lora")
    assert torch.allclose(kept.model(IDS).logits, peft_logits("llama_tied", adapter), atol=2e-5)
    # one of its own is merged
    own = save_adapter(tmp_path / "own", "mistral", target_modules=["embed_tokens", "lm_head"])
    merged = load_model(save_tiny(tmp_path / "untied", "mistral"), adapter=own, device="cpu", dtype="float32")
    assert torch.allclose(merged.model(IDS).logits, peft_logits("mistral", own), atol=2e-5)


@pytest.mark.parametrize(("named", "said"), [(None, False), ("their/Model", False), ("their/model-base", True)])
def test_an_adapter_that_names_another_base_is_told(named, said, tmp_path):
    adapter = save_adapter(tmp_path / "adapter")
    reconfigured(adapter, base_model_name_or_path=named)
    folder = save_tiny(tmp_path / "model", "llama_tied")
    warning = describe(load_model(folder, adapter=adapter, device="cpu")).other_base()
    assert ("names the base model their/model-base" in (warning or "")) == said == (warning is not None)


def test_a_tokenizer_that_was_saved_with_an_adapter_is_its_own(tmp_path):
    """As of a LoRA on a base model, which has its chat template in the adapter's folder alone."""
    folder = save_tiny(tmp_path / "model", "llama_tied", chat_template=False)
    adapter = save_adapter(tmp_path / "adapter")
    assert load_model(folder, adapter=adapter, device="cpu").tokenizer.chat_template is None
    tiny_tokenizer(chat_template="{{ messages[0]['content'] }}").save_pretrained(adapter)
    assert load_model(folder, adapter=adapter, device="cpu").tokenizer.chat_template is not None
    # one without a template has the model's
    tiny_tokenizer(chat_template=None).save_pretrained(adapter)
    (adapter / "chat_template.jinja").unlink(missing_ok=True)
    chat = load_model(save_tiny(tmp_path / "chat", "llama_tied"), device="cpu")
    adapted = load_model(tmp_path / "chat", adapter=adapter, device="cpu")
    assert adapted.template_sha256 == chat.template_sha256


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("adapter_model.safetensors", None),
        ("adapter_model.safetensors", b"\x00" * 20),
        ("adapter_config.json", b"{"),
        ("adapter_config.json", b"{}"),
    ],
)
def test_a_damaged_adapter_names_its_file(file, content, tmp_path):
    adapter = save_adapter(tmp_path / "adapter")
    (adapter / file).unlink()
    torch.save({}, adapter / "adapter_model.bin")  # pickle is never read
    if content is not None:
        (adapter / file).write_bytes(content)
    folder = save_tiny(tmp_path / "model", "llama_tied")
    with pytest.raises(RipcurrentError, match=file):
        load_model(folder, adapter=adapter, device="cpu")
    with pytest.raises(RipcurrentError, match=r"no adapter folder \./nowhere"):
        load_model(folder, adapter="./nowhere", device="cpu")


def test_models_and_adapters_load_in_silence_and_offline(tmp_path, no_network, capfd):
    folder, adapter = save_tiny(tmp_path / "model", "llama_tied"), save_adapter(tmp_path / "adapter")
    capfd.readouterr()
    for options in ({}, {"adapter": adapter}, {"adapter": adapter, "scope": "lora"}, {"scope": "lora"}):
        load_model(folder, device="cpu", **options)
    assert no_network == []
    assert capfd.readouterr() == ("", "")


TOLERANCES = {4: (5e-5, 1e-3), 8: (5e-4, 5e-3)}
"""By bits: cosine, and relative norm. In 8 bits the base layers compute in float16 whatever type is asked for."""


@pytest.fixture(params=[4, 8], ids=["4bit", "8bit"])
def packed(request, tmp_path) -> tuple[int, Path]:
    """Bits, and the folder of a small Llama saved with its linear layers packed. Its layers are wider than a block."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: it packs the weights of these tests")
    from transformers import BitsAndBytesConfig

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.08, bos_token_id=None, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "plain")
    how: dict[int, dict[str, Any]] = {
        4: {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32},
        8: {"load_in_8bit": True},
    }
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "plain", quantization_config=BitsAndBytesConfig(**how[request.param]), device_map={"": "cpu"}
    )
    model.save_pretrained(tmp_path / "packed")
    tiny_tokenizer().save_pretrained(tmp_path / "packed")
    return request.param, tmp_path / "packed"


def test_lora_layers_on_packed_weights_equal_one_row_autograd(packed):
    bits, folder = packed
    found = load_model(str(folder), device="cpu", dtype="float32", scope="lora")
    generator = torch.Generator().manual_seed(0)
    for name, parameter in found.model.named_parameters():
        # a fresh LoRA's B is zero, and then A has no gradient
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    gradient_pass = GradientPass(found)
    shapes = gradient_pass.layers.parameter_shapes()
    assert shapes
    assert all(".lora_" in name for name in shapes)
    directions = [{name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} for _ in range(2)]
    rows = random_rows(np.random.default_rng(3), 6)
    stacked = stack_directions(gradient_pass.layers, directions, torch.float32)
    signals = gradient_pass.measure(make_batch(rows, found.device), stacked)
    cosine, relative = TOLERANCES[bits]
    for place, row in enumerate(rows):
        gradient = row_gradient(found.model.get_base_model(), row, set(shapes))
        norm = inner(gradient, gradient) ** 0.5
        assert signals.squared_norm[place] ** 0.5 == pytest.approx(norm, rel=relative)
        for number, direction in enumerate(directions):
            length = sum(float(tensor.square().sum()) for tensor in direction.values()) ** 0.5
            ours = signals.dots[place, number] / (signals.squared_norm[place] ** 0.5 * length)
            assert ours == pytest.approx(inner(gradient, direction) / (norm * length), abs=cosine)


def test_other_scopes_of_a_packed_model_are_refused(packed):
    for scope in ("all", "linear"):
        with pytest.raises(RipcurrentError, match="packed in a few bits") as caught:
            GradientPass(load_model(str(packed[1]), device="cpu", dtype="float32", scope=scope))  # type: ignore[arg-type]
        assert "scope lora" in caught.value.hint


def test_whole_numbers_as_weights_are_refused_whoever_packed_them():
    found = chat_model(tiny_model("llama_tied"))
    layer: Any = found.model.model.layers[0].mlp.down_proj
    layer.weight = torch.nn.Parameter(layer.weight.data.to(torch.int8), requires_grad=False)
    layer.forward = lambda inputs: torch.nn.functional.linear(inputs, layer.weight.float())
    with pytest.raises(RipcurrentError, match=r"down_proj \(Linear\) holds its weight packed"):
        GradientPass(found)
