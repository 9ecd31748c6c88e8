"""The loss over loss-bearing positions against whole logits and autograd, and a head that is not understood."""

from importlib import import_module

import pytest
import torch

from ripcurrent.errors import RipcurrentError
from ripcurrent.finetune import _head_loss
from ripcurrent.finetune._head_loss import _HeadLoss
from ripcurrent.gradients import LogitTransform
from tests.finetune.runs import chat_model, recipe, run
from tests.finetune.test_train import token_losses
from tests.models.tiny import tiny_model


@pytest.mark.parametrize("transform", [LogitTransform(), LogitTransform(0.5, 3.0)], ids=["plain", "scaled and capped"])
def test_loss_and_gradients_are_autograds(transform, monkeypatch):
    monkeypatch.setattr(_head_loss, "POSITIONS", 4)  # 11 positions in three chunks
    generator = torch.Generator().manual_seed(0)
    leaves = [torch.randn(shape, generator=generator).requires_grad_() for shape in ((11, 6), (17, 6))]
    targets = torch.randint(17, (11,), generator=generator)
    found = _HeadLoss.apply(*leaves, targets, transform)
    gradients = torch.autograd.grad(found * 0.25, leaves)
    logits = torch.nn.functional.linear(*leaves) * transform.factor
    if transform.softcap is not None:
        logits = torch.tanh(logits / transform.softcap) * transform.softcap
    wanted = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    torch.testing.assert_close(found, wanted)
    for one, other in zip(gradients, torch.autograd.grad(wanted * 0.25, leaves), strict=True):
        torch.testing.assert_close(one, other)


def test_bfloat16_gradients_are_near_float32_ones_and_have_the_masters_type():
    generator = torch.Generator().manual_seed(1)
    hidden, weight = torch.randn(40, 32, generator=generator), torch.randn(50, 32, generator=generator) / 6
    targets = torch.randint(50, (40,), generator=generator)
    leaves = [hidden.requires_grad_(True), weight.requires_grad_(True)]
    exact = torch.autograd.grad(_HeadLoss.apply(hidden, weight, targets, LogitTransform()), leaves)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = _HeadLoss.apply(hidden, weight, targets, LogitTransform())
    for one, other in zip(torch.autograd.grad(loss, leaves), exact, strict=True):
        assert one.dtype == torch.float32
        assert 0 < (one - other).norm() / other.norm() < 0.01


def test_a_head_that_is_not_understood_is_trained_by_the_models_own_way(tmp_path, monkeypatch):
    def refuse(causal: object) -> LogitTransform:
        raise RipcurrentError("not understood")

    monkeypatch.setattr(_head_loss, "find_logit_transform", refuse)
    monkeypatch.setattr(import_module("ripcurrent.finetune._trainer"), "PART_TOKENS", 10**6)
    done = run(tmp_path, recipe(batch=10, epochs=1), model=chat_model("gemma2"))
    ids, labels = done.fed[0]
    expected = token_losses(tiny_model("gemma2"), ids, labels).mean().item()
    assert done.record.first_loss == pytest.approx(expected, rel=1e-4)
