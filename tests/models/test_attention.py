"""Grouped attention against its formula and the fused kernel, and when it steps aside."""

import pytest
import torch
from torch import nn

from ripcurrent.models._attention import LONGEST_GROUPED, grouped_attention, use_grouped_attention
from tests.models.tiny import tiny_model


class Causal(nn.Module):
    """What the interface reads of a module."""

    is_causal = True
    num_key_value_groups = 2


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


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-6), (torch.bfloat16, 5e-3)])
@pytest.mark.parametrize("before", [0, 5], ids=["whole rows", "after a shared prefix"])
@pytest.mark.parametrize(("rows", "key_heads", "scaling"), [(1, 2, 0.4), (3, 2, 0.4), (2, 1, None), (2, 4, 0.3)])
def test_output_and_gradients_are_those_of_the_formula(dtype, close, before, rows, key_heads, scaling):
    """In float64; queries may begin after keys that a mask says are seen."""
    torch.manual_seed(0)
    tokens = 40
    # heads behind tokens in memory, as a projection makes them
    query = torch.randn(rows, tokens, 4, 8, dtype=dtype).transpose(1, 2).requires_grad_()
    key, value = (
        torch.randn(rows, before + tokens, key_heads, 8, dtype=dtype).transpose(1, 2).requires_grad_() for _ in range(2)
    )
    seen = torch.ones(tokens, before + tokens, dtype=torch.bool).tril(before)
    mask = seen.expand(rows, 1, -1, -1) if before else None
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        found, weights = grouped_attention(Causal(), query, key, value, mask, scaling=scaling)
    assert weights is None
    # inputs and probabilities are all that is kept
    assert {tensor.dtype for tensor in kept} == {dtype}
    inputs = sum(states.numel() for states in (query, key, value))
    assert sum(tensor.numel() for tensor in kept) == inputs + rows * 4 * tokens * (before + tokens)
    towards = torch.randn_like(found)
    exact = [states.detach().double().requires_grad_() for states in (query, key, value)]
    doubled = [states.repeat_interleave(4 // key_heads, dim=1) for states in exact[1:]]
    scores = (exact[0] @ doubled[0].mT * (scaling or 8**-0.5)).masked_fill(~seen, float("-inf"))
    expected = (torch.softmax(scores, dim=-1) @ doubled[1]).transpose(1, 2)
    assert (found - expected).norm() < close * expected.norm()
    ours = torch.autograd.grad(found, (query, key, value), towards)
    theirs = torch.autograd.grad(expected, exact, towards.double())
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == dtype
        assert (one - other).norm() < close * other.norm()


def test_scores_are_float32_under_autocast_too():
    """Where training lets products run in bfloat16, as large scores would be several per cent off."""
    torch.manual_seed(0)
    query = 20 * torch.randn(2, 4, 30, 8)
    key, value = torch.randn(2, 2, 30, 8), torch.randn(2, 2, 30, 8)
    expected, _ = grouped_attention(Causal(), query, key, value, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = grouped_attention(Causal(), query, key, value.bfloat16(), None)
    assert found.dtype == torch.bfloat16
    assert (found - expected).norm() < 6e-3 * expected.norm()


def test_a_second_derivative_is_refused_and_not_wrong():
    states = torch.randn(1, 2, 6, 4, requires_grad=True)
    found, _ = grouped_attention(Causal(), states, states, states, None)
    (first,) = torch.autograd.grad(found.sum(), states, create_graph=True)
    with pytest.raises(RuntimeError, match=r"does not require grad|once_differentiable"):
        first.square().sum().backward()


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
    fused = "ripcurrent.models._attention.sdpa_attention_forward"
    monkeypatch.setattr(fused, lambda *args, **kwargs: taken.append(args[1].shape[2]))
    for tokens in (LONGEST_GROUPED, LONGEST_GROUPED + 1):
        states = torch.randn(1, 2, tokens, 4)
        grouped_attention(Causal(), states, states[:, :1], states[:, :1], None)
    assert taken == [LONGEST_GROUPED + 1]
