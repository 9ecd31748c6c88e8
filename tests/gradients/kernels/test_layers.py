"""Each layer kind's products against plain loops that form the row's gradient."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ripcurrent.gradients.kernels import embedding, factored, head, linear, vector

sizes = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 12), st.integers(1, 12), st.integers(0, 3))
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def tensors(size, dtype=torch.float32):
    rows, count, fan_out, fan_in, directions = size
    torch.manual_seed(0)
    inputs, grads = torch.randn(rows, count, fan_in), torch.randn(rows, count, fan_out)
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
    found = linear.linear_products(inputs, grads, directions, ways)
    torch.testing.assert_close(found, loop_linear(inputs, grads, directions), **CLOSE)
    total = sum(torch.outer(b, a) for b, a in zip(grads.flatten(0, 1), inputs.flatten(0, 1), strict=True))
    torch.testing.assert_close(linear.linear_gradient(inputs, grads), total, **CLOSE)


@pytest.mark.parametrize("at_once", [1, 2, 7])
def test_transient_rows_are_taken_a_few_at_a_time_without_changing_the_result(at_once, monkeypatch):
    """With more gradients times directions than are cut into pieces, and with fewer."""
    given = tensors((7, 5, 8, 6, 6))
    assert 7 * 6 > linear.FEW_DOTS > 2 * 6
    monkeypatch.setattr(linear, "TRANSIENT_BYTES", at_once * 8 * 6 * 4)
    found = linear.linear_products(*given, linear.Ways(True, True))
    torch.testing.assert_close(found, loop_linear(*given), **CLOSE)


@pytest.mark.parametrize(("rows", "size", "directions"), [(1, 768, 2), (3, 7, 2), (2, 1024, 1), (4, 100, 3)])
def test_dots_in_a_batch_of_pieces_are_dots(rows, size, directions):
    """What other devices than CPUs use."""
    torch.manual_seed(0)
    vectors, fixed = torch.randn(rows, size), torch.randn(directions, size)
    expected = [[float(sum(a * b for a, b in zip(v, d, strict=True))) for d in fixed] for v in vectors]
    torch.testing.assert_close(linear.batched_dots(vectors, fixed), torch.tensor(expected), **CLOSE)
    rounded = linear.batched_dots(vectors.bfloat16(), fixed.bfloat16())
    exact = vectors.bfloat16().double() @ fixed.bfloat16().double().mT
    assert ((rounded - exact).abs() / (vectors.norm(dim=1)[:, None] * fixed.norm(dim=1))).max() < 2e-3


@pytest.mark.parametrize("narrower", ["in", "out"])
@pytest.mark.parametrize("shared", [1, 4, 6])
def test_rows_that_begin_alike_have_the_products_of_their_whole_inputs(narrower, shared):
    fan_in, fan_out = (5, 9) if narrower == "in" else (9, 5)
    inputs, grads, directions = tensors((3, 6, fan_out, fan_in, 2))
    inputs[:, :shared] = inputs[:1, :shared]
    expected, norms = loop_linear(inputs, grads, directions)
    torch.testing.assert_close(linear.linear_dots(inputs, grads, directions, shared), expected, **CLOSE)
    terms, weights = torch.randn(4, fan_in + fan_out), torch.randn(4, 2)
    dense = torch.einsum("pd,po,pi->doi", weights, terms[:, fan_in:], terms[:, :fan_in])
    dots, squared = factored.factored_products(inputs, grads, terms, weights, shared)
    torch.testing.assert_close(dots, loop_linear(inputs, grads, dense)[0], **CLOSE)
    torch.testing.assert_close(squared, norms, **CLOSE)


def test_products_with_terms_equal_a_plain_loop():
    torch.manual_seed(1)
    inputs, grads = torch.randn(3, 4, 5), torch.randn(3, 4, 7)
    terms, weights = torch.randn(6, 12), torch.randn(6, 2)
    expected = torch.zeros(3, 4, 2)
    for row, token, direction, term in itertools.product(range(3), range(4), range(2), range(6)):
        gradient = torch.outer(grads[row, token], inputs[row, token])
        of_term = torch.outer(terms[term, 5:], terms[term, :5])
        expected[row, token, direction] += weights[term, direction] * (gradient * of_term).sum()
    torch.testing.assert_close(factored.factored_token_dots(inputs, grads, terms, weights), expected, **CLOSE)
    dots, squared = factored.factored_products(inputs, grads, terms, weights)
    torch.testing.assert_close(dots, expected.sum(dim=1), **CLOSE)
    torch.testing.assert_close(squared, loop_linear(inputs, grads, [])[1], **CLOSE)


def loop_terms(x, b):
    """Each token's gradient of a bias, of an RMSNorm's and of a LayerNorm's weight."""
    rms = x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-5)
    centred = x - x.mean(-1, keepdim=True)
    return b, rms * b, centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5) * b


@settings(deadline=None, max_examples=25)
@given(sizes)
def test_vector_gradients_equal_loops(size):
    rows, count, width, _, directions = size
    torch.manual_seed(1)
    x, b, v = torch.randn(rows, count, width), torch.randn(rows, count, width), torch.randn(directions, width)
    found = (
        vector.bias_gradients(b),
        vector.rms_scale_gradients(x, b, 1e-5),
        vector.layer_norm_scale_gradients(x, b, 1e-5),
    )
    for gradients, terms, close in zip(found, loop_terms(x, b), (1e-4, 1e-4, 1e-3), strict=True):
        expected = torch.stack([sum(terms[row, token] for token in range(count)) for row in range(rows)])
        torch.testing.assert_close(gradients, expected, rtol=close, atol=close)
        dots, norms = vector.vector_products(expected, v)
        torch.testing.assert_close(norms, torch.stack([(one**2).sum() for one in expected]), **CLOSE)
        for row, number in itertools.product(range(rows), range(directions)):
            assert float(dots[row, number]) == pytest.approx(float((expected[row] * v[number]).sum()), abs=1e-3)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 4), st.integers(1, 8), st.integers(0, 2))
