"""Plain autograd, one row at a time, every parameter's gradient formed: what a scan's numbers are held against."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ripcurrent.data import EncodedRow

CHUNK = 1 << 16


class Oracle:
    """A model in float32 whose parameters require gradients while this is used."""

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
