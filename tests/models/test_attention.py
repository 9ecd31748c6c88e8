"""Grouped attention against a plain loop and the fused kernel, and when it steps aside."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn

from ripcurrent.models._attention import LONGEST, grouped_attention, use_grouped_attention
from tests.models.tiny import tiny_model


class Causal(nn.Module):
    """What the interface reads of a module."""

    is_causal = True
    num_key_value_groups = 2


def loop(query, key, value, scaling):
    rows, heads, tokens, _ = query.shape
    output = torch.zeros(rows, tokens, heads, value.shape[-1], dtype=query.dtype)
    for row in range(rows):
        for head in range(heads):
            source = head // (heads // key.shape[1])
            for place in range(tokens):
                scores = torch.stack([query[row, head, place] @ key[row, source, other] for other in range(place + 1)])
                weights = torch.softmax(scores * scaling, dim=0)
                output[row, place, head] = sum(w * value[row, source, other] for other, w in enumerate(weights))
    return output


@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_equals_a_plain_loop(key_heads, scaling):
    torch.manual_seed(0)
    query = torch.randn(2, 7, 4, 8, dtype=torch.float32).transpose(1, 2)
    key, value = (torch.randn(2, 7, key_heads, 8, dtype=torch.float32).transpose(1, 2) for _ in range(2))
    found, weights = grouped_attention(Causal(), query, key, value, None, scaling=scaling)
    assert weights is None
    torch.testing.assert_close(found, loop(query, key, value, scaling or 1 / math.sqrt(8)))


@pytest.mark.parametrize("kind", ["llama_tied", "qwen2", "qwen3", "mistral", "gemma", "gemma3", "phi3", "gpt2"])
def test_a_model_gives_the_same_states_and_gradients_as_with_the_fused_kernel(kind):
    ids = torch.randint(0, 300, (3, 21), generator=torch.Generator().manual_seed(1))
    results = []
    for grouped in (False, True):
        model = tiny_model(kind)
        if grouped:
            use_grouped_attention(model)
        logits = model(input_ids=ids).logits
        logits.square().mean().backward()
        results.append((logits.detach(), {name: p.grad for name, p in model.named_parameters()}))
    (logits, grads), (other_logits, other_grads) = results
    torch.testing.assert_close(logits, other_logits, rtol=1e-4, atol=1e-4)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, other_grads[name], rtol=1e-3, atol=1e-5)


def keep(sizes, tensor):
    sizes.append(tensor.numel())
    return tensor


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_computed_again_give_the_same_gradients_and_are_not_kept(monkeypatch, dtype):
    results = []
    for kept in (64, 16):
        monkeypatch.setattr("ripcurrent.models._attention.KEPT", kept)
        torch.manual_seed(0)
        query = torch.randn(2, 4, 33, 8, dtype=dtype, requires_grad=True)
        key, value = (torch.randn(2, 2, 33, 8, dtype=dtype, requires_grad=True) for _ in range(2))
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(partial(keep, sizes), lambda tensor: tensor):
            output, _ = grouped_attention(Causal(), query, key, value, None)
        grads = torch.autograd.grad(output.float().square().sum(), (query, key, value))
        results.append((output.detach(), *grads, max(sizes, default=0)))
    *plain, most = results[0]
    *again, most_again = results[1]
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert most >= 2 * 4 * 33 * 33 > most_again


def test_generation_with_a_cache_and_left_padding_still_works():
    model = tiny_model("llama_tied")
    ids = torch.randint(3, 300, (2, 9), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    plain = model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False)
    use_grouped_attention(model)
    assert torch.equal(model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False), plain)


def test_long_rows_go_to_the_fused_kernel(monkeypatch):
    taken = []
    monkeypatch.setattr(
        "ripcurrent.models._attention.sdpa_attention_forward", lambda *args, **kwargs: taken.append(args[1].shape[2])
    )
    for tokens in (LONGEST, LONGEST + 1):
        states = torch.randn(1, 2, tokens, 4)
        grouped_attention(Causal(), states, states[:, :1], states[:, :1], None)
    assert taken == [LONGEST + 1]
