"""Hooks that meet each layer's input with its output gradient in the backward pass, and what is made of the pair."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ripcurrent.gradients._batch import Batch
from ripcurrent.gradients._directions import (
    DENSE,
    Directions,
    Factoring,
    Gradient,
    GroupKey,
    added_up,
    entry_keys,
    term_keys,
)
from ripcurrent.gradients._head import HeadChunk
from ripcurrent.gradients._layers import LayerGroup, ModelLayers, TrackedLayer
from ripcurrent.gradients._shared import SharedLinear
from ripcurrent.gradients.kernels import embedding, factored, head, linear, vector

FIRST_TOKENS = 10
"""How many of the first loss-bearing tokens ``loss_first_10`` averages."""


@dataclass(frozen=True, slots=True)
class GroupGradients:
    """What a group of linear layers was given, and the gradients at its outputs."""

    group: LayerGroup
    inputs: Tensor
    """Their common input, shape ``(rows, tokens, in)``."""
    output_grads: list[Tensor]
    """Each layer's output gradient, shape ``(rows, tokens, out)``."""
    shared: int
    """The first ``shared`` tokens have the same input in every row."""

    def joined(self) -> Tensor:
        """The output gradients side by side, as of one wider layer."""
        return self.output_grads[0] if len(self.output_grads) == 1 else torch.cat(self.output_grads, dim=-1)


