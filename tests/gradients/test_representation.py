"""Features at every layer and position against a loop over the model's own hidden states, one row at a time."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from ripcurrent.data import EncodedRow
from ripcurrent.errors import RipcurrentError
from ripcurrent.gradients import FeatureReader, GradientPass, Position, make_batch, stack_directions
from ripcurrent.models import ChatModel
from tests.gradients.oracle import chat_model, random_rows
from tests.models.tiny import tiny_model

CPU = torch.device("cpu")
POSITIONS: tuple[Position, ...] = ("last", "last_content", "mean_response", "last_prompt")
KINDS = ("llama_tied", "gemma2", "gpt2")


@cache
def tiny(kind: str) -> ChatModel:
    return chat_model(tiny_model(kind))


def rows(count: int, seed: int = 0) -> list[EncodedRow]:
    return random_rows(np.random.default_rng(seed), count)


def expected(model: Any, row: EncodedRow, layer: int | None, position: Position) -> np.ndarray:
    """The row's feature from ``output_hidden_states`` and one block's hooked output, alone in its batch."""
    kept: list[torch.Tensor] = []
    base = model.base_model
    blocks = base.layers if hasattr(base, "layers") else base.h
    handle = blocks[layer or 0].register_forward_hook(
        lambda module, inputs, output: kept.append(output[0] if isinstance(output, tuple) else output)
    )
    with torch.no_grad():
        ids = torch.tensor(row.tokens.astype(np.int64)).unsqueeze(0)
        states = model(input_ids=ids, output_hidden_states=True).hidden_states
    handle.remove()
    chosen = states[-1][0] if layer is None else kept[0].reshape(states[-1][0].shape)
    if layer is not None and layer % len(blocks) < len(blocks) - 1:
        # output_hidden_states starts with the embeddings; its last is after the final norm
        torch.testing.assert_close(chosen, states[layer % len(blocks) + 1][0])
    if position == "mean_response":
        bearing = [chosen[place] for place in range(len(row.tokens)) if row.loss_mask[place]]
        return (torch.stack(bearing).sum(dim=0) / len(bearing)).numpy()
    places = {"last": len(row.tokens) - 1, "last_content": row.last_content, "last_prompt": row.last_prompt}
    return chosen[places[position]].numpy()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("layer", [None, 0, 1, -1, -2])
def test_features_equal_the_models_own_states(kind, position, layer):
    model = tiny(kind)
    batch = rows(6)
    found = FeatureReader(model, layer=layer, position=position).forward(make_batch(batch, CPU)).features
    assert found is not None
    assert found.dtype == np.float32
    for feature, row in zip(found, batch, strict=True):
        np.testing.assert_allclose(feature, expected(model.model, row, layer, position), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("layer", [None, 0])
def test_the_backward_pass_reads_the_same_features(position, layer):
    model = tiny("llama_tied")
    gradient_pass = GradientPass(model)
    reader = FeatureReader(model, layer=layer, position=position)
    batch = make_batch(rows(5), CPU)
    nothing = stack_directions(gradient_pass.layers, [], torch.float32)
    both = gradient_pass.measure(batch, nothing, reader).features
    np.testing.assert_allclose(both, reader.forward(batch).features, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer", [2, -3, 99])
def test_a_layer_that_does_not_exist_is_named_with_those_that_do(layer):
    with pytest.raises(RipcurrentError, match=rf"Layer {layer} does not exist: tiny has blocks 0 to 1"):
        FeatureReader(tiny("llama_tied"), layer=layer)
