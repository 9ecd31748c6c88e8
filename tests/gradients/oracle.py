"""The oracle: one row at a time, plain autograd; and all that a scan takes from a model, computed once."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ripcurrent.data import EncodedRow
from ripcurrent.gradients import (
    FeatureReader,
    GradientPass,
    choose_factoring,
    make_batch,
    set_direction,
    similarities,
    stack_directions,
)
from ripcurrent.models import ChatModel

PREFIX = 20


def chat_model(model, scope="all") -> ChatModel:
    """Wrap a bare model as the loader would, frozen."""
    model.requires_grad_(False)
    parameter = next(model.parameters())
    return ChatModel(
        name="tiny", model=model, tokenizer=None, device=parameter.device, dtype=parameter.dtype, scope=scope,
        adapter=None, fingerprint="tiny", template_sha256=None, revision=None,
    )  # fmt: skip


def encoded_row(tokens, loss_mask, index=0) -> EncodedRow:
    """An encoded row from token ids and a mask; every other row's tokens differ in weight."""
    mask = np.asarray(loss_mask, dtype=np.bool_)
    return EncodedRow(
        index=index, status="ok", tokens=np.asarray(tokens, dtype=np.int32), loss_mask=mask,
        weights=np.linspace(0.5, 2, len(mask), dtype=np.float32) if index % 2 else None, truncated=False,
        prompt_tokens=int((~mask).sum()), response_tokens=int(mask.sum()),
    )  # fmt: skip


