"""What factored directions are made of, as a backward pass meets it: terms of layers and of the head, table entries."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ripcurrent.gradients._directions import DENSE, Factoring, Gradient, GroupKey, entry_keys, term_keys


@dataclass(frozen=True, slots=True)
class Terms:
    """Outer products ``output_grads[p] ⊗ inputs[p]`` whose sum is a weight's gradient over some rows."""

    inputs: Tensor
    """Shape ``(terms, in)``."""
    output_grads: Tensor
    """Shape ``(terms, out)``."""
    tokens: Tensor
    """Each term's token index in its row, shape ``(terms,)``."""


class KeptTerms:
    """Collects, over batches, what a factoring keeps instead of sums."""

    def __init__(self, factoring: Factoring = DENSE) -> None:
        self._terms: dict[GroupKey, list[Terms]] = {key: [] for key in factoring.groups}
        self._entries: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in factoring.tables}

    def add_group(self, number: int, inputs: Tensor, output_grads: Sequence[Tensor]) -> bool:
        """Keep a group's inputs and output gradients of a batch, ``(rows, tokens, …)`` each; False where it is dense.

        Tokens without a gradient are left out.
        """
        if number not in self._terms:
            return False
        joined = torch.cat(list(output_grads), dim=-1)
        row, token = joined.any(dim=-1).nonzero(as_tuple=True)
        self._terms[number].append(Terms(inputs[row, token], joined[row, token], token))
        return True

    def add_head(self, name: str, terms: Terms) -> bool:
        """The head's terms of some rows; False where it is dense."""
        if name not in self._terms:
            return False
        self._terms[name].append(terms)
        return True

    def add_table(self, name: str, ids: Tensor, grads: Tensor) -> bool:
        """A table's looked-up ids and gradients of a batch; False where it is dense."""
        if name not in self._entries:
            return False
        found = grads.any(dim=-1)
        self._entries[name].append((ids[found], grads[found]))
        return True

    def gradient(self, shared: int) -> Gradient:
        """Everything as a gradient has it.

        Where the rows share their first ``shared`` tokens these have equal inputs, since a token's state depends on
        those before it alone: their output gradients are added, and one term is left for each.
        """
        gathered: Gradient = {}
        for key, parts in self._terms.items():
            inputs, grads = _joined(parts, shared)
            weights = torch.ones(len(inputs), device=inputs.device)
            gathered |= dict(zip(term_keys(key), (inputs, grads, weights), strict=True))
        for name, pairs in self._entries.items():
            ids, numbers = torch.unique(torch.cat([ids for ids, _ in pairs]), return_inverse=True)
            rows = torch.cat([grads for _, grads in pairs]).float()
            entries = torch.zeros(len(ids), rows.shape[1], device=rows.device).index_add_(0, numbers, rows)
            gathered |= dict(zip(entry_keys(name), (ids, entries), strict=True))
        return gathered


def _joined(parts: list[Terms], shared: int) -> tuple[Tensor, Tensor]:
    tokens = torch.cat([part.tokens for part in parts])
    inputs = torch.cat([part.inputs for part in parts])
    grads = torch.cat([part.output_grads for part in parts])
    common, own = tokens < shared, tokens >= shared
    if not common.any():
        return inputs, grads
    sums = torch.zeros(shared, grads.shape[1], dtype=torch.float32, device=grads.device)
    sums.index_add_(0, tokens[common], grads[common].float())
    of_common = torch.zeros(shared, inputs.shape[1], dtype=inputs.dtype, device=inputs.device)
    of_common[tokens[common]] = inputs[common]
    with_gradient = sums.any(dim=-1)
    return (
        torch.cat([of_common[with_gradient], inputs[own]]),
        torch.cat([sums[with_gradient].to(grads.dtype), grads[own]]),
    )
