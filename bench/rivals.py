"""What the scan is measured against: a well-written batch-1 loop, and the reference's way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ripcurrent.data import EncodedRow
from ripcurrent.gradients.kernels.linear import batched_dots
from ripcurrent.models import ChatModel


class BatchOneLoop:
    """One row at a time, unpadded, head at loss positions only; every parameter's gradient formed, read once, dropped.

    Gradients are taken over the parameters that the directions have.
    Dots with both directions are one matrix product per parameter (on a GPU a batch of short ones) and norms one fused
    reduction, the fastest that plain PyTorch has here. It runs on the same loaded model as the scan, with the attention
    that transformers gives it (``sdpa``), or with the scan's.
    """

    def __init__(self, chat_model: ChatModel, directions: Sequence[Mapping[str, Tensor]]) -> None:
        self.model: Any = chat_model.model
        self.named = {name: each for name, each in self.model.named_parameters() if name in directions[0]}
        self.stacked = {
            name: torch.stack([direction[name].to(parameter.dtype).flatten() for direction in directions])
            for name, parameter in self.named.items()
        }

    def run(self, rows: Sequence[EncodedRow], attention: str) -> tuple[Tensor, Tensor]:
        """Dots ``(rows, directions)`` and squared norms ``(rows,)``."""
        implementation = self.model.config._attn_implementation
        self.model.set_attn_implementation(attention)
        for parameter in self.named.values():
            parameter.requires_grad_(True)
        dots, norms, device = [], [], self.model.device
        for row in rows:
            ids = torch.from_numpy(row.tokens.astype("int64")).unsqueeze(0).to(device)
            hidden = self.model.model(input_ids=ids, use_cache=False).last_hidden_state[0]
            places = torch.from_numpy(row.loss_mask[1:]).nonzero().flatten().to(device)
            logits = torch.nn.functional.linear(hidden[places], self.model.lm_head.weight)
            loss = torch.nn.functional.cross_entropy(logits.float(), ids[0, places + 1])
            gradients = torch.autograd.grad(loss, list(self.named.values()))
            dot, norm = torch.zeros(2, device=device), torch.zeros((), device=device)
            for name, gradient in zip(self.named, gradients, strict=True):
                flat = gradient.reshape(1, -1)
                dot += _dots(flat, self.stacked[name]).flatten()
                norm += torch.linalg.vector_norm(flat, dtype=torch.float32).square()
            dots.append(dot)
            norms.append(norm)
        for parameter in self.named.values():
            parameter.requires_grad_(False)
        self.model.set_attn_implementation(implementation)
        return torch.stack(dots), torch.stack(norms)


def _dots(flat: Tensor, directions: Tensor) -> Tensor:
    """Dots of a gradient in one row; on a GPU, where a product of so few rows keeps few cores busy, as the scan's."""
    return (flat @ directions.mT).float() if flat.device.type == "cpu" else batched_dots(flat, directions)


class ReferenceWay:
    """As the released code scores: batch 1, padded to 512, logits everywhere, one whole pass per anchor set."""

    def __init__(self, chat_model: ChatModel, sets: Sequence[Mapping[str, Tensor]], padded: int = 512) -> None:
        self.model: Any = chat_model.model
        self.padded = padded
        named = dict(self.model.named_parameters())
        self.sets = [
            torch.cat([direction[name].to(parameter.dtype).flatten() for name, parameter in named.items()])
            for direction in sets
        ]
        self.parameters = list(named.values())

    def run(self, rows: Sequence[EncodedRow]) -> Tensor:
        """Cosine of each row's gradient with each set's vector, ``(rows, sets)``."""
        implementation = self.model.config._attn_implementation
        self.model.set_attn_implementation("sdpa")
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        found = torch.zeros(len(rows), len(self.sets))
        for number, vector in enumerate(self.sets):
            for place, row in enumerate(rows):
                length = min(len(row.tokens), self.padded)
                ids = torch.zeros(1, self.padded, dtype=torch.int64)
                labels = torch.full((1, self.padded), -100)
                mask = torch.zeros(1, self.padded, dtype=torch.int64)
                ids[0, :length] = torch.from_numpy(row.tokens[:length].astype("int64"))
                mask[0, :length] = 1
                bearing = torch.from_numpy(row.loss_mask[:length])
                labels[0, :length][bearing] = ids[0, :length][bearing]
                if not bearing.any():
                    continue
                loss = self.model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
                gradients = torch.autograd.grad(loss, self.parameters)
                flat = torch.cat([gradient.flatten() for gradient in gradients])
                found[place, number] = (torch.nn.functional.normalize(flat, dim=0) * vector).sum()
        for parameter in self.parameters:
            parameter.requires_grad_(False)
        self.model.set_attn_implementation(implementation)
        return found
