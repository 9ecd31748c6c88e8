"""Each layer kind's products against plain loops that form the row's gradient."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ripcurrent.gradients.kernels import embedding, linear, tokens, vector
from ripcurrent.gradients.kernels.head import LogitTransform, cross_entropy_with_gradient, head_dots, head_squared_norm

sizes = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 12), st.integers(1, 12), st.integers(0, 3))


def tensors(size, seed=0, dtype=torch.float32):
    rows, tokens, fan_out, fan_in, directions = size
    torch.manual_seed(seed)
    inputs, grads = torch.randn(rows, tokens, fan_in), torch.randn(rows, tokens, fan_out)
    return inputs.to(dtype), grads.to(dtype), torch.randn(directions, fan_out, fan_in).to(dtype)


def loop_linear(inputs, grads, directions):
    dots, norms = torch.zeros(len(inputs), len(directions)), torch.zeros(len(inputs))
    for row in range(len(inputs)):
        gradient = torch.zeros(grads.shape[-1], inputs.shape[-1])
        for token in range(inputs.shape[1]):
            gradient += torch.outer(grads[row, token].float(), inputs[row, token].float())
        norms[row] = (gradient**2).sum()
        for number, direction in enumerate(directions):
            dots[row, number] = (gradient * direction.float()).sum()
    return dots, norms


@settings(deadline=None, max_examples=40)
@given(sizes, st.integers(0, 3))
def test_linear_products_by_every_way_equal_a_loop(size, way):
    inputs, grads, directions = tensors(size)
    ways = linear.Ways(transient_dots=bool(way & 1) and len(directions) > 0, transient_norm=bool(way & 2))
    dots, norms = linear.linear_products(inputs, grads, directions, ways)
    expected_dots, expected_norms = loop_linear(inputs, grads, directions)
    torch.testing.assert_close(dots, expected_dots, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(norms, expected_norms, rtol=1e-4, atol=1e-4)
    total = sum(torch.outer(b, a) for b, a in zip(grads.flatten(0, 1), inputs.flatten(0, 1), strict=True))
    torch.testing.assert_close(linear.linear_gradient(inputs, grads), total, rtol=1e-4, atol=1e-4)


def test_transient_rows_are_taken_a_few_at_a_time_without_changing_the_result(monkeypatch):
    inputs, grads, directions = tensors((7, 5, 8, 6, 2))
    ways = linear.Ways(transient_dots=True, transient_norm=True)
    whole = linear.linear_products(inputs, grads, directions, ways)
    monkeypatch.setattr(linear, "TRANSIENT_BYTES", 2 * 8 * 6 * 4)
    for one, other in zip(whole, linear.linear_products(inputs, grads, directions, ways), strict=True):
        torch.testing.assert_close(one, other)


def test_many_gradients_against_many_directions_equal_a_loop_too():
    """More than are cut into pieces."""
    inputs, grads, directions = tensors((7, 5, 8, 6, 6))
    assert len(inputs) * len(directions) > linear.FEW_DOTS
    dots, _ = linear.linear_products(inputs, grads, directions, linear.Ways(transient_dots=True, transient_norm=False))
    torch.testing.assert_close(dots, loop_linear(inputs, grads, directions)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("rows", "size", "directions"), [(1, 768, 2), (3, 7, 2), (2, 1024, 1), (4, 100, 3)])
def test_dots_in_a_batch_of_pieces_are_dots(rows, size, directions):
    """What other devices than processors take."""
    torch.manual_seed(0)
    vectors, fixed = torch.randn(rows, size), torch.randn(directions, size)
    expected = [[float(sum(a * b for a, b in zip(v, d, strict=True))) for d in fixed] for v in vectors]
    torch.testing.assert_close(linear.batched_dots(vectors, fixed), torch.tensor(expected), rtol=1e-4, atol=1e-4)
    rounded = linear.batched_dots(vectors.bfloat16(), fixed.bfloat16())
    assert rounded.dtype == torch.float32
    exact = vectors.bfloat16().double() @ fixed.bfloat16().double().mT
    assert ((rounded - exact).abs() / (vectors.norm(dim=1)[:, None] * fixed.norm(dim=1))).max() < 2e-3


def test_bf16_products_stay_close_to_float32_ones():
    """As close as their products' rounding allows; that their sums add nothing to it: ``test_low_precision``."""
    inputs, grads, directions = tensors((6, 40, 64, 48, 2), dtype=torch.bfloat16)
    expected_dots, expected_norms = loop_linear(inputs, grads, directions)
    for dots_way, norm_way in itertools.product((False, True), repeat=2):
        dots, norms = linear.linear_products(inputs, grads, directions, linear.Ways(dots_way, norm_way))
        scale = expected_norms.sqrt().unsqueeze(1) * directions.float().flatten(1).norm(dim=1)
        assert ((dots - expected_dots) / scale).abs().max() < 2e-4
        torch.testing.assert_close(norms, expected_norms, rtol=2e-3, atol=0)


