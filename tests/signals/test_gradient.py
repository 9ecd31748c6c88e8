"""Exactness of the whole backward pass against one-row autograd, on several architectures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ripcurrent.signals._batch import make_batch
from ripcurrent.signals._directions import norm_of, stack_directions, zero_gradient
from ripcurrent.signals._gradient import GradientPass
from tests.models.tiny import KINDS, tiny_model
from tests.signals.oracle import chat_model, inner, random_rows, row_gradient

CPU = torch.device("cpu")


def stored(name: str, model, tensor):
    """A direction as the package stores it: out×in, also for layers that keep their weight in×out."""
    module = model.get_submodule(name.rpartition(".")[0])
    return tensor.T if type(module).__name__ == "Conv1D" and name.endswith("weight") else tensor


def random_directions(model, names, count=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters() if name in names}
    return [{name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} for _ in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_cosines_and_norms_equal_a_one_row_autograd_loop(kind):
    model = tiny_model(kind)
    gradient_pass = GradientPass(chat_model(model))
    names = set(gradient_pass.catalogue.parameter_shapes())
    assert names == {name for name, _ in model.named_parameters()}
    plain = random_directions(model, names)
    directions = stack_directions(
        gradient_pass.catalogue, [{n: stored(n, model, t) for n, t in d.items()} for d in plain], torch.float32
    )
    rows = random_rows(np.random.default_rng(3), 7)
    signals = gradient_pass.measure(make_batch(rows, CPU), directions)
    for place, row in enumerate(rows):
        gradient = row_gradient(model, row)
        norm = inner(gradient, gradient) ** 0.5
        assert signals.squared_norm[place] ** 0.5 == pytest.approx(norm, rel=1e-4)
        for number, direction in enumerate(plain):
            length = norm_of(direction)
            expected = inner(gradient, direction) / (norm * length)
            found = signals.dots[place, number] / (signals.squared_norm[place] ** 0.5 * length)
            assert found == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_accumulated_gradients_equal_the_weighted_sum_of_row_gradients(kind):
    model = tiny_model(kind)
    gradient_pass = GradientPass(chat_model(model))
    rows = random_rows(np.random.default_rng(4), 5)
    factors = torch.tensor([0.3, 1.0, 2.0, 0.5, 1.5])
    total = zero_gradient(gradient_pass.catalogue)
    gradient_pass.accumulate(make_batch(rows[:3], CPU, row_tokens=4), factors[:3], total)
    gradient_pass.accumulate(make_batch(rows[3:], CPU, row_tokens=4), factors[3:], total)
    oracle = [row_gradient(model, row, row_tokens=4) for row in rows]
    for name, tensor in total.items():
        expected = sum(float(factor) * gradient[name] for factor, gradient in zip(factors, oracle, strict=True))
        expected = stored(name, model, expected)
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-4, atol=1e-6)
