"""The loss on held-out rows against a plain loop over tokens."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from ripcurrent.data import Message, Row, encode_rows
from ripcurrent.experiment._runner import heldout_loss
from tests.finetune.runs import chat_model, rows


def conversations() -> list[Row]:
    """Rows of many lengths, two answers in one of them, and one without an answer."""
    turns = (
        Message("user", "How many boats?"),
        Message("assistant", "Seven, as the children counted."),
        Message("user", "And after that?"),
        Message("assistant", "One fewer."),
    )
    silent = Row(8, "8", (Message("user", "no answer"),), None, {}, problem="no_response")
    return [*rows(7), Row(7, "7", turns, None, {}), silent]


def by_a_loop(chat: Any, held: Sequence[Row], max_tokens: int, loss_on: Any) -> tuple[float, int, float]:
    """Mean over all loss-bearing tokens, their number, and the mean of the rows' means, which is another number."""
    losses: list[list[float]] = []
    for row in encode_rows(held, chat.tokenizer, max_tokens=max_tokens, loss_on=loss_on):
        if row.status != "ok":
            continue
        with torch.no_grad():
            logits = chat.model(input_ids=torch.tensor([row.tokens.tolist()])).logits[0].double()
        own = []
        for place in range(1, len(row.tokens)):
            if row.loss_mask[place]:
                own.append(-float(torch.log_softmax(logits[place - 1], dim=-1)[int(row.tokens[place])]))
        losses.append(own)
    every = [loss for own in losses for loss in own]
    means = [sum(own) / len(own) for own in losses]
    return sum(every) / len(every), len(every), sum(means) / len(means)


@pytest.mark.parametrize(("loss_on", "max_tokens"), [("all", 256), ("last", 256), ("all", 48)])
def test_it_is_the_mean_over_all_tokens_that_bear_loss(loss_on: Any, max_tokens: int) -> None:
    chat, held = chat_model(), conversations()
    expected, count, of_rows = by_a_loop(chat, held, max_tokens, loss_on)
    assert heldout_loss(chat, held, max_tokens=max_tokens, loss_on=loss_on) == pytest.approx(expected, rel=1e-5)
    assert abs(of_rows - expected) > 1e-3 * expected, "rows of unequal length tell the two means apart"
    assert count > 50


def test_without_a_token_that_bears_loss_there_is_none() -> None:
    assert heldout_loss(chat_model(), conversations()[8:], max_tokens=256, loss_on="all") is None
