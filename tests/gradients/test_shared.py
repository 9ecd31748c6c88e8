"""Rows that begin alike: products of batches whose first tokens pass once."""

import gc
import weakref
from dataclasses import replace
from typing import Any

import peft
import pytest
import torch

from ripcurrent.gradients import GradientPass, _shared, make_batch
from ripcurrent.gradients._shared import SharedLinear, worth_sharing
from tests.gradients.oracle import PREFIX, chat_model, compare_with_autograd, random_stack, rows_behind_a_prefix
from tests.models.tiny import KINDS, tiny_model

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _tiny_layers_count_as_wide(monkeypatch) -> None:
    monkeypatch.setattr(_shared, "NARROWEST", 1)


def tokens_passed(module: torch.nn.Module) -> list[int]:
    """Filled with the tokens that a linear layer is given, pass by pass."""
    seen: list[int] = []
    weight: Any = module.weight
    width = weight.shape[1] if isinstance(module, torch.nn.Linear) else weight.shape[0]
    real = module.forward

    def forward(inputs: torch.Tensor) -> Any:
        seen.append(inputs.numel() // width)
        return real(inputs)

    module.forward = forward  # type: ignore[method-assign]
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_products_equal_a_one_row_autograd_loop_and_the_prefix_passes_once(kind):
    model = tiny_model(kind)
    rows = rows_behind_a_prefix(5, seed=1)
    layers = model.base_model.modules()
    seen = [tokens_passed(layer) for layer in layers if type(layer).__name__ in ("Linear", "Conv1D")]
    compare_with_autograd(model, rows)
    batch = make_batch(rows, CPU)
    shared, width = worth_sharing(batch), batch.ids.shape[1]
    assert shared >= PREFIX
    assert seen
    assert all(shared + 5 * (width - shared) in each and 5 * width not in each for each in seen)


def test_scope_lora_shares_too():
    model = tiny_model("llama_tied")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=3, target_modules="all-linear", init_lora_weights=False))
    causal, rows = adapted.eval().get_base_model(), rows_behind_a_prefix(4, seed=2)
    seen = tokens_passed(causal.model.layers[0].mlp.down_proj.lora_A["default"])
    compare_with_autograd(causal, rows, adapted)
    batch = make_batch(rows, CPU)
    shared, width = worth_sharing(batch), batch.ids.shape[1]
    assert shared + 4 * (width - shared) in seen
    assert 4 * width not in seen


def test_nothing_is_shared_where_it_would_not_pay():
    rows = rows_behind_a_prefix(3, seed=3)
    assert worth_sharing(make_batch(rows[:1], CPU)) == 0, "one row shares with none"
    apart = replace(rows[1], tokens=rows[1].tokens.copy())
    apart.tokens[2] += 1
    assert worth_sharing(make_batch([rows[0], apart], CPU)) == 0, "two tokens of so many"
    assert worth_sharing(make_batch([rows[0], rows[0]], CPU)) == make_batch(rows[:1], CPU).ids.shape[1]
    # nothing is left of a batch of rows that are all alike
    compare_with_autograd(tiny_model("llama_tied"), rows[:1] * 3)


def test_layers_that_are_given_something_else_than_every_token_or_are_narrow_pass_what_they_are_given(monkeypatch):
    layer, hooks = torch.nn.Linear(8, 6), SharedLinear((3, 10), 4)
    patches = torch.randn(3, 5, 8)
    assert hooks.before(layer, (patches,)) is None
    assert hooks.before(layer, (torch.randn(3, 2, 10, 8),)) is None
    outputs = layer(patches)
    assert hooks.after(layer, patches, outputs) == (patches, outputs, 0)
    taken = hooks.before(layer, (torch.randn(3, 10, 8),))
    assert taken is not None
    assert taken[0].shape == (4 + 3 * 6, 8)
    monkeypatch.setattr(_shared, "NARROWEST", 7)
    assert hooks.before(layer, (torch.randn(3, 10, 8),)) is None


def test_a_measured_batch_leaves_no_activation_behind():
    """Hooks on activations know what recorded them; were it to know them too, they would wait for the collector."""
    model = tiny_model("llama_tied")
    gradient_pass = GradientPass(chat_model(model))
    directions = random_stack(model, gradient_pass)
    seen: list[weakref.ref[torch.Tensor]] = []
    for layer in (layer for group in gradient_pass.layers.groups for layer in group.layers if group.linear):
        layer.module.register_forward_pre_hook(lambda _, args: seen.append(weakref.ref(args[0])), prepend=True)
    gc.disable()
    try:
        gradient_pass.measure(make_batch(rows_behind_a_prefix(4, seed=4), CPU), directions)
        assert seen
        assert all(one() is None for one in seen)
    finally:
        gc.enable()