def test_long_rows_are_read_off_the_gradient_and_short_rows_norms_off_gram_matrices():
    assert linear.choose_ways(2048, 576, 576, 2) == linear.Ways(transient_dots=True, transient_norm=True)
    assert not linear.choose_ways(16, 3072, 576, 2).transient_norm
    assert not linear.choose_ways(16, 3072, 576, 0).transient_dots


@settings(deadline=None, max_examples=25)
@given(sizes)
def test_vector_gradients_equal_loops(size):
    rows, tokens, width, _, directions = size
    torch.manual_seed(1)
    x, b = torch.randn(rows, tokens, width), torch.randn(rows, tokens, width)
    v = torch.randn(directions, width)
    bias, rms, layer = torch.zeros(rows, width), torch.zeros(rows, width), torch.zeros(rows, width)
    for row in range(rows):
        for token in range(tokens):
            a = x[row, token]
            bias[row] += b[row, token]
            rms[row] += a / torch.sqrt((a**2).mean() + 1e-5) * b[row, token]
            layer[row] += (a - a.mean()) / torch.sqrt(((a - a.mean()) ** 2).mean() + 1e-5) * b[row, token]
    torch.testing.assert_close(vector.bias_gradients(b), bias, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(vector.rms_scale_gradients(x, b, 1e-5), rms, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(vector.layer_norm_scale_gradients(x, b, 1e-5), layer, rtol=1e-3, atol=1e-3)
    dots, norms = vector.vector_products(rms, v)
    for row in range(rows):
        assert float(norms[row]) == pytest.approx(float((rms[row] ** 2).sum()), rel=1e-4, abs=1e-4)
        for number in range(directions):
            assert float(dots[row, number]) == pytest.approx(float((rms[row] * v[number]).sum()), rel=1e-3, abs=1e-3)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 4), st.integers(1, 8), st.integers(0, 2))
def test_embedding_products_equal_a_loop_with_repeated_ids(rows, tokens, directions):
    torch.manual_seed(2)
    vocabulary, width = 5, 6
    ids = torch.randint(0, vocabulary, (rows, tokens))
    b, v = torch.randn(rows, tokens, width), torch.randn(directions, vocabulary, width)
    dots, norms = embedding.embedding_dots(ids, b, v), embedding.embedding_squared_norm(ids, b)
    total = torch.zeros(vocabulary, width)
    for row in range(rows):
        table = torch.zeros(vocabulary, width)
        for token in range(tokens):
            table[ids[row, token]] += b[row, token]
        total += table
        assert float(norms[row]) == pytest.approx(float((table**2).sum()), rel=1e-4, abs=1e-4)
        for number in range(directions):
            assert float(dots[row, number]) == pytest.approx(float((table * v[number]).sum()), rel=1e-3, abs=1e-3)
    torch.testing.assert_close(embedding.embedding_gradient(ids, b, vocabulary), total, rtol=1e-4, atol=1e-4)


