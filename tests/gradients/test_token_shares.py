"""Each position's share against plain autograd on several architectures; factored directions as dense ones."""

import copy
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from ripcurrent.errors import RipcurrentError
from ripcurrent.gradients import (
    Factoring,
    GradientPass,
    MappedStore,
    choose_factoring,
    make_batch,
    mean_gradient,
    norm_of,
    set_direction,
    similarities,
    stack_directions,
)
from ripcurrent.gradients._anchor_directions import count_terms, shared_tokens
from ripcurrent.gradients._directions import dense_shapes, term_keys
from tests.gradients import oracle
from tests.gradients.oracle import (
    assert_rows_equal,
    chat_model,
    inner,
    mean_of,
    random_rows,
    row_gradient,
    rows_behind_a_prefix,
    stacked,
    unit_gradients,
)
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


def everything(gradient_pass):
    return choose_factoring(gradient_pass.layers, 1, 1)


def factored(gradient_pass, rows):
    return set_direction(gradient_pass, rows, factoring=everything(gradient_pass)).gradient


def anchors(shared=3):
    return rows_behind_a_prefix(6, seed=5, prefix=shared)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_by_factored_directions_equal_a_one_row_autograd_loop(kind):
    model = tiny_model(kind)
    gradient_pass = GradientPass(chat_model(model))
    sets = [anchors()[:3], anchors()[3:]]
    found = [factored(gradient_pass, rows) for rows in sets]
    directions = stack_directions(gradient_pass.layers, found, torch.float32)
    layers = gradient_pass.layers
    linear = {number for number, group in enumerate(layers.groups) if group.linear}
    assert set(directions.term_weights) == {*linear, layers.head_weight}
    assert all(len(shape) == 1 for shape in dense_shapes(layers, everything(gradient_pass)).values())
    oracle = [mean_of(unit_gradients(model, rows)) for rows in sets]
    for one, direction in zip(found, oracle, strict=True):
        assert norm_of(one) == pytest.approx(inner(direction, direction) ** 0.5, rel=1e-4)
    rows = random_rows(np.random.default_rng(3), 7)
    signals = gradient_pass.measure(make_batch(rows, CPU), directions)
    assert_rows_equal(signals, model, rows, oracle)
    shares = gradient_pass.token_shares(make_batch(rows, CPU), directions)
    scale = np.sqrt(signals.squared_norm)[:, None]
    np.testing.assert_allclose(shares.sum(axis=1) / scale, signals.dots / scale, atol=1e-4)


def test_tokens_that_all_anchors_share_become_one_term():
    gradient_pass = GradientPass(chat_model(tiny_model("llama_tied")))
    rows = anchors(shared=4)
    assert shared_tokens(rows) >= 4
    gradient = factored(gradient_pass, rows)
    counts = {name: len(tensor) for name, tensor in gradient.items() if name.startswith("inputs of ")}
    in_layers, at_head = count_terms([rows])
    assert counts.pop(term_keys(gradient_pass.layers.head_weight)[0]) == at_head
    assert max(counts.values()) == in_layers < sum(len(row.tokens) for row in rows) - 3 * 4


def test_the_mean_of_factored_directions_scores_as_the_mean_of_scores():
    gradient_pass = GradientPass(chat_model(tiny_model("llama_untied")))
    two = [factored(gradient_pass, rows) for rows in (anchors()[:2], anchors()[2:])]
    rows = random_rows(np.random.default_rng(9), 5)
    found = similarities(gradient_pass, rows, [*two, mean_gradient(two, torch.float32)])
    np.testing.assert_allclose(found[:, 2], found[:, :2].mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("kind", ["llama_tied", "llama_untied", "gpt2"])
def test_only_what_shrinks_is_factored(kind):
    layers = GradientPass(chat_model(tiny_model(kind))).layers
    assert choose_factoring(layers, 10**6, 10**6) == Factoring()
    found = choose_factoring(layers, 10**6, 1)
    assert found.groups == (frozenset() if layers.tied else {layers.head_weight})
    assert found.tables == frozenset()
    # one term in each layer: all of it shrinks
    assert not any(len(shape) == 2 for shape in dense_shapes(layers, choose_factoring(layers, 1, 1)).values())


def test_terms_that_lie_in_files_give_the_same_scores(tmp_path):
    gradient_pass = GradientPass(chat_model(tiny_model("llama_tied")))
    given, store = (gradient_pass.layers, [factored(gradient_pass, anchors())], torch.float32), MappedStore(tmp_path)
    in_files = store.directions(stack_directions(*given, empty=store.empty, written=store.let_go), CPU)
    batch = make_batch(random_rows(np.random.default_rng(2), 4), CPU)
    dots = [gradient_pass.measure(batch, one).dots for one in (in_files, stack_directions(*given))]
    np.testing.assert_array_equal(*dots)
