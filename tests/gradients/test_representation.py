"""Features against the model's own hidden states, one row at a time."""

import numpy as np
import pytest
import torch

from ripcurrent.gradients import FeatureReader, GradientPass, make_batch, stack_directions
from tests.gradients.oracle import chat_model, random_rows
from tests.models.tiny import tiny_model


@pytest.mark.parametrize("kind", ["llama_tied", "gemma2", "gpt2"])
def test_features_are_the_last_tokens_states_with_and_without_a_backward_pass(kind):
    model = chat_model(tiny_model(kind))
    rows = random_rows(np.random.default_rng(0), 6)
    batch, gradient_pass = make_batch(rows, torch.device("cpu")), GradientPass(model)
    nothing = stack_directions(gradient_pass.layers, [], torch.float32)
    for found in (FeatureReader(model).forward(batch), gradient_pass.measure(batch, nothing, features=True)):
        assert found.features.dtype == np.float32
        for feature, row in zip(found.features, rows, strict=True):
            ids = torch.tensor(row.tokens.astype(np.int64)).unsqueeze(0)
            states = model.model(input_ids=ids, output_hidden_states=True).hidden_states
            np.testing.assert_allclose(feature, states[-1][0, -1].detach(), rtol=1e-4, atol=1e-5)
