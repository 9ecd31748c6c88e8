"""Factored directions: the same numbers as dense ones, from the anchors' tokens."""

import numpy as np
import pytest
import torch

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
from tests.gradients.oracle import (
    assert_rows_equal,
    chat_model,
    inner,
    mean_of,
    random_rows,
    rows_behind_a_prefix,
    unit_gradients,
)
from tests.models.tiny import KINDS, tiny_model

CPU = torch.device("cpu")


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
