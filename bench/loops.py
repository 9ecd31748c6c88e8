"""What a scan is measured against: plain autograd as the oracle, a well-written batch-1 loop, the reference's way."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ripcurrent.data import EncodedRow
from ripcurrent.models import ChatModel

REFERENCE_WIDTH = 512
"""Tokens to which the released code pads a row."""
CHUNK = 1 << 16


@contextmanager
def _trained(model: Any, parameters: Sequence[Tensor]) -> Iterator[None]:
    """The scan's own frozen model with gradients and the attention that transformers gives it, for a while."""
    implementation = model.config._attn_implementation
    model.set_attn_implementation("sdpa")
    for parameter in parameters:
        parameter.requires_grad_(True)
    yield
    for parameter in parameters:
        parameter.requires_grad_(False)
    model.set_attn_implementation(implementation)


class BatchOneLoop:
    """One row at a time, unpadded, head at loss positions only; every parameter's gradient formed, read once, dropped.

    Gradients are taken over the parameters that the directions have. Dots with both directions are one matrix product
    per parameter (on a GPU a batch of short ones, since one of few rows keeps few cores busy) and norms one fused
    reduction, the fastest that plain PyTorch has here.
    """

    def __init__(self, chat_model: ChatModel, directions: Sequence[Mapping[str, Tensor]]) -> None:
        self.model: Any = chat_model.model
        self.named = {name: each for name, each in self.model.named_parameters() if name in directions[0]}
        self.stacked = {
            name: torch.stack([direction[name].to(parameter.dtype).flatten() for direction in directions])
            for name, parameter in self.named.items()
        }

    def run(self, rows: Sequence[EncodedRow]) -> tuple[Tensor, Tensor]:
        """Dots ``(rows, directions)`` and squared norms ``(rows,)``."""
        with _trained(self.model, list(self.named.values())):
            found = [self._row(row) for row in rows]
        return torch.stack([dots for dots, _ in found]), torch.stack([norm for _, norm in found])

    def _row(self, row: EncodedRow) -> tuple[Tensor, Tensor]:
        device = self.model.device
        ids = torch.from_numpy(row.tokens.astype("int64")).unsqueeze(0).to(device)
        hidden = self.model.model(input_ids=ids, use_cache=False).last_hidden_state[0]
        places = torch.from_numpy(row.loss_mask[1:]).nonzero().flatten().to(device)
        logits = torch.nn.functional.linear(hidden[places], self.model.lm_head.weight)
        loss = torch.nn.functional.cross_entropy(logits.float(), ids[0, places + 1])
        gradients = torch.autograd.grad(loss, list(self.named.values()))
        dots, norm = torch.zeros(2, device=device), torch.zeros((), device=device)
        for name, gradient in zip(self.named, gradients, strict=True):
            flat = gradient.reshape(1, -1)
            pieces = 1 if device.type == "cpu" else math.gcd(flat.shape[1], 256)
            one, both = (each.view(len(each), pieces, -1).transpose(0, 1) for each in (flat, self.stacked[name]))
            dots += torch.bmm(one, both.mT).sum(dim=0, dtype=torch.float32).flatten()
            norm += torch.linalg.vector_norm(flat, dtype=torch.float32).square()
        return dots, norm


class ReferenceWay:
    """As the released code scores: batch 1, padded to 512, logits everywhere, one whole pass per anchor set."""

    def __init__(self, chat_model: ChatModel, sets: Sequence[Mapping[str, Tensor]]) -> None:
        self.model: Any = chat_model.model
        named = dict(self.model.named_parameters())
        self.sets = [torch.cat([one[name].to(each.dtype).flatten() for name, each in named.items()]) for one in sets]
        self.parameters = list(named.values())

    def run(self, rows: Sequence[EncodedRow]) -> Tensor:
        """Cosine of each row's gradient with each set's vector, ``(rows, sets)``."""
        with _trained(self.model, self.parameters):
            return torch.tensor([[self._cosine(row, vector) for vector in self.sets] for row in rows])

    def _cosine(self, row: EncodedRow, vector: Tensor) -> float:
        length = min(len(row.tokens), REFERENCE_WIDTH)
        ids, mask = (torch.zeros(1, REFERENCE_WIDTH, dtype=torch.int64) for _ in range(2))
        labels = torch.full((1, REFERENCE_WIDTH), -100)
        ids[0, :length] = torch.from_numpy(row.tokens[:length].astype("int64"))
        mask[0, :length] = 1
        bearing = torch.from_numpy(row.loss_mask[:length])
        labels[0, :length][bearing] = ids[0, :length][bearing]
        if not bearing.any():
            return 0.0
        loss = self.model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
        gradients = torch.autograd.grad(loss, self.parameters)
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        return float((torch.nn.functional.normalize(flat, dim=0) * vector).sum())


class Oracle:
    """Autograd over a model in float32, one row at a time, every parameter's gradient formed."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.named: dict[str, Tensor] = dict(model.named_parameters())

    def gradient(self, row: EncodedRow) -> dict[str, Tensor]:
        """Every parameter's gradient of the row's mean loss."""
        self.model.requires_grad_(True)
        ids = torch.from_numpy(row.tokens.astype("int64")).unsqueeze(0)
        logits = self.model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        loss = losses[torch.from_numpy(row.loss_mask[1:])].mean()
        gradients = torch.autograd.grad(loss, list(self.named.values()))
        self.model.requires_grad_(False)
        return dict(zip(self.named, gradients, strict=True))

    def direction(self, rows: Sequence[EncodedRow], names: Iterable[str]) -> dict[str, Tensor]:
        """The mean of the rows' normalised gradients over the named parameters."""
        total = {name: torch.zeros_like(self.named[name]) for name in names}
        for row in rows:
            gradient = self.gradient(row)
            length = norm({name: gradient[name] for name in total})
            for name, tensor in total.items():
                tensor.add_(gradient[name], alpha=1.0 / (length * len(rows)))
        return total

    def products(
        self, rows: Sequence[EncodedRow], directions: Sequence[Mapping[str, Tensor]]
    ) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
        """Each row's dots with the directions and its norm over their parameters."""
        dots, norms = np.zeros((len(rows), len(directions))), np.zeros(len(rows))
        for place, row in enumerate(rows):
            gradient = self.gradient(row)
            norms[place] = norm({name: gradient[name] for name in directions[0]})
            dots[place] = [sum(dot(gradient[name], own) for name, own in one.items()) for one in directions]
        return dots, norms


def norm(gradient: Mapping[str, Tensor]) -> float:
    """Euclidean norm over all parameters."""
    return sum(dot(tensor, tensor) for tensor in gradient.values()) ** 0.5


def dot(one: Tensor, other: Tensor) -> float:
    """Inner product: products in float32, their sum in double precision, a chunk at a time."""
    pairs = zip(one.flatten().split(CHUNK), other.flatten().split(CHUNK), strict=True)
    return float(sum((first * second).sum(dtype=torch.float64) for first, second in pairs))
