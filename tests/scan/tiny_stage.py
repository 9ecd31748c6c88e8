"""A tiny model's signal stage, rows for it, and how two of its tables are compared."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ripcurrent.data import Row
from ripcurrent.gradients import FeatureReader, GradientPass, Halving, stack_directions
from ripcurrent.scan._passes import SignalStage
from tests.gradients.oracle import chat_model, random_directions
from tests.models.tiny import tiny_model, tiny_tokenizer


class TinyStage(SignalStage):
    """A stage that may be called with rows."""

    def __call__(self, items: Iterable[Row]) -> pa.Table:
        return self.compute(list(self.prepare(items)))


def make_stage() -> TinyStage:
    """A stage with two random directions and three anchors' features."""
    model = tiny_model("llama_tied")
    chat = dataclasses.replace(chat_model(model), tokenizer=tiny_tokenizer())
    gradient_pass = GradientPass(chat)
    directions = random_directions(model, set(gradient_pass.layers.parameter_shapes()))
    features = np.random.default_rng(0).standard_normal((3, 32)).astype(np.float32)
    return TinyStage(
        chat_model=chat,
        token_budget=4000,
        gradient_pass=gradient_pass,
        directions=stack_directions(gradient_pass.layers, directions, torch.float32),
        features=FeatureReader(chat),
        anchor_features=features / np.linalg.norm(features, axis=1, keepdims=True),
    )


def rows(count: int = 13) -> list[Row]:
    return [Row(n, str(n), (), "the old mill " * (1 + n % 5) + f"number {n}", {}) for n in range(count)]


def fresh(stage: TinyStage, **changes: Any) -> TinyStage:
    """The stage as before its first batch, with other fields or options."""
    fields = {
        name: changes.pop(name) for name in ("token_budget", "directions", "features", "on_rows") if name in changes
    }
    return dataclasses.replace(stage, halving=Halving(), options=stage.options.model_copy(update=changes), **fields)


def assert_same(one: Any, other: Any) -> None:
    """Within the tolerances that hold for any two ways to batch."""
    assert one["status"].to_pylist() == other["status"].to_pylist()
    norm = np.sqrt(one["squared_norm"].to_numpy())
    np.testing.assert_allclose(np.sqrt(other["squared_norm"].to_numpy()), norm, rtol=1e-4)
    for name in ("dot_harmful", "dot_safe"):
        # the directions are random and long: their norms are about the root of the number of parameters
        np.testing.assert_allclose(other[name].to_numpy() / norm, one[name].to_numpy() / norm, atol=2e-5 * 200)
    for ours, theirs in zip(*(t["representation_cosines"].to_pylist() for t in (one, other)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
