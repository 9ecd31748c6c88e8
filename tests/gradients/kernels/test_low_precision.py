"""Kernels on bfloat16: what they add up, they add up in float32, whatever their products are rounded to.

Two kinds of kernels. Some compute in float32 throughout: random numbers show it. Others form matrix products in the
compute type, which rounds them by design: whole numbers, small enough for bfloat16 to hold every product, leave their
sums nothing to be wrong in, while these sums are too large for bfloat16.
"""

import itertools

import pytest
import torch

from ripcurrent.gradients.kernels import embedding, factored, head, linear, vector

ROWS, TOKENS, WIDTH, VOCABULARY, DIRECTIONS, TERMS = 6, 300, 8, 11, 2, 5


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def whole(*shape, seed=0):
    """Zeros and ones: products over a width of 8 are at most 64, sums over tokens in the thousands."""
    return torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def weight_gradients(inputs, grads):
    return torch.einsum("rto,rti->roi", grads.double(), inputs.double())


def dots_with(gradients, directions):
    return gradients.flatten(1) @ directions.double().flatten(1).mT


def squared(gradients):
    return gradients.flatten(1).square().sum(dim=1)


def assert_exact(found, expected):
    """Equal to the bit, in float32, and of a size at which bfloat16 holds few whole numbers."""
    assert expected.max() > 1024
    assert not torch.equal(expected, expected.bfloat16().double())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=0)


def assert_summed_in_float32(found, expected, scale=None):
    """Roundings of float32 sums over a few hundred terms, relative to the lengths of what is multiplied."""
    assert found.dtype == torch.float32
    scale = expected.norm(dim=-1, keepdim=True) if scale is None else scale
    assert float(((found.double() - expected).abs() / scale).max()) < 1e-6


@pytest.mark.parametrize(("dots_way", "norm_way"), [*itertools.product((False, True), repeat=2)])
@pytest.mark.parametrize("narrower", ["in", "out"])
def test_linear_layers(dots_way, norm_way, narrower):
    fan_in, fan_out = (WIDTH, 2 * WIDTH) if narrower == "in" else (2 * WIDTH, WIDTH)
    inputs, grads = whole(ROWS, TOKENS, fan_in), whole(ROWS, TOKENS, fan_out, seed=1)
    if norm_way:
        # 64 entries, so that each of the 64 pieces of a norm is one of them and is not rounded
        inputs, grads = inputs[..., :WIDTH], grads[..., :WIDTH]
    directions = whole(DIRECTIONS, grads.shape[-1], inputs.shape[-1], seed=2)
    gradients = weight_gradients(inputs, grads)
    dots, norms = linear.linear_products(inputs, grads, directions, linear.Ways(dots_way, norm_way))
    assert_exact(norms, squared(gradients))
    if dots_way:
        # read off a gradient in bfloat16 in pieces, each rounded once (docs/methods.md)
        cut = [each.double().flatten(1).chunk(linear.DOT_PIECES, dim=1) for each in (gradients, directions)]
        rounded = [(ours @ theirs.mT).bfloat16() for ours, theirs in zip(*cut, strict=True)]
        assert torch.equal(dots, torch.stack(rounded).float().sum(dim=0))
    else:
        assert_exact(dots, dots_with(gradients, directions))
    assert torch.equal(linear.linear_gradient(inputs, grads).double(), gradients.sum(dim=0))


def test_linear_layers_towards_a_direction_that_a_row_points_in():
    """Dots as large as they can be, whose rounding to bfloat16 would be 2e-3 of them."""
    inputs, grads = random(ROWS, 200, 64), random(ROWS, 200, 48, seed=1)
    gradients = weight_gradients(inputs, grads)
    directions = gradients[:DIRECTIONS].bfloat16()
    scale = squared(gradients).sqrt().unsqueeze(1) * directions.double().flatten(1).norm(dim=1)
    error = linear.linear_dots(inputs, grads, directions).double() - dots_with(gradients, directions)
    assert float((error.abs() / scale).max()) < 3e-4


def test_tables_and_the_cross_term_of_a_tied_one():
    ids = torch.randint(0, VOCABULARY, (ROWS, TOKENS), generator=torch.Generator().manual_seed(3))
    grads, directions = random(ROWS, TOKENS, WIDTH), random(DIRECTIONS, VOCABULARY, WIDTH, seed=1)
    one_hot = torch.nn.functional.one_hot(ids, VOCABULARY).double()
    tables = torch.einsum("rtv,rtw->rvw", one_hot, grads.double())
    assert_summed_in_float32(embedding.embedding_squared_norm(ids, grads), squared(tables), squared(tables))
    total = tables.sum(dim=0)
    assert_summed_in_float32(embedding.embedding_gradient(ids, grads, VOCABULARY), total, total.norm())
    found = embedding.embedding_token_dots(ids, grads, directions)
    assert_summed_in_float32(found, torch.einsum("rtw,drtw->rtd", grads.double(), directions[:, ids].double()), 10.0)
    inputs, logit_grads = random(ROWS, 50, WIDTH, seed=4), random(ROWS, 50, VOCABULARY, seed=5)
    heads = torch.einsum("rpv,rpw->rvw", logit_grads.double(), inputs.double())
    cross = embedding.tied_cross_term(logit_grads.gather(2, ids.unsqueeze(1).expand(-1, 50, -1)), inputs, grads)
    scale = squared(heads).sqrt() * squared(tables).sqrt()
    assert_summed_in_float32(cross, 2.0 * (heads * tables).sum(dim=(1, 2)), scale)


