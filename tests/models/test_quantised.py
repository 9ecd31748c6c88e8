"""Base weights packed by bitsandbytes: LoRA layers on them are scored exactly, packed weights are refused."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from ripcurrent.errors import RipcurrentError
from ripcurrent.gradients import GradientPass, make_batch, stack_directions
from ripcurrent.models import load_model
from tests.gradients.oracle import chat_model, inner, random_rows, row_gradient
from tests.models.tiny import tiny_model, tiny_tokenizer

TOLERANCES = {4: (5e-5, 1e-3), 8: (5e-4, 5e-3)}
"""By bits: cosine, and relative norm. In 8 bits the base layers compute in float16 whatever type is asked for."""


@pytest.fixture(params=[4, 8], ids=["4bit", "8bit"])
def packed(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[int, Path]:
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
