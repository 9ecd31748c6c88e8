"""Each position's share against plain autograd, on several architectures: one number per position, no formula."""

import copy
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from ripcurrent.errors import RipcurrentError
from ripcurrent.gradients import GradientPass, make_batch, set_direction, stack_directions
from tests.gradients import oracle
from tests.gradients.oracle import chat_model, inner, random_rows, row_gradient, stacked
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
        before = dict(module.named_parameters(recurse=False))
        try:
            module._parameters.update({name: own.detach() + moves.get(name, 0) for name, own in before.items()})
            difference = type(module).forward(module, args[0]) - output
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
            loss = oracle.row_loss(causal, row, row_tokens)
        (found,) = torch.autograd.grad(loss, step)
        shares.append(float(found))
    return np.array(shares)


@pytest.mark.parametrize(
    ("kind", "row_tokens"), [*((kind, None) for kind in [*KINDS, "llama_tied lora"]), ("llama_tied", 2), ("gpt2", 2)]
)
def test_shares_equal_one_autograd_derivative_per_position_and_sum_to_the_dot(kind, row_tokens):
    kind, _, lora = kind.partition(" ")
    model, scope = tiny_model(kind), "all"
    if lora:
        adapted = get_peft_model(model, LoraConfig(r=3, target_modules="all-linear", init_lora_weights=False)).eval()
        model, scope = adapted.get_base_model(), "lora"
    gradient_pass = GradientPass(chat_model(adapted if lora else model, scope))
    names = set(gradient_pass.layers.parameter_shapes())
    others = random_rows(np.random.default_rng(1), 4)
    # directions as a scan has them, and not at right angles to every row
    means = [oracle.mean_of(oracle.unit_gradients(model, pair, names)) for pair in (others[:2], others[2:])]
    plain = [{name: tensor.float() for name, tensor in one.items()} for one in means]
    rows = random_rows(np.random.default_rng(3), 2, longest=10)
    given = make_batch(rows, CPU, row_tokens=row_tokens), stacked(model, gradient_pass, plain)
    shares, dots = gradient_pass.token_shares(*given), gradient_pass.measure(*given).dots
    exact = copy.deepcopy(model).double()
    for place, row in enumerate(rows):
        gradient = row_gradient(model, row, names, row_tokens)
        norm = inner(gradient, gradient) ** 0.5
        # nothing after the last token that is predicted can matter, padding least of all
        last = np.flatnonzero(row.loss_mask)[:row_tokens][-1]
        assert not shares[place, last:].any()
        for number, direction in enumerate(plain):
            own = shares[place, : len(row.tokens), number]
            expected = loop_shares(exact, row, direction, kind, row_tokens)
            np.testing.assert_allclose(own / norm, expected / norm, atol=2e-5)
            assert own.sum() == pytest.approx(inner(gradient, direction), rel=1e-4, abs=1e-6 * norm)
            assert own.sum() == pytest.approx(dots[place, number], rel=1e-4, abs=1e-6 * norm)


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