def test_vectors():
    inputs, grads = random(ROWS, TOKENS, WIDTH), random(ROWS, TOKENS, WIDTH, seed=1)
    assert_summed_in_float32(vector.bias_gradients(grads), grads.double().sum(dim=1))
    expected = torch.nn.functional.layer_norm(inputs.double(), (WIDTH,), eps=1e-5) * grads.double()
    found = vector.layer_norm_scale_gradients(inputs, grads, 1e-5)
    assert_summed_in_float32(found, expected.sum(dim=1))
    directions = random(DIRECTIONS, WIDTH, seed=2)
    dots, norms = vector.vector_products(found, directions)
    scale = norms.double().sqrt().unsqueeze(1) * directions.double().norm(dim=1)
    assert_summed_in_float32(dots, dots_with(found.double(), directions), scale)
    assert_summed_in_float32(norms, squared(found.double()), norms)


def test_rms_norm_weights_round_each_token_once():
    # signs times a power of two: the product of input and gradient, which is formed in bfloat16, is exact
    exact = random(ROWS, TOKENS, WIDTH).sign() * 2.0 ** torch.randint(-3, 4, (ROWS, TOKENS, 1)).bfloat16()
    grads = random(ROWS, TOKENS, WIDTH, seed=1)

    def formed(values):
        scale = torch.rsqrt(values.double().square().mean(dim=-1, keepdim=True) + 1e-5)
        return (values.double() * scale * grads.double()).sum(dim=1)

    assert_summed_in_float32(vector.rms_scale_gradients(exact, grads, 1e-5), formed(exact))
    # other products are rounded, independently of one another
    values = random(ROWS, TOKENS, WIDTH, seed=2)
    error = vector.rms_scale_gradients(values, grads, 1e-5).double() - formed(values)
    assert float((error / formed(values).norm(dim=1, keepdim=True)).abs().max()) < 2e-3


def test_the_head():
    inputs, logit_grads = whole(TOKENS, WIDTH), whole(TOKENS, VOCABULARY, seed=1)
    directions = whole(DIRECTIONS, VOCABULARY, WIDTH, seed=2)
    gradient = logit_grads.double().mT @ inputs.double()
    assert_exact(head.head_squared_norm(inputs, logit_grads), gradient.square().sum())
    # a wide head, so that a single position's share is large
    wide, towards = whole(20, 4096, seed=3), whole(DIRECTIONS, VOCABULARY, 4096, seed=4)
    expected = torch.einsum("tv,dvw,tw->td", logit_grads[:20].double(), towards.double(), wide.double())
    assert_exact(head.head_dots(wide, logit_grads[:20], towards), expected)
    dots = head.head_dots(inputs, logit_grads, directions).double()
    assert torch.equal(dots.sum(dim=0), dots_with(gradient.unsqueeze(0), directions)[0])


def test_factored_directions():
    inputs, grads = whole(ROWS, TOKENS, WIDTH), whole(ROWS, TOKENS, WIDTH, seed=1)
    terms = whole(TERMS, 2 * WIDTH, seed=2)
    # hundreds of one-256ths, which bfloat16 does not hold, and whose sums float32 does
    weights = torch.randint(257, 1024, (TERMS, DIRECTIONS)) / 256
    directions = torch.einsum("pd,po,pi->doi", weights.double(), terms[:, WIDTH:].double(), terms[:, :WIDTH].double())
    gradients = weight_gradients(inputs, grads)
    dots, norms = factored.factored_products(inputs, grads, terms, weights)
    assert_exact(dots, dots_with(gradients, directions))
    assert_exact(norms, squared(gradients))
    of_tokens = factored.factored_token_dots(inputs, grads, terms, weights).double()
    assert torch.equal(of_tokens, torch.einsum("rto,doi,rti->rtd", grads.double(), directions, inputs.double()))
    ids = torch.randint(0, WIDTH, (ROWS, TOKENS))
    looked_up = factored.looked_up_token_dots(ids, inputs, terms, weights).double()
    assert torch.equal(looked_up, torch.einsum("rtw,drtw->rtd", inputs.double(), directions[:, ids]))


def test_shares_of_tokens():
    inputs, grads = whole(2, 20, 128), whole(2, 20, 128, seed=1)
    directions = whole(DIRECTIONS, 128, 128, seed=2)
    expected = torch.einsum("rto,doi,rti->rtd", grads.double(), directions.double(), inputs.double())
    assert_exact(linear.linear_token_dots(inputs, grads, directions), expected)
    values, slopes, towards = random(2, 20, 512), random(2, 20, 512, seed=1), random(DIRECTIONS, 512, seed=2)
    scale = slopes.double().norm(dim=-1, keepdim=True) * towards.double().norm(dim=-1)
    rms = values.double() * torch.rsqrt(values.double().square().mean(dim=-1, keepdim=True) + 1e-5)
    layer = torch.nn.functional.layer_norm(values.double(), (512,), eps=1e-5)
    for found, normalised in (
        (vector.bias_token_dots(slopes, towards), torch.ones(512).double()),
        (vector.norm_token_dots(values, slopes, 1e-5, towards, centred=False), rms),
        (vector.norm_token_dots(values, slopes, 1e-5, towards, centred=True), layer),
    ):
        assert_summed_in_float32(found, (normalised * slopes.double()) @ towards.double().mT, scale)
