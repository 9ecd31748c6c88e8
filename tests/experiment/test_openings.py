"""The log-odds of a refusal's opening against plain passes, one for every opening."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch

from ripcurrent.data import Message, encode_anchor
from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment._openings import (
    OpenedRequests,
    RefusalOdds,
    build_tree,
    log_odds,
    open_requests,
)
from tests.finetune.runs import chat_model

REQUESTS = ("Bake bread.", "Tell me all that you know of old maps and of boats.", "Seven?")
OPENINGS = ("Sorry", "I'm sorry", "I'm not", "I can't", "No,", "No, I", "I")


def plain_probability(model: Any, request: tuple[int, ...], openings: list[tuple[int, ...]]) -> float:
    """The sum over openings of the product of their tokens' probabilities, a pass for each."""
    total = 0.0
    for opening in openings:
        ids = torch.tensor([[*request, *opening]])
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits[0].double()
        logs = torch.log_softmax(logits, dim=-1)
        total += math.exp(sum(float(logs[len(request) - 1 + at, token]) for at, token in enumerate(opening)))
    return total


@pytest.mark.parametrize("kind", ["llama_tied", "llama_untied", "qwen2", "qwen3", "gemma", "gpt2", "mistral", "phi3"])
def test_log_odds_are_those_of_a_pass_for_every_opening(kind: str) -> None:
    chat = chat_model(kind)
    opened = open_requests(REQUESTS, ("Sorry", "I'm sorry", "I'm not", "I can't", "No,"), chat)
    odds = RefusalOdds(chat, opened, torch.float32)()
    assert odds.shape == (3,)
    openings = [
        (*(opened.tree.tokens[node - 1] for node in opened.tree.path(place)), token)
        for place, token in opened.tree.ends
    ]
    assert len(openings) == 5
    for request, found in zip(opened.requests, odds, strict=True):
        probability = plain_probability(chat.model, request, openings)
        assert found == pytest.approx(math.log(probability / (1 - probability)), abs=2e-4)


def test_eager_attention_gives_the_same() -> None:
    chat = chat_model("llama_tied")
    opened = open_requests(REQUESTS, OPENINGS[:5], chat)
    fused = RefusalOdds(chat, opened, torch.float32)()
    chat.model.set_attn_implementation("eager")
    np.testing.assert_allclose(RefusalOdds(chat, opened, torch.float32)(), fused, atol=1e-4)


def test_a_request_does_not_see_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = chat_model("llama_tied")
    together = RefusalOdds(chat, open_requests(REQUESTS, OPENINGS[:5], chat), torch.float32)()
    alone = [RefusalOdds(chat, open_requests([one], OPENINGS[:5], chat), torch.float32)()[0] for one in REQUESTS]
    np.testing.assert_allclose(together, alone, atol=1e-4)
    monkeypatch.setattr(import_module("ripcurrent.experiment._openings"), "TOKENS_AT_ONCE", 1)
    one_by_one = RefusalOdds(chat, open_requests(REQUESTS, OPENINGS[:5], chat), torch.float32)()
    np.testing.assert_allclose(one_by_one, together, atol=1e-4)


def test_openings_are_tokenised_as_the_beginning_of_an_answer() -> None:
    chat = chat_model()
    opened = open_requests(REQUESTS, ("Sorry",), chat)
    row = encode_anchor((Message("user", REQUESTS[0]), Message("assistant", "Sorry")), chat.tokenizer, first_tokens=99)
    text = chat.tokenizer.decode(opened.requests[0])
    assert text.endswith("assistant\n")
    (place, last), *_ = opened.tree.ends
    path = [opened.tree.tokens[node - 1] for node in opened.tree.path(place)] + [last]
    assert path == row.tokens[row.loss_mask].tolist()


def test_an_opening_within_another_is_counted_once() -> None:
    tree = build_tree([(1, 2), (1, 3), (1, 2, 5), (4,), (4, 9), (), (6, 7, 8)])
    openings = [(*(tree.tokens[node - 1] for node in tree.path(place)), token) for place, token in tree.ends]
    assert sorted(openings) == [(1, 2), (1, 3), (4,), (6, 7, 8)]
    assert sorted(tree.children(0)) == [1, 4, 6]


def test_a_sure_refusal_does_not_round_away() -> None:
    # p = 1 - 3e-13 of the only opening: a difference from 1 that float32 does not have
    logits = torch.full((1, 1, 4), 0.0)
    logits[0, 0, 2] = 30.0
    odds = log_odds(logits, build_tree([(2,)]))
    assert float(odds) == pytest.approx(30 - math.log(3), rel=1e-6)


def test_longer_requests_than_the_window_are_refused() -> None:
    chat = chat_model("gemma2")
    opened = OpenedRequests((tuple(range(3, 40)),), build_tree([(5,)]))
    with pytest.raises(RipcurrentError, match="attention window"):
        RefusalOdds(chat, opened, torch.float32)


def test_an_architecture_that_ignores_the_mask_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = chat_model()
    base = chat.model.model
    forward = base.forward

    def without_mask(*arguments: Any, attention_mask: Any = None, **named: Any) -> Any:
        return forward(*arguments, **named)

    monkeypatch.setattr(base, "forward", without_mask)
    with pytest.raises(RipcurrentError, match="attention masks") as caught:
        RefusalOdds(chat, open_requests(REQUESTS, OPENINGS[:5], chat), torch.float32)
    assert caught.value.code == 2