class LayerHooks:
    """While attached, the backward pass of the base model calls the methods below, layer by layer.

    :meth:`linear_hook` is called by autograd itself, so that the products are two frames below the backward pass.
    """

    def __init__(self, layers: ModelLayers) -> None:
        self.layers = layers
        self._inputs: dict[int, tuple[Tensor, int]] = {}
        self._grads: dict[int, dict[int, Tensor]] = {}

    def linear_hook(self, number: int, member: int, grad: Tensor) -> None:
        """The output gradient of a member of a linear group; see :meth:`meet`."""
        raise NotImplementedError

    def table(self, name: str, ids: Tensor, grads: Tensor) -> None:
        """An embedding table: looked-up ids and the gradient at the raw lookup."""
        raise NotImplementedError

    def vector(self, name: str, gradients: Tensor) -> None:
        """A vector parameter's gradient, row by row."""
        raise NotImplementedError

    def head(self, chunk: HeadChunk) -> None:
        """The output head's inputs, losses and logit gradients of some rows."""
        raise NotImplementedError

    def bias(self, layer: TrackedLayer, name: str, grads: Tensor) -> None:
        """An additive bias: the gradient at its layer's outputs, rows first, features last."""
        self.vector(name, vector.bias_gradients(_tokens_joined(grads)))

    def norm_weight(self, layer: TrackedLayer, inputs: Tensor, grads: Tensor) -> None:
        """A normalisation's weight: the layer's inputs and output gradients. Heads share it, so it sums over them."""
        gradients = vector.rms_scale_gradients if layer.kind == "rms_norm" else vector.layer_norm_scale_gradients
        self.vector(layer.weight, gradients(_tokens_joined(inputs), _tokens_joined(grads), layer.epsilon))

    @contextmanager
    def attached(self, rows: int, tokens: int, shared: int) -> Iterator[None]:
        """Attach to a batch of ``(rows, tokens)`` whose first ``shared`` tokens are the same in every row."""
        sharing = SharedLinear((rows, tokens), shared) if shared else None
        handles: list[Any] = []
        for number, group in enumerate(self.layers.groups):
            for member, layer in enumerate(group.layers):
                if not group.linear:
                    handles.append(layer.module.register_forward_hook(partial(self._after_other, layer)))
                    continue
                if sharing is not None:
                    handles.append(layer.module.register_forward_pre_hook(sharing.before))
                hook = partial(self._after_linear, number, member, sharing)
                handles.append(layer.module.register_forward_hook(hook))
        # with frozen weights the graph starts at the embeddings' outputs
        for module in self.layers.base.modules():
            if isinstance(module, nn.Embedding):
                handles.append(module.register_forward_hook(_track, prepend=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._inputs.clear()
            self._grads.clear()
            if sharing is not None:
                sharing.forget()

    def meet(self, number: int, member: int, grad: Tensor) -> GroupGradients | None:
        """The whole group's inputs and gradients once the last member's gradient is there; None before. Adds biases."""
        group = self.layers.groups[number]
        arrived = self._grads.setdefault(number, {})
        arrived[member] = grad
        if len(arrived) < len(group.layers):
            return None
        del self._grads[number]
        grads = [arrived[place] for place in range(len(group.layers))]
        for layer, own in zip(group.layers, grads, strict=True):
            if layer.bias is not None:
                self.bias(layer, layer.bias, own)
        inputs, shared = self._inputs.pop(number)
        return GroupGradients(group, inputs, grads, shared)

    def _after_linear(
        self, number: int, member: int, sharing: SharedLinear | None, module: nn.Module, args: Any, output: Tensor
    ) -> Tensor:
        inputs, shared = args[0], 0
        if sharing is not None:
            inputs, output, shared = sharing.after(module, inputs, output)
        self._inputs[number] = inputs.detach(), shared
        output.register_hook(partial(self.linear_hook, number, member))  # type: ignore[no-untyped-call]
        return output

    def _after_other(self, layer: TrackedLayer, module: nn.Module, args: Any, output: Tensor) -> None:
        output.register_hook(partial(self._other_hook, layer, args[0].detach()))  # type: ignore[no-untyped-call]

    def _other_hook(self, layer: TrackedLayer, inputs: Tensor, grad: Tensor) -> None:
        if layer.kind == "embedding":
            raw = grad if layer.scale == 1.0 else grad * layer.scale
            padding = getattr(layer.module, "padding_idx", None)
            if padding is not None:
                # training leaves this entry of the table alone, also where the token is a real end of turn
                raw = raw.masked_fill((inputs == padding).unsqueeze(-1), 0.0)
            self.table(layer.weight, inputs, raw)
            return
        self.norm_weight(layer, inputs, grad)
        if layer.bias is not None:
            self.bias(layer, layer.bias, grad)


def _tokens_joined(values: Tensor) -> Tensor:
    """Everything between rows and features in one dimension."""
    return values.reshape(values.shape[0], -1, values.shape[-1])


def _track(module: nn.Module, args: Any, output: Tensor) -> None:
    if torch.is_grad_enabled() and not output.requires_grad:
        output.requires_grad_(True)


class RowProducts(LayerHooks):
    """Collects each row's dots with fixed directions, its squared gradient norm and its losses."""

    def __init__(self, layers: ModelLayers, directions: Directions, batch: Batch) -> None:
        super().__init__(layers)
        self.directions = directions
        self.batch = batch
        self.dots: list[Tensor] = []
        self.squared_norms: list[Tensor] = []
        self.loss = torch.zeros(batch.rows, device=layers.head.weight.device)
        self.first_loss = torch.zeros_like(self.loss)
        self._tied_head: list[tuple[Tensor, Tensor]] = []

    def add(self, dots: Tensor, squared_norms: Tensor) -> None:
        """Add one layer's share: ``(rows, directions)`` and ``(rows,)``."""
        self.dots.append(dots)
        self.squared_norms.append(squared_norms)

    def linear_hook(self, number: int, member: int, grad: Tensor) -> None:
        met = self.meet(number, member, grad)
        if met is None:
            return
        directions, weights = self.directions.linear[number], self.directions.term_weights.get(number)
        if weights is None:
            self.add(*linear.linear_products(met.inputs, met.joined(), directions, shared=met.shared))
        else:
            self.add(*factored.factored_products(met.inputs, met.joined(), directions, weights, met.shared))

    def vector(self, name: str, gradients: Tensor) -> None:
        self.add(*vector.vector_products(gradients, self.directions.other[name]))

    def table(self, name: str, ids: Tensor, grads: Tensor) -> None:
        self.add(self.directions.table_dots(name, ids, grads).sum(dim=1), embedding.embedding_squared_norm(ids, grads))
        if self.layers.tied and name == self.layers.head_weight:
            cross = [
                embedding.tied_cross_term(at_ids.unsqueeze(0), inputs.unsqueeze(0), grads[row].unsqueeze(0))
                for row, (at_ids, inputs) in enumerate(self._tied_head)
            ]
            self.squared_norms.append(torch.cat(cross))

    def head(self, chunk: HeadChunk) -> None:
        weight, bias = self.layers.head_weight, self.layers.head_bias
        device, row = chunk.inputs.device, chunk.positions[0]
        dots = torch.zeros(self.batch.rows, self.directions.count, device=device)
        squared = torch.zeros(self.batch.rows, device=device)
        if weight is not None:
            dots.index_add_(0, row, self.directions.head_dots(weight, chunk.inputs, chunk.logit_grads))
        weights = self.batch.weights[row, chunk.positions[1] + 1]
        for place, start, stop in zip(chunk.rows, chunk.bounds, chunk.bounds[1:], strict=False):
            inputs, logit_grads = chunk.inputs[start:stop], chunk.logit_grads[start:stop]
            for into, end in ((self.loss, stop), (self.first_loss, min(stop, start + FIRST_TOKENS))):
                into[place] = (weights[start:end] * chunk.losses[start:end]).sum() / weights[start:end].sum()
            if weight is not None:
                squared[place] += head.head_squared_norm(inputs, logit_grads)
            if self.layers.tied:
                self._tied_head.append((logit_grads.index_select(1, self.batch.ids[place]).float(), inputs))
        if bias is not None:
            per_row = torch.zeros(self.batch.rows, chunk.logit_grads.shape[1], device=device)
            per_row.index_add_(0, row, chunk.logit_grads.float())
            bias_dots, bias_squared = vector.vector_products(per_row, self.directions.other[bias])
            dots, squared = dots + bias_dots, squared + bias_squared
        self.add(dots, squared)


class Terms(NamedTuple):
    """Outer products ``output_grads[p] ⊗ inputs[p]`` whose sum is a weight's gradient over some rows."""

    inputs: Tensor
    """Shape ``(terms, in)``."""
    output_grads: Tensor
    """Shape ``(terms, out)``."""
    tokens: Tensor
    """Each term's token index in its row, shape ``(terms,)``."""


class KeptTerms:
    """Collects, over batches, what a factoring keeps instead of sums; tokens without a gradient are left out."""

    def __init__(self, factoring: Factoring = DENSE) -> None:
        self.terms: dict[GroupKey, list[Terms]] = {key: [] for key in factoring.groups}
        self.entries: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in factoring.tables}

    def gradient(self, shared: int) -> Gradient:
        """Everything as a gradient has it; tokens that all rows share have equal inputs, and become one term each."""
        gathered: Gradient = {}
        for key, parts in self.terms.items():
            inputs, grads = _joined(parts, shared)
            weights = torch.ones(len(inputs), device=inputs.device)
            gathered |= dict(zip(term_keys(key), (inputs, grads, weights), strict=True))
        for name, pairs in self.entries.items():
            occurring, entries = added_up(*map(torch.cat, zip(*pairs, strict=True)))
            gathered |= dict(zip(entry_keys(name), (occurring, entries), strict=True))
        return gathered


def _joined(parts: list[Terms], shared: int) -> tuple[Tensor, Tensor]:
    inputs, grads, tokens = map(torch.cat, zip(*parts, strict=True))
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


class GradientSum(LayerHooks):
    """Adds the gradient summed over rows to a float32 vector, or what is factored to ``kept``."""

    def __init__(self, layers: ModelLayers, into: Gradient, kept: KeptTerms) -> None:
        super().__init__(layers)
        self.into = into
        self.kept = kept

    def linear_hook(self, number: int, member: int, grad: Tensor) -> None:
        met = self.meet(number, member, grad)
        if met is None:
            return
        if number in self.kept.terms:
            joined = met.joined()
            row, token = joined.any(dim=-1).nonzero(as_tuple=True)
            self.kept.terms[number].append(Terms(met.inputs[row, token], joined[row, token], token))
            return
        for layer, own in zip(met.group.layers, met.output_grads, strict=True):
            self.into[layer.weight] += linear.linear_gradient(met.inputs, own)

    def vector(self, name: str, gradients: Tensor) -> None:
        self.into[name] += gradients.sum(dim=0)

    def table(self, name: str, ids: Tensor, grads: Tensor) -> None:
        if name in self.kept.entries:
            found = grads.any(dim=-1)
            self.kept.entries[name].append((ids[found], grads[found]))
        else:
            self.into[name] += embedding.embedding_gradient(ids, grads, self.into[name].shape[0])

    def head(self, chunk: HeadChunk) -> None:
        weight, bias = self.layers.head_weight, self.layers.head_bias
        if weight in self.kept.terms:
            self.kept.terms[weight].append(Terms(chunk.inputs, chunk.logit_grads, chunk.positions[1]))
        elif weight is not None:
            self.into[weight] += chunk.logit_grads.float().mT @ chunk.inputs.float()
        if bias is not None:
            self.into[bias] += chunk.logit_grads.float().sum(dim=0)
