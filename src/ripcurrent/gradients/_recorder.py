"""Hooks that meet each layer's input with its output gradient, and what is then done with the pair."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ripcurrent.gradients._directions import Directions, Gradient, group_weights
from ripcurrent.gradients._shared_linear import SharedLinear
from ripcurrent.gradients._sites import Catalogue, Site, SiteGroup, is_linear
from ripcurrent.gradients._tables import table_token_dots
from ripcurrent.gradients._terms import Kept
from ripcurrent.gradients.kernels import embedding, factored, linear, vector


class Consumer(Protocol):
    """What is done with each layer's activations and gradients as the backward pass reaches it."""

    def take_linear(self, number: int, group: SiteGroup, inputs: Tensor, grads: list[Tensor], shared: int) -> None:
        """A group of linear layers: their one input and each one's output gradient.

        The first ``shared`` tokens have the same input in every row.
        """

    def take_bias(self, site: Site, grads: Tensor) -> None:
        """An additive bias: the gradient at its layer's outputs, rows first, features last."""

    def take_scale(self, site: Site, inputs: Tensor, grads: Tensor) -> None:
        """A normalisation layer's weight: its layer's inputs and output gradients, rows first, features last."""

    def take_table(self, name: str, ids: Tensor, grads: Tensor) -> None:
        """An embedding table: looked-up ids and the gradient at the raw lookup."""


class RowVectors:
    """Consumers that want a vector parameter's gradient summed over each row's tokens."""

    def take_bias(self, site: Site, grads: Tensor) -> None:
        """Sum over tokens, and over heads where a layer is applied to each."""
        assert site.bias is not None
        self.take_vector(site.bias, vector.bias_gradients(_tokens_joined(grads)))

    def take_scale(self, site: Site, inputs: Tensor, grads: Tensor) -> None:
        """Sum over tokens, and over heads: a norm over heads shares its weight between them."""
        assert site.weight is not None
        scale = vector.rms_scale_gradients if site.kind == "rms_norm" else vector.layer_norm_scale_gradients
        self.take_vector(site.weight, scale(_tokens_joined(inputs), _tokens_joined(grads), site.factor))

    def take_vector(self, name: str, gradients: Tensor) -> None:
        """A vector parameter's gradient, row by row."""
        raise NotImplementedError


def _tokens_joined(values: Tensor) -> Tensor:
    """Everything between rows and features in one dimension."""
    return values.reshape(values.shape[0], -1, values.shape[-1])