def test_the_tied_cross_term_makes_the_norm_of_the_sum():
    torch.manual_seed(3)
    vocabulary, width, positions, tokens = 7, 4, 3, 5
    h, head_b = torch.randn(positions, width), torch.randn(positions, vocabulary)
    ids, table_b = torch.randint(0, vocabulary, (tokens,)), torch.randn(tokens, width)
    head = head_b.T @ h
    table = torch.zeros(vocabulary, width)
    for token in range(tokens):
        table[ids[token]] += table_b[token]
    cross = embedding.tied_cross_term(head_b[:, ids].unsqueeze(0), h.unsqueeze(0), table_b.unsqueeze(0))
    whole = ((head + table) ** 2).sum()
    assert float((head**2).sum() + (table**2).sum() + cross[0]) == pytest.approx(float(whole), rel=1e-5)


@pytest.mark.parametrize("transform", [LogitTransform(), LogitTransform(0.5), LogitTransform(2.0, 3.0)])
def test_losses_and_logit_gradients_equal_autograd(transform, monkeypatch):
    monkeypatch.setattr("ripcurrent.gradients.kernels.head.BLOCK_ELEMENTS", 22)
    torch.manual_seed(4)
    logits = torch.randn(7, 11, requires_grad=True)
    targets, weights = torch.randint(0, 11, (7,)), torch.rand(7) + 0.1
    values = logits * transform.factor
    if transform.softcap is not None:
        values = torch.tanh(values / transform.softcap) * transform.softcap
    losses = torch.nn.functional.cross_entropy(values, targets, reduction="none")
    (expected,) = torch.autograd.grad((losses * weights).sum(), logits)
    gradient = logits.detach().clone()
    found = cross_entropy_with_gradient(gradient, targets, weights, transform)
    torch.testing.assert_close(found, losses.detach())
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_head_products_equal_a_loop():
    torch.manual_seed(5)
    h, b, v = torch.randn(6, 4), torch.randn(6, 9), torch.randn(2, 9, 4)
    gradient = b.T @ h
    assert float(head_squared_norm(h, b)) == pytest.approx(float((gradient**2).sum()), rel=1e-5)
    torch.testing.assert_close(head_dots(h, b, v).sum(0), (v * gradient).sum((1, 2)), rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=15)
@given(sizes, st.integers(1, 3))
def test_token_dots_are_the_loops_terms(size, parts):
    rows, count, fan_out, fan_in, directions = size
    inputs, grads, matrices = tensors(size)
    found = tokens.linear_token_dots(inputs, grads, matrices)
    x, b, v = torch.randn(rows, count, parts, fan_in), torch.randn(rows, count, parts, fan_in), matrices[:, 0]
    bias, rms = tokens.bias_token_dots(b, v), tokens.rms_scale_token_dots(x, b, 1e-5, v)
    layer = tokens.layer_norm_scale_token_dots(x, b, 1e-5, v)
    ids, table = torch.randint(0, fan_out, (rows, count)), inputs
    looked_up = tokens.embedding_token_dots(ids, table, matrices)
    for row, token, number in itertools.product(range(rows), range(count), range(directions)):
        at = (row, token, number)
        terms = [0.0, 0.0, 0.0]
        for part in range(parts):
            a, g = x[row, token, part], b[row, token, part]
            terms[0] += (g * v[number]).sum()
            terms[1] += (a / torch.sqrt((a**2).mean() + 1e-5) * g * v[number]).sum()
            terms[2] += ((a - a.mean()) / torch.sqrt(((a - a.mean()) ** 2).mean() + 1e-5) * g * v[number]).sum()
        for value, term in zip((bias[at], rms[at], layer[at]), terms, strict=True):
            assert float(value) == pytest.approx(float(term), rel=1e-3, abs=1e-3)
        outer = torch.outer(grads[row, token], inputs[row, token])
        assert float(found[at]) == pytest.approx(float((outer * matrices[number]).sum()), rel=1e-3, abs=1e-3)
        entry = matrices[number, ids[row, token]]
        assert float(looked_up[at]) == pytest.approx(float((table[row, token] * entry).sum()), rel=1e-3, abs=1e-3)
