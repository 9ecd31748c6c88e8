"""Exactness of the whole backward pass against one-row autograd, on several architectures."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from ripcurrent.errors import RipcurrentError
from ripcurrent.gradients import (
    GradientPass,
    make_batch,
    mean_cosine,
    norm_of_mean,
    plan_batches,
    set_direction,
    similarities,
    stack_directions,
)
from ripcurrent.gradients._directions import zero_gradient
from ripcurrent.statistics import spearman
from tests.gradients.oracle import (
    chat_model,
    compare_with_autograd,
    inner,
    mean_of,
    random_rows,
    random_stack,
    row_gradient,
    stored,
    unit_gradients,
)
from tests.models.tiny import KINDS, tiny_model

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_cosines_and_norms_equal_a_one_row_autograd_loop(kind):
    compare_with_autograd(tiny_model(kind), random_rows(np.random.default_rng(3), 7))


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
    compare_with_autograd(adapted.get_base_model(), random_rows(np.random.default_rng(5), 4), adapted)


class OwnScale(torch.nn.Module):
    """A layer kind nobody has a formula for."""

    def __init__(self, inner_module):
        super().__init__()
        self.inner_module = inner_module
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.inner_module(x) * self.scale


class Packed(torch.nn.Module):
    """A linear layer whose weight is no parameter."""

    def __init__(self, linear):
        super().__init__()
        self.register_buffer("packed", linear.weight.data.clone())

    def forward(self, x):
        return torch.nn.functional.linear(x, self.packed)


def with_own_scale(model):
    model.model.layers[1].mlp = OwnScale(model.model.layers[1].mlp)


def tripled(name):
    """A layer's formula and then something else, as in quantised models."""
    return lambda model: model.get_submodule(name).register_forward_hook(lambda module, args, output: output * 3)


def with_packed_weights(model):
    for name, module in list(model.model.named_modules()):
        if type(module) is torch.nn.Linear:
            parent, _, own = name.rpartition(".")
            setattr(model.model.get_submodule(parent), own, Packed(module))


def with_a_weight_of_two_layers(model):
    first, second = (model.model.layers[place].mlp.gate_proj for place in (0, 1))
    second.weight, second.bias = first.weight, first.bias


def with_tokens_that_see_later_ones(model):
    plain = model.model.norm.forward
    model.model.norm.forward = lambda x: plain(x + 0.1 * x.mean(dim=1, keepdim=True))


def with_a_layer_that_is_given_no_tensor(model):
    class ByShape(torch.nn.Embedding):
        def forward(self, shape):
            return super().forward(torch.arange(shape[1]))

    table = model.model.positions = ByShape(64, 32)
    layer = model.model.layers[0]
    layer.register_forward_pre_hook(lambda module, args: (args[0] + table(tuple(args[0].shape)), *args[1:]))


def with_a_layer_called_twice(model):
    block = model.model.layers[0].mlp
    block.forward = lambda x: block.down_proj(block.up_proj(x)) + block.down_proj(block.gate_proj(x))


@pytest.mark.parametrize(
    ("change", "scope", "says"),
    [
        (with_own_scale, "all", r"model\.layers\.1\.mlp \(OwnScale\)"),
        *((tripled("model.layers.1.mlp.up_proj"), scope, r"mlp\.up_proj \(Linear\)") for scope in ("all", "linear")),
        *((with_packed_weights, scope, "No linear layer of LlamaForCausalLM holds a") for scope in ("all", "linear")),
        (with_a_weight_of_two_layers, "all", r"model\.layers\.1\.mlp\.gate_proj shares its weight"),
        (with_tokens_that_see_later_ones, "all", "see the tokens after them"),
        (with_a_layer_that_is_given_no_tensor, "all", r"model\.positions \(ByShape\)"),
        (tripled("model.layers.0.input_layernorm"), "all", "input_layernorm"),
        (with_a_layer_called_twice, "all", "2 times"),
        (tripled("lm_head"), "all", "logits"),
    ],
)
@pytest.mark.parametrize("kind", ["llama_tied", "llama_untied"])
def test_what_no_formula_covers_is_refused_and_named(kind, change, scope, says):
    model = tiny_model(kind)
    change(model)
    with pytest.raises(RipcurrentError, match=says):
        GradientPass(chat_model(model, scope))


