"""A stage made again elsewhere scores as the one it was made from, also with factored directions."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from ripcurrent.models import load_model
from ripcurrent.signals import (
    GradientPass,
    SignalStage,
    choose_factoring,
    set_direction,
    share_stage,
    stack_directions,
)
from tests.models.tiny import save_tiny
from tests.signals.oracle import random_rows


@dataclass
class Sent:
    """An array that travels with its holder."""

    array: npt.NDArray[Any]

    def get(self) -> npt.NDArray[Any]:
        return self.array


@pytest.mark.parametrize("kind", ["llama_tied", "gpt2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_factored_directions_travel(kind: str, dtype: str, tmp_path: Path) -> None:
    arguments = {"name": str(save_tiny(tmp_path / "model", kind)), "device": "cpu", "dtype": dtype}
    chat_model = load_model(**arguments)
    gradient_pass = GradientPass(chat_model)
    factoring = choose_factoring(gradient_pass.catalogue, 1, 1)
    anchors = random_rows(np.random.default_rng(1), 4)
    gradient = set_direction(gradient_pass, anchors, factoring=factoring).gradient
    directions = stack_directions(gradient_pass.catalogue, [gradient, gradient], chat_model.dtype)
    assert directions.places
    assert len(directions.term_weights) > 4
    stage = SignalStage(
        chat_model=chat_model,
        token_budget=64,
        gradient_pass=gradient_pass,
        directions=directions,
        direction_columns=("dot_harmful", "dot_safe"),
    )
    sent = pickle.dumps(share_stage(stage, Sent, model=arguments, layer=None, position="last"))
    rows = random_rows(np.random.default_rng(2), 5)
    here, there = stage.measure(rows), pickle.loads(sent)().measure(rows)
    assert torch.isfinite(torch.as_tensor(here.dots)).all()
    np.testing.assert_array_equal(there.dots, here.dots)
    np.testing.assert_array_equal(there.squared_norm, here.squared_norm)
