"""States after a shared prefix against the same rows alone, on every kind of attention; and what is not shared."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ripcurrent.gradients import FeatureReader, Position, make_batch
from ripcurrent.gradients._shared import SharedPrefix, common_length
from ripcurrent.models import use_grouped_attention
from tests.gradients.oracle import PREFIX, chat_model, rows_behind_a_prefix
from tests.models.tiny import tiny_model

CPU = torch.device("cpu")


def counted(model: Any) -> list[int]:
    """Filled with the tokens of every forward pass from now on."""
    seen: list[int] = []
    base = getattr(model, model.base_model_prefix)
    base.register_forward_pre_hook(lambda _, __, named: seen.append(named["input_ids"].numel()), with_kwargs=True)
    return seen


KINDS = ("llama_tied", "qwen2", "qwen3", "gemma2", "gemma3", "gpt2", "mistral", "phi3")
ATTENTION = [(kind, False) for kind in KINDS] + [(kind, True) for kind in KINDS if kind != "gemma2"]
"""Gemma 2 caps its attention scores, which grouped products leave to transformers."""


@pytest.mark.parametrize(("kind", "grouped"), ATTENTION)
@pytest.mark.parametrize("position", ["last", "mean_response"])
def test_features_are_those_of_rows_alone(kind: str, grouped: bool, position: Position) -> None:
    model = chat_model(tiny_model(kind))
    if grouped:
        use_grouped_attention(model.model)
    batch = rows_behind_a_prefix(5, seed=1)
    for layer in (None, 0):
        reader = FeatureReader(model, layer=layer, position=position)
        alone = np.concatenate([reader.forward(make_batch([row], CPU)).features for row in batch])
        seen = counted(model.model)
        for _ in range(2):
            found = reader.forward(make_batch(batch, CPU)).features
            np.testing.assert_allclose(found, alone, rtol=1e-4, atol=1e-5)
        width = make_batch(batch, CPU).ids.shape[1]
        assert seen[0] >= PREFIX, "the prefix, once"
        assert seen[1:] == [5 * (width - seen[0])] * 2


def test_rows_with_other_prefixes_come_between() -> None:
    model = chat_model(tiny_model("llama_tied"))
    reader = FeatureReader(model)
    first, second = rows_behind_a_prefix(4, seed=1), [*rows_behind_a_prefix(3, seed=2, prefix=13)]
    alone = [
        np.concatenate([reader.forward(make_batch([row], CPU)).features for row in part]) for part in (first, second)
    ]
    for place in (0, 1, 0, 1):
        found = reader.forward(make_batch((first, second)[place], CPU)).features
        np.testing.assert_allclose(found, alone[place], rtol=1e-4, atol=1e-5)


def test_the_same_batch_gives_the_same_bits_whatever_was_seen_before() -> None:
    """A resumed scan has not seen the batches before."""
    model = chat_model(tiny_model("qwen2"))
    fresh, used = FeatureReader(model), FeatureReader(model)
    for seed in range(12):
        used.forward(make_batch(rows_behind_a_prefix(3, seed=seed, prefix=8 + seed), CPU))
    batch = make_batch(rows_behind_a_prefix(4, seed=50), CPU)
    assert np.array_equal(fresh.forward(batch).features, used.forward(batch).features)


def test_no_token_is_shared_whose_state_or_loss_is_asked_for() -> None:
    row = rows_behind_a_prefix(1, seed=3)[0]
    twice = make_batch([row, row], CPU)
    first_loss = int(np.flatnonzero(row.loss_mask)[0])
    assert common_length(twice) == min(first_loss, row.last_prompt, row.last_content, len(row.tokens) - 1)
    apart = replace(row, tokens=row.tokens.copy())
    apart.tokens[5] += 1
    assert common_length(make_batch([row, apart], CPU)) == 5
    model = tiny_model("llama_tied")
    split = SharedPrefix(model.model, model.config).split
    assert split(make_batch([row, apart], CPU))[0] == {}, "too short to pay"
    assert split(make_batch([row], CPU))[0] == {}, "one row shares with none"
