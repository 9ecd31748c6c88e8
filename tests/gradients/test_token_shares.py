"""Each position's share against plain autograd, on several architectures: one number per position, no formula."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from ripcurrent.errors import RipcurrentError
from ripcurrent.gradients import GradientPass, make_batch, set_direction, stack_directions
from tests.gradients.oracle import chat_model, inner, random_directions, random_rows, row_gradient, row_loss, stacked
from tests.models.tiny import KINDS, tiny_model

CPU = torch.device("cpu")
HEADS_BEFORE_TOKENS = ("gemma3",)
"""Where a norm over heads sees ``(rows, heads, tokens, width)``; elsewhere tokens come second."""


@contextmanager
def moved_at_one_position(causal, direction, position, step, kind):
    """Every layer runs with its weights moved by ``step`` times the direction, at one position alone.

    All these layers are affine in their parameters, so that the move is the difference between two plain calls.
    """
    owners: dict[torch.nn.Module, dict[str, torch.Tensor]] = {}
    by_id = {id(p): name for name, p in causal.named_parameters()}
    for module in causal.modules():
        for name, parameter in module.named_parameters(recurse=False):
            full = by_id[id(parameter)]
            if full in direction:
                owners.setdefault(module, {})[name] = direction[full].to(parameter.dtype)

    def hook(module, args, output, moves):
        plain = dict(module.named_parameters(recurse=False))
        moved = {name: parameter.detach() + moves.get(name, 0) for name, parameter in plain.items()}
        forward = type(module).forward
        before = {name: module._parameters[name] for name in plain}
        try:
            for name, value in moved.items():
                module._parameters[name] = value
            difference = forward(module, args[0]) - output
        finally:
            module._parameters.update(before)
        axis = 2 if output.dim() == 4 and kind in HEADS_BEFORE_TOKENS else 1
        here = torch.zeros(output.shape[axis], dtype=output.dtype)
        here[position] = 1
        here = here.view([-1 if place == axis else 1 for place in range(output.dim())])
        if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
            here = here * (args[0] != module.padding_idx).unsqueeze(-1)
        return output + step * here * difference

    with ExitStack() as stack:
        for module, moves in owners.items():
            handle = module.register_forward_hook(lambda m, a, o, moves=moves: hook(m, a, o, moves))
            stack.callback(handle.remove)
        yield


def loop_shares(causal, row, direction, kind, row_tokens=None):
    """The derivative of the row's loss by each position's own step, position by position, in float64."""
    shares = []
    for position in range(len(row.tokens)):
        step = torch.zeros((), dtype=torch.float64, requires_grad=True)
        with moved_at_one_position(causal, direction, position, step, kind):
            loss = row_loss(causal, row, row_tokens)
        (found,) = torch.autograd.grad(loss, step)
        shares.append(float(found))
    return np.array(shares)


def in_double(model):
    copy = type(model)(model.config).eval()
    copy.load_state_dict(model.state_dict())
    copy.set_attn_implementation(model.config._attn_implementation)
    copy = copy.double()
    for parameter in copy.parameters():
        parameter.requires_grad_(False)
    return copy


def shares_of(gradient_pass, model, plain, rows, **batch):
    directions, made = stacked(model, gradient_pass, plain), make_batch(rows, CPU, **batch)
    return gradient_pass.token_shares(made, directions), gradient_pass.measure(made, directions).dots


def anchor_like(model, names, rows, number):
    """A direction as a scan has them, and not at right angles to every row: a mean of normalised gradients."""
    gradients = [row_gradient(model, row, names) for row in rows[number : number + 2]]
    norms = [inner(gradient, gradient) ** 0.5 for gradient in gradients]
    return {n: sum(g[n] / norm for g, norm in zip(gradients, norms, strict=True)).float() / 2 for n in names}


@pytest.mark.parametrize("kind", KINDS)
def test_shares_equal_one_autograd_derivative_per_position_and_sum_to_the_dot(kind):
    model = tiny_model(kind)
    gradient_pass = GradientPass(chat_model(model))
    names = set(gradient_pass.layers.parameter_shapes())
    others = random_rows(np.random.default_rng(1), 4)
    plain = [anchor_like(model, names, others, 0), anchor_like(model, names, others, 2)]
    rows = random_rows(np.random.default_rng(3), 2, longest=10)
    shares, dots = shares_of(gradient_pass, model, plain, rows)
    exact = in_double(model)
    for place, row in enumerate(rows):
        gradient = row_gradient(model, row)
        norm = inner(gradient, gradient) ** 0.5
        assert not shares[place, len(row.tokens) :].any()
        for number, direction in enumerate(plain):
            own = shares[place, : len(row.tokens), number]
            expected = loop_shares(exact, row, direction, kind)
            np.testing.assert_allclose(own / norm, expected / norm, atol=2e-5)
            assert own.sum() == pytest.approx(inner(gradient, direction), rel=1e-4)
            assert own.sum() == pytest.approx(dots[place, number], rel=1e-4)


@pytest.mark.parametrize("kind", ["llama_tied", "gpt2"])
def test_only_the_first_response_tokens_bear_loss_when_asked(kind):
    model = tiny_model(kind)
    gradient_pass = GradientPass(chat_model(model))
    names = set(gradient_pass.layers.parameter_shapes())
    plain = random_directions(model, names, count=1)
    rows = random_rows(np.random.default_rng(9), 2, longest=10)
    shares, _ = shares_of(gradient_pass, model, plain, rows, row_tokens=2)
    exact = in_double(model)
    for place, row in enumerate(rows):
        expected = loop_shares(exact, row, plain[0], kind, row_tokens=2)
        np.testing.assert_allclose(shares[place, : len(row.tokens), 0], expected, rtol=1e-3, atol=1e-3)
        # nothing after the last token that is predicted can matter
        last = np.flatnonzero(row.loss_mask)[:2][-1]
        assert not shares[place, last:].any()


def test_scope_lora_shares_a_and_b_alone():
    model = tiny_model("llama_tied")
    adapted = get_peft_model(model, LoraConfig(r=3, target_modules="all-linear", init_lora_weights=False)).eval()
    gradient_pass = GradientPass(chat_model(adapted, "lora"))
    causal = adapted.get_base_model()
    names = set(gradient_pass.layers.parameter_shapes())
    others = random_rows(np.random.default_rng(1), 4)
    plain = [anchor_like(causal, names, others, 0)]
    rows = random_rows(np.random.default_rng(5), 2, longest=10)
    shares, dots = shares_of(gradient_pass, causal, plain, rows)
    causal.double()
    for place, row in enumerate(rows):
        expected = loop_shares(causal, row, plain[0], "llama_tied")
        scale = np.abs(expected).sum()
        np.testing.assert_allclose(shares[place, : len(row.tokens), 0] / scale, expected / scale, atol=2e-5)
        assert shares[place].sum() == pytest.approx(dots[place, 0], rel=1e-4)


def test_a_share_does_not_depend_on_the_batch():
    model = tiny_model("qwen3")
    gradient_pass = GradientPass(chat_model(model))
    plain = random_directions(model, set(gradient_pass.layers.parameter_shapes()))
    rows = random_rows(np.random.default_rng(7), 4)
    together, _ = shares_of(gradient_pass, model, plain, rows)
    for place, row in enumerate(rows):
        alone, _ = shares_of(gradient_pass, model, plain, [row])
        length = len(row.tokens)
        scale = np.abs(alone).max()
        np.testing.assert_allclose(together[place, :length] / scale, alone[0, :length] / scale, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama_tied", "gemma3"])
def test_bf16_shares_sum_to_the_bf16_dot_and_order_positions_as_float32_does(kind):
    rows = random_rows(np.random.default_rng(6), 30, longest=40)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny_model(kind, dtype=dtype)
        gradient_pass = GradientPass(chat_model(model))
        if not found:
            anchor = set_direction(gradient_pass, rows[:6]).gradient
        directions = stack_directions(gradient_pass.layers, [anchor], dtype)
        batch = make_batch(rows, CPU)
        signals = gradient_pass.measure(batch, directions)
        shares = gradient_pass.token_shares(batch, directions)[..., 0]
        difference = (shares.sum(axis=1) - signals.dots[:, 0]) / np.sqrt(signals.squared_norm)
        assert np.abs(difference).max() < (1e-6 if dtype == torch.float32 else 2e-3)
        found.append(shares[shares != 0])
    assert np.corrcoef(found[0], found[1])[0, 1] > 0.995


class TokensInOneList(torch.nn.Module):
    """Hands a norm the tokens of all rows in one list."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return self.norm(x.flatten(0, 1)).view_as(x)


def test_a_layer_whose_positions_cannot_be_told_apart_is_named():
    model = tiny_model("llama_tied")
    model.model.layers[1].input_layernorm = TokensInOneList(model.model.layers[1].input_layernorm)
    with pytest.raises(RipcurrentError, match=r"layers\.1\.input_layernorm\.norm .*"):
        GradientPass(chat_model(model)).require_token_axes()
