"""What a factored direction is made of: each token's input to a layer and the gradient at its output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ripcurrent.signals._directions import Gradient, term_keys


@dataclass(frozen=True, slots=True)
class Terms:
    """Outer products ``output_grads[p] ⊗ inputs[p]`` whose sum is a weight's gradient over some rows."""

    inputs: Tensor
    """Shape ``(terms, in)``."""
    output_grads: Tensor
    """Shape ``(terms, out)``."""
    places: Tensor
    """Each term's token index in its row, shape ``(terms,)``."""

    @classmethod
    def of(cls, inputs: Tensor, output_grads: Tensor) -> Terms:
        """The terms of a batch, ``(rows, tokens, …)`` each, without tokens that have no gradient."""
        row, token = output_grads.any(dim=-1).nonzero(as_tuple=True)
        return cls(inputs[row, token], output_grads[row, token], token)


def gather_terms(terms: Mapping[int, Sequence[Terms]], shared: int) -> Gradient:
    """Every group's terms as a gradient has them.

    Where the rows share their first ``shared`` tokens these have equal inputs, since a token's state depends on those
    before it alone: their output gradients are added, and one term is left for each.
    """
    gathered: Gradient = {}
    for number, parts in terms.items():
        places = torch.cat([part.places for part in parts])
        inputs = torch.cat([part.inputs for part in parts])
        grads = torch.cat([part.output_grads for part in parts])
        if shared:
            first, own = places < shared, places >= shared
            of_first = torch.zeros(shared, grads.shape[1], dtype=torch.float32, device=grads.device)
            of_first.index_add_(0, places[first], grads[first].float())
            seen = torch.zeros(shared, inputs.shape[1], dtype=inputs.dtype, device=inputs.device)
            seen[places[first]] = inputs[first]
            met = of_first.any(dim=-1)
            inputs = torch.cat([seen[met], inputs[own]])
            grads = torch.cat([of_first[met].to(grads.dtype), grads[own]])
        keys = term_keys(number)
        gathered |= dict(zip(keys, (inputs, grads, torch.ones(len(inputs), device=inputs.device)), strict=True))
    return gathered
