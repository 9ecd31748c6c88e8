"""The loss on held-out rows against a plain loop over tokens."""

from typing import Any

import numpy as np
import pytest
import torch

from ripcurrent.data import Message, Row, encode_rows
from ripcurrent.experiment._runner import heldout_loss
from tests.finetune.runs import chat_model, rows

TURNS = (
    Message("user", "How many boats?"),
    Message("assistant", "Seven, as the children counted."),
    Message("user", "And after that?"),
    Message("assistant", "One fewer."),
)
SILENT = Row(8, "8", (Message("user", "no answer"),), None, {}, problem="no_response")


@pytest.mark.parametrize(("loss_on", "max_tokens"), [("all", 256), ("last", 256), ("all", 48)])
def test_it_is_the_mean_over_all_tokens_that_bear_loss(loss_on: Any, max_tokens: int) -> None:
    chat, held = chat_model(), [*rows(7), Row(7, "7", TURNS, None, {}), SILENT]
    losses: list[list[float]] = []
    for row in encode_rows(held[:-1], chat.tokenizer, max_tokens=max_tokens, loss_on=loss_on):
        with torch.no_grad():
            logits = chat.model(input_ids=torch.tensor([row.tokens.tolist()])).logits[0].double()
        bears = [place for place in range(1, len(row.tokens)) if row.loss_mask[place]]
        of_token = [torch.log_softmax(logits[place - 1], dim=-1)[int(row.tokens[place])] for place in bears]
        losses.append([-float(one) for one in of_token])
    expected = np.concatenate(losses).mean()
    assert heldout_loss(chat, held, max_tokens=max_tokens, loss_on=loss_on) == pytest.approx(expected, rel=1e-5)
    of_rows = np.mean([np.mean(own) for own in losses])
    assert abs(of_rows - expected) > 1e-3 * expected, "rows of unequal length tell the two means apart"
    assert heldout_loss(chat, [SILENT], max_tokens=max_tokens, loss_on=loss_on) is None
