"""Exactness of the whole backward pass against one-row autograd, on several architectures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import CohereConfig, GraniteConfig, LlamaConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from ripcurrent.errors import RipcurrentError
from ripcurrent.gradients import GradientPass, plan_batches
from ripcurrent.gradients._anchor_directions import set_direction, similarities
from ripcurrent.gradients._batch import make_batch
from ripcurrent.gradients._directions import norm_of, stack_directions, zero_gradient
from ripcurrent.statistics import spearman
from tests.gradients.oracle import (
    chat_model,
    compare_with_autograd,
    inner,
    random_directions,
    random_rows,
    row_gradient,
    rows_behind_a_prefix,
    stored,
)
from tests.models.tiny import KINDS, tiny_model

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_cosines_and_norms_equal_a_one_row_autograd_loop(kind):
    compare_with_autograd(tiny_model(kind), random_rows(np.random.default_rng(3), 7))


SMALL = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.15, "bos_token_id": None, "eos_token_id": 2,
}  # fmt: skip
GRANITE = {"embedding_multiplier": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2, "logits_scaling": 3.0}


@pytest.mark.parametrize(
    "config",
    [CohereConfig(**SMALL, logit_scale=0.25), GraniteConfig(**SMALL, **GRANITE, pad_token_id=2)],
    ids=["layer norms of a class of their own", "multipliers everywhere"],
)
def test_further_families_equal_a_one_row_autograd_loop(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    compare_with_autograd(model, random_rows(np.random.default_rng(3), 7))
    compare_with_autograd(model, rows_behind_a_prefix(5, seed=1))


@pytest.mark.parametrize("kind", KINDS)
def test_accumulated_gradients_equal_the_weighted_sum_of_row_gradients(kind):
    model = tiny_model(kind)
    gradient_pass = GradientPass(chat_model(model))
    rows = random_rows(np.random.default_rng(4), 5)
    factors = torch.tensor([0.3, 1.0, 2.0, 0.5, 1.5])
    total = zero_gradient(gradient_pass.layers)
    gradient_pass.accumulate(make_batch(rows[:3], CPU, row_tokens=4), factors[:3], total)
    gradient_pass.accumulate(make_batch(rows[3:], CPU, row_tokens=4), factors[3:], total)
    oracle = [row_gradient(model, row, row_tokens=4) for row in rows]
    for name, tensor in total.items():
        expected = sum(float(factor) * gradient[name] for factor, gradient in zip(factors, oracle, strict=True))
        expected = stored(name, model, expected)
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-4, atol=2e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scope_lora_scores_a_and_b_alone(dtype):
    model = tiny_model("llama_tied", dtype=dtype)
    config = LoraConfig(r=3, target_modules="all-linear", init_lora_weights=False)
    adapted = get_peft_model(model, config).eval()
    gradient_pass = GradientPass(chat_model(adapted, "lora"))
    causal = adapted.get_base_model()
    names = set(gradient_pass.layers.parameter_shapes())
    assert names == {name for name, _ in causal.named_parameters() if ".lora_" in name}
    assert set(gradient_pass.layers.left_out) == {n for n, _ in causal.named_parameters() if ".lora_" not in n}
    plain = random_directions(causal, names)
    directions = stack_directions(gradient_pass.layers, list(plain), dtype)
    rows = random_rows(np.random.default_rng(5), 4)
    signals = gradient_pass.measure(make_batch(rows, CPU), directions)
    loose = dtype == torch.bfloat16
    for place, row in enumerate(rows):
        gradient = row_gradient(causal, row, names)
        norm = inner(gradient, gradient) ** 0.5
        assert signals.squared_norm[place] ** 0.5 == pytest.approx(norm, rel=3e-2 if loose else 1e-4)
        for number, direction in enumerate(plain):
            expected = inner(gradient, direction) / (norm * norm_of(direction))
            found = signals.dots[place, number] / (signals.squared_norm[place] ** 0.5 * norm_of(direction))
            assert found == pytest.approx(expected, abs=3e-3 if loose else 2e-5)


def test_scope_linear_leaves_out_embeddings_norms_and_head():
    model = tiny_model("llama_untied")
    layers = GradientPass(chat_model(model, "linear")).layers
    assert all("proj" in name for name in layers.parameter_shapes())
    assert {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"} <= set(layers.left_out)


class OwnScale(torch.nn.Module):
    """A layer kind nobody has a formula for."""

    def __init__(self, inner_module):
        super().__init__()
        self.inner_module = inner_module
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.inner_module(x) * self.scale


def test_a_layer_kind_that_is_not_covered_is_named_and_other_scopes_go_on():
    model = tiny_model("llama_untied")
    model.model.layers[1].mlp = OwnScale(model.model.layers[1].mlp)
    with pytest.raises(RipcurrentError, match=r"model\.layers\.1\.mlp \(OwnScale\)"):
        GradientPass(chat_model(model))
    assert "model.layers.1.mlp.scale" in GradientPass(chat_model(model, "linear")).layers.left_out


class Scaled(torch.nn.Linear):
    """As layers of quantised models are: a product, and then something else."""

    def forward(self, x):
        return super().forward(x) * 3


@pytest.mark.parametrize("scope", ["all", "linear"])
def test_a_linear_layer_that_does_more_than_a_product_is_refused(scope):
    model = tiny_model("llama_untied")
    plain = model.model.layers[1].mlp.up_proj
    model.model.layers[1].mlp.up_proj = Scaled(plain.in_features, plain.out_features)
    with pytest.raises(RipcurrentError, match=r"model\.layers\.1\.mlp\.up_proj \(Scaled\)"):
        GradientPass(chat_model(model, scope))


class Packed(torch.nn.Module):
    """A layer whose weight is a buffer, so that it is no parameter."""

    def __init__(self, linear):
        super().__init__()
        self.register_buffer("packed", linear.weight.data.clone())

    def forward(self, x):
        return torch.nn.functional.linear(x, self.packed)


@pytest.mark.parametrize("scope", ["all", "linear"])
def test_a_model_without_weights_to_read_is_refused(scope):
    model = tiny_model("llama_tied")
    for name, module in list(model.model.named_modules()):
        if type(module) is torch.nn.Linear:
            parent, _, own = name.rpartition(".")
            setattr(model.model.get_submodule(parent), own, Packed(module))
    with pytest.raises(RipcurrentError, match="No linear layer of LlamaForCausalLM holds a weight that can be read"):
        GradientPass(chat_model(model, scope))


def test_a_weight_of_two_layers_is_refused():
    model = tiny_model("llama_untied")
    first, second = (model.model.layers[place].mlp.gate_proj for place in (1, 2))
    second.weight, second.bias = first.weight, first.bias
    with pytest.raises(RipcurrentError, match=r"model\.layers\.2\.mlp\.gate_proj shares its weight"):
        GradientPass(chat_model(model))


def test_tokens_that_see_those_after_them_are_refused():
    model = tiny_model("llama_tied")
    plain = model.model.norm.forward
    model.model.norm.forward = lambda x: plain(x + 0.1 * x.mean(dim=1, keepdim=True))
    with pytest.raises(RipcurrentError, match="see the tokens after them"):
        GradientPass(chat_model(model))


def test_a_layer_that_is_not_given_a_tensor_is_refused():
    model = tiny_model("llama_untied")

    class ByShape(torch.nn.Embedding):
        def forward(self, shape):
            return super().forward(torch.arange(shape[1]))

    model.model.places = ByShape(64, 32)
    layer = model.model.layers[0]
    plain = layer.forward
    layer.forward = lambda x, *rest, **named: plain(x + model.model.places(tuple(x.shape)), *rest, **named)
    with pytest.raises(RipcurrentError, match=r"model\.places \(ByShape\)"):
        GradientPass(chat_model(model))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"modules_to_save": ["norm"]}, "whole layers"),
        ({"target_modules": ["embed_tokens", "q_proj"]}, "the embedding"),
        ({"target_modules": ["lm_head", "q_proj"]}, "the head"),
        ({"trainable_token_indices": [3, 4]}, "single tokens"),
        ({"bias": "lora_only"}, "biases"),
    ],
)
def test_what_an_adapter_trains_beside_a_and_b_is_not_left_out_in_silence(options, says):
    model = get_peft_model(tiny_model("llama_untied"), LoraConfig(r=2, **{"target_modules": ["q_proj"], **options}))
    with pytest.raises(RipcurrentError, match=says) as caught:
        GradientPass(chat_model(model.eval(), "lora"))
    assert "--scope all" in caught.value.hint


def test_what_text_never_meets_is_left_out_whatever_its_kind():
    model = tiny_model("llama_untied")
    model.model.vision_tower = torch.nn.Sequential(OwnScale(torch.nn.Conv2d(3, 4, 2)), torch.nn.Linear(4, 4))
    tower = {name for name, _ in model.named_parameters() if "vision_tower" in name}
    layers = GradientPass(chat_model(model)).layers
    assert set(layers.left_out) == tower
    assert len(tower) == 5


def test_a_norm_with_a_formula_of_its_own_is_refused():
    model = tiny_model("llama_tied")
    norm = model.model.layers[0].input_layernorm
    plain = norm.forward
    norm.forward = lambda x: plain(x) * 1.5
    with pytest.raises(RipcurrentError, match="input_layernorm"):
        GradientPass(chat_model(model))


def test_a_layer_called_twice_is_refused():
    model = tiny_model("llama_tied")
    block = model.model.layers[0].mlp
    block.forward = lambda x: block.down_proj(block.up_proj(x)) + block.down_proj(block.gate_proj(x))
    with pytest.raises(RipcurrentError, match="2 times"):
        GradientPass(chat_model(model))


def test_logits_that_the_head_does_not_explain_are_refused():
    model = tiny_model("llama_untied")
    model.lm_head.register_forward_hook(lambda module, args, output: output * 3)
    with pytest.raises(RipcurrentError, match="logits"):
        GradientPass(chat_model(model))


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 1000), budget=st.integers(20, 200), pad=st.integers(0, 40))
def test_a_rows_products_do_not_depend_on_its_batch(seed, budget, pad):
    model = tiny_model("qwen3")
    gradient_pass = GradientPass(chat_model(model))
    names = set(gradient_pass.layers.parameter_shapes())
    directions = stack_directions(gradient_pass.layers, random_directions(model, names), torch.float32)
    generator = np.random.default_rng(seed)
    rows = random_rows(generator, 6)
    alone = [gradient_pass.measure(make_batch([row], CPU), directions) for row in rows]
    for places in plan_batches([len(row.tokens) for row in rows], budget):
        shuffled = generator.permutation(places).tolist()
        together = gradient_pass.measure(make_batch([rows[p] for p in shuffled], CPU, pad_to=pad), directions)
        for number, place in enumerate(shuffled):
            norm = alone[place].squared_norm[0] ** 0.5
            assert together.squared_norm[number] ** 0.5 == pytest.approx(norm, rel=1e-4)
            assert together.loss[number] == pytest.approx(alone[place].loss[0], rel=1e-5)
            for direction in (0, 1):
                scale = norm * (sum(t.numel() for t in model.parameters()) ** 0.5)
                assert together.dots[number, direction] / scale == pytest.approx(
                    alone[place].dots[0, direction] / scale, abs=2e-5
                )


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_ranks_rows_as_float32_does(kind):
    exact, coarse = tiny_model(kind), tiny_model(kind, dtype=torch.bfloat16)
    rows = random_rows(np.random.default_rng(6), 200, longest=60)
    results = []
    for model, dtype in ((exact, torch.float32), (coarse, torch.bfloat16)):
        gradient_pass = GradientPass(chat_model(model))
        anchors = set_direction(gradient_pass, rows[:6]).gradient if not results else results[0][1]
        stacked = stack_directions(gradient_pass.layers, [anchors], dtype)
        signals = gradient_pass.measure(make_batch(rows, CPU), stacked)
        results.append((signals.dots[:, 0] / np.sqrt(signals.squared_norm), anchors))
    assert spearman(results[0][0], results[1][0]) >= 0.999


def test_set_directions_are_the_mean_of_normalised_row_gradients():
    model = tiny_model("gpt2")
    gradient_pass = GradientPass(chat_model(model))
    rows = random_rows(np.random.default_rng(7), 5)
    direction = set_direction(gradient_pass, rows)
    oracle = [row_gradient(model, row) for row in rows]
    norms = [inner(gradient, gradient) ** 0.5 for gradient in oracle]
    np.testing.assert_allclose(direction.norms, norms, rtol=1e-4)
    for name, tensor in direction.gradient.items():
        mean = sum(gradient[name] / norm for gradient, norm in zip(oracle, norms, strict=True)) / len(rows)
        torch.testing.assert_close(tensor.double(), stored(name, model, mean), rtol=1e-3, atol=1e-6)
    alike = similarities(gradient_pass, rows, [direction.gradient])[:, 0]
    for place, (gradient, norm) in enumerate(zip(oracle, norms, strict=True)):
        others = [inner(gradient, o) / norm / n for o, n in zip(oracle, norms, strict=True)]
        assert alike[place] == pytest.approx(sum(others) / len(others), abs=2e-5)


def test_wide_norms_in_bfloat16_are_what_they_are() -> None:
    """Of wide states the mean is near 0, and with it and without it a coarse type rounds nearly alike."""
    config = LlamaConfig(
        vocab_size=50, hidden_size=2048, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16).eval()
    layers = GradientPass(chat_model(model)).layers
    assert {layer.kind for group in layers.groups for layer in group.layers if "norm" in layer.name} == {"rms_norm"}
