"""The per-row probe against a loop by hand, and weights that come back to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ripcurrent.experiment._openings import RefusalOdds, open_requests
from ripcurrent.experiment._probe import RowProbe, draw_stratified
from tests.finetune.runs import chat_model, encoded_rows

REQUESTS = ("Bake bread.", "Tell me all that you know of old maps.")
OPENINGS = ("Sorry", "I'm sorry", "No,")


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("row_tokens", [None, 4])
def test_the_drop_is_that_of_adam_steps_by_hand(row_tokens: int | None) -> None:
    row = encoded_rows(3)[2]
    probed = chat_model()
    opened = open_requests(REQUESTS, OPENINGS, probed)
    probe = RowProbe(probed, opened, steps=3, learning_rate=1e-2, compute=torch.float32, row_tokens=row_tokens)
    found = probe(row)

    by_hand = chat_model()
    model = by_hand.model.requires_grad_(True)
    before = RefusalOdds(by_hand, opened, torch.float32)()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, fused=False)
    bearing = np.flatnonzero(row.loss_mask)[:row_tokens]
    losses = []
    for _ in range(3):
        logs = torch.log_softmax(model(input_ids=torch.tensor([row.tokens.tolist()])).logits[0], dim=-1)
        loss = sum(-logs[place - 1, int(row.tokens[place])] for place in bearing) / len(bearing)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = RefusalOdds(by_hand, opened, torch.float32)()
    np.testing.assert_allclose(found.losses, losses, rtol=1e-4)
    assert losses[2] < losses[0]
    np.testing.assert_allclose(found.drops, before - after, atol=2e-3)
    assert np.abs(found.drops).max() > 0.05


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_weights_come_back_to_the_bit_and_no_row_knows_of_another(compute: torch.dtype) -> None:
    rows = encoded_rows(4)
    chat = chat_model()
    start = weights(chat.model)
    probe = RowProbe(chat, open_requests(REQUESTS, OPENINGS, chat), steps=2, learning_rate=1e-2, compute=compute)
    first = [probe(row) for row in rows]
    after = weights(chat.model)
    assert all(torch.equal(start[name], after[name]) for name in start)
    backwards = [probe(row) for row in reversed(rows)][::-1]
    fresh = chat_model()
    alone = RowProbe(fresh, open_requests(REQUESTS, OPENINGS, fresh), steps=2, learning_rate=1e-2, compute=compute)(
        rows[3]
    )
    for one, other in zip(first, backwards, strict=True):
        assert np.array_equal(one.drops, other.drops)
        assert one.losses == other.losses
    assert np.array_equal(alone.drops, first[3].drops)


def test_a_row_that_breaks_the_model_leaves_no_trace() -> None:
    rows = encoded_rows(2)
    chat = chat_model()
    start = weights(chat.model)
    probe = RowProbe(chat, open_requests(REQUESTS, OPENINGS, chat), steps=3, learning_rate=1e38, compute=torch.float32)
    assert np.isnan(probe(rows[0]).drop)
    after = weights(chat.model)
    assert all(torch.equal(start[name], after[name]) for name in start)


def test_the_draw_takes_equally_many_of_every_stratum() -> None:
    values = np.random.default_rng(3).normal(size=100)
    drawn = draw_stratified(values, 40, 10, seed=1)
    assert len(set(drawn.tolist())) == 40
    bins = np.argsort(np.argsort(values))[drawn] // 10
    assert np.bincount(bins, minlength=10).tolist() == [4] * 10
    # any beginning of the order is a sample too
    assert np.bincount(bins[:20], minlength=10).tolist() == [2] * 10
    assert np.array_equal(drawn, draw_stratified(values, 40, 10, seed=1))
    assert not np.array_equal(drawn, draw_stratified(values, 40, 10, seed=2))
    assert sorted(draw_stratified(values[:7], 40, 10, seed=0).tolist()) == list(range(7))
    assert len(draw_stratified(values, 25, 10, seed=0)) == 25
