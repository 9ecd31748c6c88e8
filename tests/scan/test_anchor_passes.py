"""Anchors with directions of their own: in few passes, within their room, each the anchor's normalised gradient."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import Tensor

from ripcurrent.gradients import DENSE, GradientPass, choose_factoring, make_batch
from ripcurrent.scan import _anchor_passes
from ripcurrent.scan._anchor_passes import AnchorPass, anchor_passes, own_directions
from tests.gradients.oracle import chat_model, encoded_row, inner, random_rows, row_gradient
from tests.models.tiny import KINDS, tiny_model


def anchors():
    return random_rows(np.random.default_rng(5), 9)


def held(directions):
    """Bytes of all that directions hold, but for where a table's entries are."""
    maps = [getattr(directions, field.name) for field in fields(directions) if field.name not in ("count", "places")]
    return sum(tensor.nbytes for found in maps for tensor in found.values() if isinstance(tensor, Tensor))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factored", [False, True])
def test_directions_of_a_pass_are_each_anchors_normalised_gradient(kind, factored):
    model = tiny_model(kind)
    gradient_pass = GradientPass(chat_model(model))
    everything = choose_factoring(gradient_pass.layers, 1, 1, directions=10**6)
    one = AnchorPass(range(2, 6), everything if factored else DENSE)
    directions = own_directions(gradient_pass, anchors(), one)
    assert directions.count == 4
    assert bool(directions.term_weights) == factored
    rows = random_rows(np.random.default_rng(3), 3)
    dots = gradient_pass.measure(make_batch(rows, torch.device("cpu")), directions).dots
    gradients = [row_gradient(model, anchors()[place]) for place in one.places]
    for row, found in zip(rows, dots, strict=True):
        own = row_gradient(model, row)
        expected = [inner(own, gradient) / inner(gradient, gradient) ** 0.5 for gradient in gradients]
        np.testing.assert_allclose(found, expected, atol=2e-5 * inner(own, own) ** 0.5)


@pytest.mark.parametrize("kind", ["llama_tied", "llama_untied", "gpt2"])
@pytest.mark.parametrize("room", [0.0, 0.3, 2.0, 1e6])
def test_passes_take_all_anchors_in_order_and_keep_to_their_room(kind, room, monkeypatch):
    gradient_pass = GradientPass(chat_model(tiny_model(kind)))
    whole = sum(4 * np.prod(shape) for shape in gradient_pass.layers.parameter_shapes().values())
    monkeypatch.setattr(_anchor_passes, "PER_ANCHOR_BYTES", int(room * whole))
    passes = anchor_passes(gradient_pass, anchors())
    assert [place for one in passes for place in one.places] == list(range(9))
    for one in passes:
        bytes_held = held(own_directions(gradient_pass, anchors(), one))
        assert len(one.places) == 1 or bytes_held <= room * whole
    assert len(passes) == {0.0: 9, 1e6: 1}.get(room, len(passes))
    # never fewer at once than whole matrices would allow
    assert min(len(one.places) for one in passes[:-1] or passes) >= min(9, int(room))


def test_a_pass_of_terms_takes_more_anchors_than_matrices_would(monkeypatch):
    gradient_pass = GradientPass(chat_model(tiny_model("llama_tied")))
    whole = sum(4 * np.prod(shape) for shape in gradient_pass.layers.parameter_shapes().values())
    monkeypatch.setattr(_anchor_passes, "PER_ANCHOR_BYTES", int(2 * whole))
    short = [encoded_row([5, 6 + number, 7], [False, False, True], number) for number in range(9)]
    first, *_ = anchor_passes(gradient_pass, short)
    assert len(first.places) > 2
    assert first.factoring != DENSE


@pytest.mark.parametrize("kind", ["llama_tied", "llama_untied", "gpt2"])
@pytest.mark.parametrize("factored", [False, True])
def test_the_forecast_of_a_passes_room_is_what_it_takes(kind, factored):
    gradient_pass = GradientPass(chat_model(tiny_model(kind)))
    layers = gradient_pass.layers
    rows = anchors()
    everything = choose_factoring(layers, 1, 1, directions=10**6)
    factoring = everything if factored else DENSE
    directions = own_directions(gradient_pass, rows, AnchorPass(range(9), factoring))
    expected = _anchor_passes.stacked_bytes(
        layers,
        factoring,
        *_anchor_passes.count_terms([[row] for row in rows]),
        entries=len(np.unique(np.concatenate([row.tokens for row in rows]))),
        count=9,
        itemsize=4,
    )
    # in the last of these two layers only the tokens that loss is read from have a gradient, and positions are few
    assert (0.75 if factored else 1.0) * expected <= held(directions) <= expected