def test_embedding_products_equal_a_loop_with_repeated_ids(rows, count, directions):
    torch.manual_seed(2)
    vocabulary, width = 5, 6
    ids = torch.randint(0, vocabulary, (rows, count))
    b, v = torch.randn(rows, count, width), torch.randn(directions, vocabulary, width)
    norms, dots = embedding.embedding_squared_norm(ids, b), embedding.embedding_token_dots(ids, b, v).sum(dim=1)
    tables = torch.zeros(rows, vocabulary, width)
    for row, token in itertools.product(range(rows), range(count)):
        tables[row, ids[row, token]] += b[row, token]
    torch.testing.assert_close(norms, (tables**2).sum((1, 2)), **CLOSE)
    torch.testing.assert_close(dots, torch.einsum("rvw,dvw->rd", tables, v), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(embedding.embedding_gradient(ids, b, vocabulary), tables.sum(0), **CLOSE)


def test_the_tied_cross_term_makes_the_norm_of_the_sum():
    torch.manual_seed(3)
    vocabulary, width, positions, count = 7, 4, 3, 5
    h, head_b = torch.randn(positions, width), torch.randn(positions, vocabulary)
    ids, table_b = torch.randint(0, vocabulary, (count,)), torch.randn(count, width)
    of_head = head_b.T @ h
    table = torch.zeros(vocabulary, width)
    for token in range(count):
        table[ids[token]] += table_b[token]
    cross = embedding.tied_cross_term(head_b[:, ids].unsqueeze(0), h.unsqueeze(0), table_b.unsqueeze(0))
    whole = ((of_head + table) ** 2).sum()
    assert float((of_head**2).sum() + (table**2).sum() + cross[0]) == pytest.approx(float(whole), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("transform", [head.LogitTransform(), head.LogitTransform(0.5), head.LogitTransform(2.0, 30.0)])
def test_losses_and_logit_gradients_equal_autograd(transform, dtype, monkeypatch):
    monkeypatch.setattr(head, "BLOCK_ELEMENTS", 1100)
    torch.manual_seed(4)
    logits, targets, weights = (torch.randn(41, 500) * 4).to(dtype), torch.randint(0, 500, (41,)), torch.rand(41) + 0.1
    raw = logits.double().requires_grad_()
    values = raw * transform.factor
    if transform.softcap is not None:
        values = torch.tanh(values / transform.softcap) * transform.softcap
    losses = torch.nn.functional.cross_entropy(values, targets, reduction="none")
    (expected,) = torch.autograd.grad((losses * weights.double()).sum(), raw)
    found = head.cross_entropy_with_gradient(logits, targets, weights, transform)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), losses.detach(), rtol=2e-6, atol=2e-6)
    # in bfloat16 half a unit in the last place: rounded once, when they are written
    close = {"rtol": 1e-4, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 2.0**-8, "atol": 1e-7}
    torch.testing.assert_close(logits.double(), expected, **close)


def test_head_products_equal_a_loop():
    torch.manual_seed(5)
    h, b, v = torch.randn(6, 4), torch.randn(6, 9), torch.randn(2, 9, 4)
    gradient = b.T @ h
    assert float(head.head_squared_norm(h, b)) == pytest.approx(float((gradient**2).sum()), rel=1e-5)
    torch.testing.assert_close(head.head_dots(h, b, v).sum(0), (v * gradient).sum((1, 2)), **CLOSE)


@settings(deadline=None, max_examples=15)
@given(sizes, st.integers(1, 3))
def test_token_dots_are_the_loops_terms(size, parts):
    rows, count, fan_out, fan_in, directions = size
    inputs, grads, matrices = tensors(size)
    found = linear.linear_token_dots(inputs, grads, matrices)
    x, b, v = torch.randn(rows, count, parts, fan_in), torch.randn(rows, count, parts, fan_in), matrices[:, 0]
    ids = torch.randint(0, fan_out, (rows, count))
    looked_up = embedding.embedding_token_dots(ids, inputs, matrices)
    of_vectors = (
        vector.bias_token_dots(b, v),
        vector.norm_token_dots(x, b, 1e-5, v, centred=False),
        vector.norm_token_dots(x, b, 1e-5, v, centred=True),
    )
    for dots, terms in zip(of_vectors, loop_terms(x, b), strict=True):
        expected = torch.einsum("rtpw,dw->rtd", terms, v)
        torch.testing.assert_close(dots, expected, rtol=1e-3, atol=1e-3)
    for row, token, number in itertools.product(range(rows), range(count), range(directions)):
        at = (row, token, number)
        outer = torch.outer(grads[row, token], inputs[row, token])
        assert float(found[at]) == pytest.approx(float((outer * matrices[number]).sum()), rel=1e-3, abs=1e-3)
        entry = matrices[number, ids[row, token]]
        assert float(looked_up[at]) == pytest.approx(float((inputs[row, token] * entry).sum()), rel=1e-3, abs=1e-3)
