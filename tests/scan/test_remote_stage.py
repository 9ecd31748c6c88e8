"""A stage made again elsewhere scores as the one it was made from, also with factored directions."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from ripcurrent.errors import RipcurrentError
from ripcurrent.gradients import GradientPass, choose_factoring, set_direction, stack_directions
from ripcurrent.models import load_model
from ripcurrent.scan import _remote
from ripcurrent.scan._remote import share_stage
from ripcurrent.scan._signal_stage import SignalStage
from tests.gradients.oracle import random_rows
from tests.models.tiny import save_tiny


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
    factoring = choose_factoring(gradient_pass.layers, 1, 1)
    anchors = random_rows(np.random.default_rng(1), 4)
    gradient = set_direction(gradient_pass, anchors, factoring=factoring).gradient
    directions = stack_directions(gradient_pass.layers, [gradient, gradient], chat_model.dtype)
    assert directions.entry_of
    assert len(directions.term_weights) > 4
    stage = SignalStage(
        chat_model=chat_model,
        token_budget=64,
        gradient_pass=gradient_pass,
        directions=directions,
        direction_columns=("dot_harmful", "dot_safe"),
    )
    shared = share_stage(stage, Sent, model=arguments, layer=None, position="last")
    sent = pickle.dumps(shared)
    rows = random_rows(np.random.default_rng(2), 5)
    here, there = stage.measure(rows), pickle.loads(sent)().measure(rows)
    assert torch.isfinite(torch.as_tensor(here.dots)).all()
    np.testing.assert_array_equal(there.dots, here.dots)
    np.testing.assert_array_equal(there.squared_norm, here.squared_norm)

    for what in ("fingerprint", "chat template", "tokenizer"):
        other = replace(shared, identity={**shared.identity, what: "another"})
        with pytest.raises(RipcurrentError, match=f"is not the model that measured the anchors: it has another {what}"):
            other()
    older = replace(shared, versions={**shared.versions, "torch": "1.0"})
    with pytest.raises(RipcurrentError, match=r"has torch .*, and the process that started the scan 1\.0"):
        older()


def test_a_stage_that_does_not_fit_elsewhere_is_an_error_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {"name": str(save_tiny(tmp_path / "model", "gpt2")), "device": "cpu", "dtype": "float32"}
    stage = SignalStage(chat_model=load_model(**arguments), token_budget=64)
    shared = share_stage(stage, Sent, model=arguments, layer=None, position="last")

    def full(**_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(_remote, "load_model", full)
    with pytest.raises(RipcurrentError, match=r"The model and the directions on \S+ do not fit into memory"):
        shared()