class Recorder:
    """While entered, forward passes of the base model are recorded and handed on in their backward passes.

    The first ``shared`` tokens are the same in every row of the batch of ``(rows, tokens)`` that is passed.
    """

    def __init__(self, catalogue: Catalogue, consumer: Consumer, shape: tuple[int, int], shared: int) -> None:
        self._catalogue = catalogue
        self._consumer = consumer
        self._shared_linear = SharedLinear(shape, shared) if shared else None
        self._inputs: dict[int, tuple[Tensor, int]] = {}
        self._grads: dict[int, dict[int, Tensor]] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> Recorder:
        for number, group in enumerate(self._catalogue.groups):
            for place, site in enumerate(group.sites):
                hook = partial(self._on_linear, number, place) if is_linear(site) else partial(self._on_other, site)
                if self._shared_linear is not None and is_linear(site):
                    self._handles.append(site.module.register_forward_pre_hook(self._shared_linear.before))
                self._handles.append(site.module.register_forward_hook(hook))
        # with frozen weights the graph starts at the embeddings' outputs
        for module in self._catalogue.base.modules():
            if isinstance(module, nn.Embedding):
                self._handles.append(module.register_forward_hook(_track, prepend=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._inputs.clear()
        self._grads.clear()
        if self._shared_linear is not None:
            self._shared_linear.forget()

    def _on_linear(self, number: int, place: int, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        inputs, shared = args[0], 0
        if self._shared_linear is not None:
            inputs, output, shared = self._shared_linear.after(module, inputs, output)
        self._inputs[number] = inputs.detach(), shared
        _on_gradient(output, partial(self._linear_grad, number, place))
        return output

    def _linear_grad(self, number: int, place: int, grad: Tensor) -> None:
        group = self._catalogue.groups[number]
        arrived = self._grads.setdefault(number, {})
        arrived[place] = grad
        if len(arrived) < len(group.sites):
            return
        del self._grads[number]
        grads = [arrived[index] for index in range(len(group.sites))]
        inputs, shared = self._inputs.pop(number)
        self._consumer.take_linear(number, group, inputs.to(grad.device), grads, shared)
        for site, site_grad in zip(group.sites, grads, strict=True):
            if site.bias is not None:
                self._consumer.take_bias(site, site_grad)

    def _on_other(self, site: Site, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        _on_gradient(output, partial(self._other_grad, site, args[0].detach()))

    def _other_grad(self, site: Site, inputs: Tensor, grad: Tensor) -> None:
        # where layers are spread over devices their hooks move what comes in, after it is seen here
        inputs = inputs.to(grad.device)
        if site.kind == "embedding":
            assert site.weight is not None
            raw = grad if site.factor == 1.0 else grad * site.factor
            padding = getattr(site.module, "padding_idx", None)
            if padding is not None:
                # training leaves this entry of the table alone, also where the token is a real end of turn
                raw = raw.masked_fill((inputs == padding).unsqueeze(-1), 0.0)
            self._consumer.take_table(site.weight, inputs, raw)
            return
        if site.weight is not None:
            self._consumer.take_scale(site, inputs, grad)
        if site.bias is not None:
            self._consumer.take_bias(site, grad)


def _on_gradient(output: Tensor, hook: Callable[[Tensor], None]) -> None:
    output.register_hook(hook)  # type: ignore[no-untyped-call]


def _track(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
    if torch.is_grad_enabled() and not output.requires_grad:
        output.requires_grad_(True)


class Measure(RowVectors):
    """Collects each row's dots with fixed directions and its squared gradient norm."""

    def __init__(self, directions: Directions) -> None:
        self.directions = directions
        self.dots: list[Tensor] = []
        self.squared_norms: list[Tensor] = []
        self.table_grads: dict[str, Tensor] = {}

    def add(self, dots: Tensor, squared_norms: Tensor) -> None:
        """Add one layer's share: ``(rows, directions)`` and ``(rows,)``."""
        self.dots.append(dots)
        self.squared_norms.append(squared_norms)

    def take_linear(self, number: int, group: SiteGroup, inputs: Tensor, grads: list[Tensor], shared: int) -> None:
        """Products of the group's joined weight."""
        with_weight = [grad for grad, site in zip(grads, group.sites, strict=True) if site.weight is not None]
        joined = with_weight[0] if len(with_weight) == 1 else torch.cat(with_weight, dim=-1)
        directions = self.directions.linear[number]
        if number in self.directions.term_weights:
            weights = self.directions.term_weights[number]
            self.add(*factored.factored_products(inputs, joined, directions, weights, shared))
        else:
            self.add(*linear.linear_products(inputs, joined, directions, shared=shared))

    def take_vector(self, name: str, gradients: Tensor) -> None:
        """Products of a vector parameter."""
        self.add(*vector.vector_products(gradients, self.directions.other[name]))

    def take_table(self, name: str, ids: Tensor, grads: Tensor) -> None:
        """Products of a table; its gradient is kept for a tied head's cross term."""
        dots = table_token_dots(ids, grads, self.directions, name).sum(dim=1)
        self.add(dots, embedding.embedding_squared_norm(ids, grads))
        self.table_grads[name] = grads


class Accumulate(RowVectors):
    """Adds the gradient summed over rows to a float32 vector of the parameters' shape.

    What is factored goes to ``kept`` instead.
    """

    def __init__(self, into: Gradient, kept: Kept) -> None:
        self.into = into
        self.kept = kept

    def take_linear(self, number: int, group: SiteGroup, inputs: Tensor, grads: list[Tensor], shared: int) -> None:
        """Sum of ``bᵀa`` for every member, or its terms."""
        names = group_weights(group)
        weighted = [grad for grad, site in zip(grads, group.sites, strict=True) if site.weight is not None]
        if self.kept.take_layer(number, inputs, weighted):
            return
        for name, grad in zip(names, weighted, strict=True):
            self.into[name] += linear.linear_gradient(inputs, grad)

    def take_vector(self, name: str, gradients: Tensor) -> None:
        """Sum over rows."""
        self.into[name] += gradients.sum(dim=0)

    def take_table(self, name: str, ids: Tensor, grads: Tensor) -> None:
        """Sum into the looked-up entries."""
        if not self.kept.take_table(name, ids, grads):
            self.into[name] += embedding.embedding_gradient(ids, grads, self.into[name].shape[0])