def test_scope_linear_leaves_out_embeddings_norms_head_and_what_is_not_covered():
    model = tiny_model("llama_untied")
    with_own_scale(model)
    layers = GradientPass(chat_model(model, "linear")).layers
    assert all("proj" in name for name in layers.parameter_shapes())
    others = {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight", "model.layers.1.mlp.scale"}
    assert others <= set(layers.left_out)


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
    assert "scope all" in caught.value.hint


def test_what_text_never_meets_is_left_out_whatever_its_kind():
    model = tiny_model("llama_untied")
    model.model.vision_tower = torch.nn.Sequential(OwnScale(torch.nn.Conv2d(3, 4, 2)), torch.nn.Linear(4, 4))
    tower = {name for name, _ in model.named_parameters() if "vision_tower" in name}
    assert set(GradientPass(chat_model(model)).layers.left_out) == tower
    assert len(tower) == 5


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 1000), budget=st.integers(20, 200))
def test_a_rows_products_do_not_depend_on_its_batch(seed, budget):
    model = tiny_model("qwen3")
    gradient_pass = GradientPass(chat_model(model))
    directions = random_stack(model, gradient_pass)
    generator = np.random.default_rng(seed)
    rows = random_rows(generator, 6)
    alone = [gradient_pass.measure(make_batch([row], CPU), directions) for row in rows]
    for places in plan_batches([len(row.tokens) for row in rows], budget):
        shuffled = generator.permutation(places).tolist()
        together = gradient_pass.measure(make_batch([rows[p] for p in shuffled], CPU), directions)
        for number, place in enumerate(shuffled):
            norm = alone[place].squared_norm[0] ** 0.5
            assert together.squared_norm[number] ** 0.5 == pytest.approx(norm, rel=1e-4)
            assert together.loss[number] == pytest.approx(alone[place].loss[0], rel=1e-5)
            scale = norm * (sum(t.numel() for t in model.parameters()) ** 0.5)
            np.testing.assert_allclose(together.dots[number] / scale, alone[place].dots[0] / scale, atol=2e-5)


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


@pytest.mark.parametrize("kind", KINDS)
def test_set_directions_are_the_mean_of_normalised_row_gradients(kind):
    model = tiny_model(kind)
    gradient_pass = GradientPass(chat_model(model))
    rows = random_rows(np.random.default_rng(7), 5)
    direction = set_direction(gradient_pass, rows)
    oracle = [row_gradient(model, row) for row in rows]
    np.testing.assert_allclose(direction.norms, [inner(one, one) ** 0.5 for one in oracle], rtol=1e-4)
    units = unit_gradients(model, rows)
    mean = mean_of(units)
    for name, tensor in direction.gradient.items():
        torch.testing.assert_close(tensor.double(), stored(name, model, mean[name]), rtol=1e-3, atol=1e-6)
    alike = similarities(gradient_pass, rows, [direction.gradient])[:, 0]
    for place, unit in enumerate(units):
        assert alike[place] == pytest.approx(np.mean([inner(unit, other) for other in units]), abs=2e-5)
    found = norm_of_mean(gradient_pass, rows, direction.norms)
    assert found == pytest.approx(np.sqrt(inner(mean, mean)), rel=1e-4)
    cosines = [inner(one, other) for one, other in itertools.permutations(units, 2)]
    assert mean_cosine(found, 5) == pytest.approx(np.mean(cosines), abs=1e-5)


def test_wide_norms_in_bfloat16_are_what_they_are():
    """Of wide states the mean is near 0, and with it and without it a coarse type rounds nearly alike."""
    config = LlamaConfig(
        vocab_size=50, hidden_size=2048, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16).eval()
    layers = GradientPass(chat_model(model)).layers
    assert {layer.kind for group in layers.groups for layer in group.layers if "norm" in layer.name} == {"rms_norm"}


LENGTHS, BUDGETS = st.lists(st.integers(0, 60), max_size=60), st.integers(1, 200)


@given(LENGTHS, BUDGETS, st.randoms(use_true_random=False))
def test_batches_hold_every_row_once_within_the_budget_and_depend_on_lengths_alone(lengths, budget, chance):
    plan = plan_batches(lengths, budget)
    assert sorted(place for places in plan for place in places) == [n for n, length in enumerate(lengths) if length]
    for places in plan:
        assert len(places) == 1 or len(places) * max(lengths[place] for place in places) <= budget
    for places, _following in itertools.pairwise(plan):
        assert (len(places) + 1) * max(lengths[place] for place in places) > budget, "a row more would have fitted"
    shuffled = lengths[:]
    chance.shuffle(shuffled)
    by_length = [[[of[place] for place in places] for places in plan_batches(of, budget)] for of in (lengths, shuffled)]
    assert by_length[0] == by_length[1]
    assert plan_batches([3, 3, 3, 5, 3], 6) == [[3], [0, 1], [2, 4]], "rows of one length keep their order"
