"""Where in a row its dots come from: each position's share, summed over layers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ripcurrent.errors import RipcurrentError
from ripcurrent.gradients._directions import Directions
from ripcurrent.gradients._sites import Catalogue, Site, SiteGroup
from ripcurrent.gradients._tables import table_token_dots
from ripcurrent.gradients.kernels import factored, tokens

PROBED_LENGTHS = (5, 7)
"""Two token counts; the dimension of a layer's input that follows them is the one of tokens."""


class TokenShares:
    """Collects, position by position, the terms of each row's dots with fixed directions.

    Sums over layers in float64, so that the shares add up to the row's dot however many layers there are.
    """

    def __init__(self, directions: Directions, axes: Mapping[str, int], rows: int, length: int) -> None:
        self._directions = directions
        self._axes = axes
        self._shape = (rows, length, directions.count)
        self.shares = torch.zeros(self._shape, dtype=torch.float64)

    def add(self, dots: Tensor) -> None:
        """Add one layer's terms, shape ``(rows, tokens, directions)``."""
        assert dots.shape == self._shape
        self.shares += dots.cpu().double()

    def take_linear(self, number: int, group: SiteGroup, inputs: Tensor, grads: list[Tensor], shared: int) -> None:
        """Terms of the group's joined weight."""
        with_weight = [grad for grad, site in zip(grads, group.sites, strict=True) if site.weight is not None]
        joined = with_weight[0] if len(with_weight) == 1 else torch.cat(with_weight, dim=-1)
        directions, weights = self._directions.linear[number], self._directions.term_weights.get(number)
        if weights is None:
            self.add(tokens.linear_token_dots(inputs, joined, directions))
        else:
            self.add(factored.factored_token_dots(inputs, joined, directions, weights))

    def take_bias(self, site: Site, grads: Tensor) -> None:
        """Terms of an additive bias."""
        assert site.bias is not None
        self.add(tokens.bias_token_dots(self._tokens_second(site, grads), self._directions.other[site.bias]))

    def take_scale(self, site: Site, inputs: Tensor, grads: Tensor) -> None:
        """Terms of a normalisation layer's weight."""
        assert site.weight is not None
        products = tokens.rms_scale_token_dots if site.kind == "rms_norm" else tokens.layer_norm_scale_token_dots
        inputs, grads = self._tokens_second(site, inputs), self._tokens_second(site, grads)
        self.add(products(inputs, grads, site.factor, self._directions.other[site.weight]))

    def take_table(self, name: str, ids: Tensor, grads: Tensor) -> None:
        """Terms of an embedding table; of a tied one, its part below the head."""
        self.add(table_token_dots(ids, grads, self._directions, name))

    def _tokens_second(self, site: Site, values: Tensor) -> Tensor:
        return values.movedim(self._axes[site.name], 1)


def find_token_axes(catalogue: Catalogue) -> dict[str, int]:
    """Which dimension of each layer's input counts tokens, by site: norms over heads differ from model to model.

    Raises :class:`RipcurrentError` naming a layer where that is not exactly one, or where a linear layer's is not the
    second: its positions cannot be told apart.
    """
    shapes: dict[str, list[torch.Size]] = {}
    sites = [site for group in catalogue.groups for site in group.sites if site.kind != "embedding"]

    def keep(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        shapes.setdefault(name, []).append(args[0].shape)

    handles = [site.module.register_forward_pre_hook(partial(keep, site.name)) for site in sites]
    try:
        with torch.no_grad():
            for length in PROBED_LENGTHS:
                ids = torch.ones(1, length, dtype=torch.long, device=catalogue.input_embedding.weight.device)
                catalogue.base(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    axes: dict[str, int] = {}
    for site in sites:
        one, other = shapes[site.name]
        found = [axis for axis in range(len(one)) if (one[axis], other[axis]) == PROBED_LENGTHS]
        if len(found) != 1 or found == [0] or (len(one) == 3 and found != [1]):
            raise RipcurrentError(
                f"The positions of a row cannot be told apart at {site.name} ({type(site.module).__name__}).",
                "Leave --tokens out; scores are not affected.",
            )
        axes[site.name] = found[0]
    return axes