def random_rows(
    generator: np.random.Generator, count: int, vocabulary: int = 300, longest: int = 24
) -> list[EncodedRow]:
    """Rows of random tokens with a prompt and a response, repeated ids included."""
    rows = []
    for index in range(count):
        length = int(generator.integers(4, longest))
        tokens = generator.integers(0, vocabulary // 4, length)
        mask = np.zeros(length, dtype=bool)
        mask[int(generator.integers(1, length)) :] = True
        rows.append(encoded_row(tokens, mask, index))
    return rows


def rows_behind_a_prefix(count: int, seed: int, prefix: int = PREFIX, longest: int = 24) -> list[EncodedRow]:
    """Random rows behind one system prompt of so many tokens."""
    begin = np.random.default_rng(99).integers(3, 60, prefix).astype(np.int32)
    return [
        replace(
            row,
            tokens=np.concatenate([begin, row.tokens]),
            loss_mask=np.concatenate([np.zeros(prefix, dtype=bool), row.loss_mask]),
            weights=None if row.weights is None else np.concatenate([np.ones(prefix, np.float32), row.weights]),
        )
        for row in random_rows(np.random.default_rng(seed), count, longest=longest)
    ]


def row_loss(model, row: EncodedRow, row_tokens: int | None = None) -> torch.Tensor:
    """Weighted mean cross-entropy over the row's (first) loss-bearing tokens, written as a loop."""
    ids = torch.tensor(row.tokens.astype(np.int64)).unsqueeze(0)
    log_probabilities = torch.log_softmax(model(input_ids=ids).logits[0].double(), dim=-1)
    terms, weights = [], []
    for place in range(1, len(row.tokens)):
        if row.loss_mask[place] and (row_tokens is None or len(terms) < row_tokens):
            weights.append(1.0 if row.weights is None else float(row.weights[place]))
            terms.append(-weights[-1] * log_probabilities[place - 1, ids[0, place]])
    return torch.stack(terms).sum() / sum(weights)


def row_gradient(model, row: EncodedRow, names: set[str] | None = None, row_tokens=None) -> dict[str, torch.Tensor]:
    """The row's gradient, parameter by parameter, in float64."""
    chosen = {name: p for name, p in model.named_parameters() if names is None or name in names}
    for parameter in chosen.values():
        parameter.requires_grad_(True)
    gradients = torch.autograd.grad(row_loss(model, row, row_tokens), list(chosen.values()), allow_unused=True)
    for parameter in chosen.values():
        parameter.requires_grad_(False)
    return {
        name: torch.zeros_like(parameter).double() if gradient is None else gradient.double()
        for (name, parameter), gradient in zip(chosen.items(), gradients, strict=True)
    }


def inner(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Inner product over all parameters."""
    return sum(float((one[name] * other[name].double()).sum()) for name in one)


def unit_gradients(model, rows, names: set[str] | None = None) -> list[dict[str, torch.Tensor]]:
    """Each row's gradient over its norm."""
    gradients = [row_gradient(model, row, names) for row in rows]
    return [{name: value / inner(one, one) ** 0.5 for name, value in one.items()} for one in gradients]


def mean_of(vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Their mean, parameter by parameter."""
    return {name: sum(one[name] for one in vectors) / len(vectors) for name in vectors[0]}


def stored(name: str, model, tensor):
    """A direction as the package stores it: out×in, also for layers that keep their weight in×out."""
    module = model.get_submodule(name.rpartition(".")[0])
    return tensor.T if type(module).__name__ == "Conv1D" and name.endswith("weight") else tensor


def random_directions(model, names, count=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters() if name in names}
    return [{name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} for _ in range(count)]


def random_stack(model, gradient_pass, count=2):
    """Random directions over the pass's scope, as the package stacks them."""
    plain = random_directions(model, set(gradient_pass.layers.parameter_shapes()), count)
    return stacked(model, gradient_pass, plain)


def stacked(model, gradient_pass, plain):
    """Directions of the model's own shapes, as the package stacks them."""
    transposed = [{name: stored(name, model, tensor) for name, tensor in one.items()} for one in plain]
    return stack_directions(gradient_pass.layers, transposed, gradient_pass.dtype)


def compare_with_autograd(model, rows: list[EncodedRow], adapted=None) -> None:
    """Norms and cosines with random directions of rows in one batch, against the loop; ``adapted`` is a LoRA on it."""
    gradient_pass = GradientPass(chat_model(model) if adapted is None else chat_model(adapted, "lora"))
    names = set(gradient_pass.layers.parameter_shapes())
    assert names == {name for name, _ in model.named_parameters() if adapted is None or ".lora_" in name}
    assert set(gradient_pass.layers.left_out) == {name for name, _ in model.named_parameters()} - names
    plain = random_directions(model, names)
    signals = gradient_pass.measure(make_batch(rows, torch.device("cpu")), stacked(model, gradient_pass, plain))
    assert_rows_equal(signals, model, rows, plain, names)


def assert_rows_equal(signals, model, rows: list[EncodedRow], plain, names: set[str] | None = None) -> None:
    """Norms, and cosines with directions of the model's own shapes, are those of the loop."""
    loose = next(model.parameters()).dtype == torch.bfloat16
    for place, row in enumerate(rows):
        gradient = row_gradient(model, row, names)
        norm = inner(gradient, gradient) ** 0.5
        assert signals.squared_norm[place] ** 0.5 == pytest.approx(norm, rel=3e-2 if loose else 1e-4)
        for number, direction in enumerate(plain):
            length = inner(direction, direction) ** 0.5
            expected = inner(gradient, direction) / (norm * length)
            found = signals.dots[place, number] / (signals.squared_norm[place] ** 0.5 * length)
            assert found == pytest.approx(expected, abs=3e-3 if loose else 2e-5)


def rows_of(seed: int, count: int) -> list[EncodedRow]:
    """Random rows that begin with the same tokens, so that a forward pass reads these once."""
    return rows_behind_a_prefix(count, seed, prefix=9, longest=12)


def computed(model: ChatModel, factored: bool) -> dict[str, Any]:
    """Everything that a scan takes from a model, by name; directions dense, or factored."""
    gradient_pass = GradientPass(model)
    anchors, rows = rows_of(5, 3), rows_of(3, 4)
    # a layer is factored where it has few terms
    terms = 1 if factored else 10**6
    factoring = choose_factoring(gradient_pass.layers, terms, terms)
    direction = set_direction(gradient_pass, anchors, factoring=factoring)
    directions = stack_directions(gradient_pass.layers, [direction.gradient] * 2, torch.float32)
    batch = make_batch(rows, model.device)
    # a batch is padded to other widths on other devices
    longest = max(len(row.tokens) for row in rows)
    signals = gradient_pass.measure(batch, directions, features=True)
    return {
        "anchor norms": direction.norms,
        "anchor similarities": similarities(gradient_pass, anchors, [direction.gradient]),
        "dots": signals.dots,
        "squared norms": signals.squared_norm,
        "losses": signals.loss,
        "first losses": signals.loss_first_10,
        "features beside gradients": signals.features,
        "features": FeatureReader(model).forward(batch).features,
        "token shares": gradient_pass.token_shares(batch, directions)[:, :longest],
    }


def apart(one: Any, other: Any) -> float:
    """The largest difference, in units of the largest value; infinity where shapes differ."""
    if np.shape(one) != np.shape(other):
        return float("inf")
    return float(np.abs(one - other).max()) / float(np.abs(one).max())
