"""Where in a row its dots come from: each position's share, summed over layers."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ripcurrent.errors import RipcurrentError
from ripcurrent.gradients._directions import Directions
from ripcurrent.gradients._head import HeadChunk
from ripcurrent.gradients._hooks import LayerHooks
from ripcurrent.gradients._layers import ModelLayers, TrackedLayer
from ripcurrent.gradients.kernels import factored, linear, vector

TRIAL_LENGTHS = (5, 7)
"""Two token counts; the dimension of a layer's input that follows them is the one of tokens."""


class TokenShares(LayerHooks):
    """Collects, position by position, the terms of each row's dots with fixed directions, summed in float64."""

    def __init__(
        self, layers: ModelLayers, directions: Directions, axes: Mapping[str, int], rows: int, length: int
    ) -> None:
        super().__init__(layers)
        self._directions = directions
        self._axes = axes
        self.total = torch.zeros((rows, length, directions.count), dtype=torch.float64)

    def _add(self, dots: Tensor) -> None:
        assert dots.shape == self.total.shape
        self.total += dots.cpu().double()

    def linear_hook(self, number: int, member: int, grad: Tensor) -> None:
        met = self.meet(number, member, grad)
        if met is None:
            return
        directions, weights = self._directions.linear[number], self._directions.term_weights.get(number)
        if weights is None:
            self._add(linear.linear_token_dots(met.inputs, met.joined(), directions))
        else:
            self._add(factored.factored_token_dots(met.inputs, met.joined(), directions, weights))

    def bias(self, layer: TrackedLayer, name: str, grads: Tensor) -> None:
        self._add(vector.bias_token_dots(self._tokens_second(layer, grads), self._directions.other[name]))

    def norm_weight(self, layer: TrackedLayer, inputs: Tensor, grads: Tensor) -> None:
        inputs, grads = self._tokens_second(layer, inputs), self._tokens_second(layer, grads)
        directions, centred = self._directions.other[layer.weight], layer.kind == "layer_norm"
        self._add(vector.norm_token_dots(inputs, grads, layer.epsilon, directions, centred=centred))

    def table(self, name: str, ids: Tensor, grads: Tensor) -> None:
        self._add(self._directions.table_dots(name, ids, grads))

    def head(self, chunk: HeadChunk) -> None:
        positions = tuple(index.cpu() for index in chunk.positions)
        if self.layers.head_weight is not None:
            dots = self._directions.head_dots(self.layers.head_weight, chunk.inputs, chunk.logit_grads)
            self.total[positions] += dots.cpu().double()
        if self.layers.head_bias is not None:
            dots = chunk.logit_grads.float() @ self._directions.other[self.layers.head_bias].float().mT
            self.total[positions] += dots.cpu().double()

    def _tokens_second(self, layer: TrackedLayer, values: Tensor) -> Tensor:
        return values.movedim(self._axes[layer.name], 1)


def find_token_axes(layers: ModelLayers) -> dict[str, int]:
    """Which dimension of each layer's input counts tokens, by layer name; a layer that is not sure is an error."""
    shapes: dict[str, list[torch.Size]] = {}
    tracked = [layer for group in layers.groups for layer in group.layers if layer.kind != "embedding"]

    def keep(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        shapes.setdefault(name, []).append(args[0].shape)

    handles = [layer.module.register_forward_pre_hook(partial(keep, layer.name)) for layer in tracked]
    try:
        with torch.no_grad():
            for length in TRIAL_LENGTHS:
                ids = torch.ones(1, length, dtype=torch.long, device=layers.input_embedding.weight.device)
                layers.base(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    axes: dict[str, int] = {}
    for layer in tracked:
        one, other = shapes[layer.name]
        candidates = [axis for axis in range(len(one)) if (one[axis], other[axis]) == TRIAL_LENGTHS]
        if len(candidates) != 1 or candidates == [0] or (len(one) == 3 and candidates != [1]):
            raise RipcurrentError(
                f"The positions of a row cannot be told apart at {layer.name} ({type(layer.module).__name__}).",
                "Leave token shares (--tokens) out; scores are not affected.",
            )
        axes[layer.name] = candidates[0]
    return axes
