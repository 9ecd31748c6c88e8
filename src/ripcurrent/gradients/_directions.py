"""Directions: fixed vectors of the parameters' shape, stacked as the backward pass reads them.

A linear group's directions are dense, or factored: a mean of anchors' gradients is a sum of outer products, one for
each of their tokens. Where these are few for the layer's size they take less memory and fewer products. The output
head's are such a sum over the anchors' loss-bearing tokens. An embedding table's are entries for the tokens that occur
in the anchors. Those of a table that is also the head are the sum of the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ripcurrent.gradients._layers import LayerGroup, ModelLayers
from ripcurrent.gradients.kernels import embedding, factored, head

Gradient = dict[str, Tensor]
"""One vector of the parameters' shape: parameter name to tensor (``(out, in)`` for linear layers).

A factored group's weights, or the head's, are replaced by those of :func:`term_keys`: inputs ``(terms, in)``, output
gradients ``(terms, out)`` and the terms' weights ``(terms,)``. A table's are replaced by those of :func:`entry_keys`:
token ids ``(entries,)``, in which one may come twice, and entries ``(entries, width)``, which are added up.
"""

GroupKey = int | str
"""A linear group's number, or the name of the head's weight."""

TERMS = ("inputs of ", "output gradients of ", "weights of ")
ENTRIES = ("ids of ", "entries of ")


def term_keys(key: GroupKey) -> list[str]:
    """Where a gradient has a factored group's inputs, output gradients and weights."""
    return [f"{part}{key}" for part in TERMS]


def entry_keys(name: str) -> list[str]:
    """Where a gradient has a table's token ids and entries."""
    return [f"{part}{name}" for part in ENTRIES]


@dataclass(frozen=True, slots=True)
class Factoring:
    """Which directions are not held as matrices."""

    groups: frozenset[GroupKey] = frozenset()
    """Linear groups, and the head, that are kept as terms."""
    tables: frozenset[str] = frozenset()
    """Embedding tables of which the entries that occur are kept."""

    @staticmethod
    def of(gradients: Sequence[Mapping[str, Tensor]]) -> Factoring:
        """What these gradients, all alike, have as terms and entries."""
        keys = list(gradients[0]) if gradients else []
        named = [key.removeprefix(TERMS[0]) for key in keys if key.startswith(TERMS[0])]
        return Factoring(
            frozenset(int(name) if name.isdigit() else name for name in named),
            frozenset(key.removeprefix(ENTRIES[0]) for key in keys if key.startswith(ENTRIES[0])),
        )


DENSE = Factoring()


@dataclass(frozen=True, slots=True)
class Directions:
    """Several directions, stacked parameter by parameter and joined group by group."""

    count: int
    linear: Mapping[GroupKey, Tensor]
    """A group's directions in the compute dtype: dense, shape ``(directions, out, in)``, or factored, shape ``(terms,
    in + out)``, each term an input and an output gradient. The head's are here where they are factored."""
    other: Mapping[str, Tensor]
    """Parameter name to directions of vectors and tables, shape ``(directions, *shape)``; of a table in ``entry_of``
    ``(directions, entries + 1, width)``, the last entry zero."""
    term_weights: Mapping[GroupKey, Tensor] = field(default_factory=dict)
    """Each factored group to its terms' weight in each direction, shape ``(terms, directions)``, float32."""
    entry_of: Mapping[str, Tensor] = field(default_factory=dict)
    """Name of each table with few entries to the number of every token's entry, shape ``(vocabulary,)``."""

    def head_dots(self, name: str, inputs: Tensor, logit_grads: Tensor) -> Tensor:
        """Each head position's terms, shape ``(positions, directions)``, float32; ``name`` is the head's weight."""
        weights = self.term_weights.get(name)
        if weights is None:
            return head.head_dots(inputs, logit_grads, self.other[name])
        dots = factored.factored_token_dots(inputs, logit_grads, self.linear[name], weights)
        if name in self.entry_of:
            entries = self.other[name]
            occurring = (self.entry_of[name] < entries.shape[1] - 1).nonzero().squeeze(1)
            dots += head.head_dots(inputs, logit_grads.index_select(1, occurring), entries[:, :-1])
        return dots

    def table_dots(self, name: str, ids: Tensor, grads: Tensor) -> Tensor:
        """Each looked-up token's terms, shape ``(rows, tokens, directions)``, float32."""
        if name not in self.entry_of:
            return embedding.embedding_token_dots(ids, grads, self.other[name])
        dots = embedding.embedding_token_dots(self.entry_of[name][ids], grads, self.other[name])
        weights = self.term_weights.get(name)
        if weights is not None:
            dots += factored.looked_up_token_dots(ids, grads, self.linear[name], weights)
        return dots


def stack_directions(
    layers: ModelLayers,
    gradients: Sequence[Mapping[str, Tensor]],
    dtype: torch.dtype,
    *,
    empty: Callable[..., Tensor] = torch.empty,
    written: Callable[[], None] = lambda: None,
) -> Directions:
    """Stack directions beside the weights: matrices and tables in the compute dtype, vectors in float32.

    ``gradients`` may be mappings that read from disk tensor by tensor; ``written`` is called after each tensor.
    """
    factoring = Factoring.of(gradients)
    shapes = dense_shapes(layers, factoring)
    linear: dict[GroupKey, Tensor] = {}
    term_weights: dict[GroupKey, Tensor] = {}
    slots: dict[str, Tensor] = {}
    for number, group in enumerate(layers.groups):
        if not group.linear or number in factoring.groups:
            continue
        kind, device = _product_dtype(group, dtype), home(layers, number)
        linear[number] = empty(len(gradients), *group.shape(), dtype=kind, device=device)
        start = 0
        for layer in group.layers:
            stop = start + shapes[layer.weight][0]
            slots[layer.weight], start = linear[number][:, start:stop], stop
    other = {
        name: empty(
            len(gradients), *shape, dtype=dtype if len(shape) == 2 else torch.float32, device=home(layers, name)
        )
        for name, shape in shapes.items()
        if name not in slots
    }
    slots |= other
    for number, gradient in enumerate(gradients):
        for name, slot in slots.items():
            slot[number] = gradient[name].to(slot.device)
            written()
    for key in sorted(factoring.groups, key=str):
        kind = dtype if isinstance(key, str) else _product_dtype(layers.groups[key], dtype)
        linear[key], term_weights[key] = _stack_terms(gradients, key, kind, home(layers, key), empty)
        written()
    entry_of: dict[str, Tensor] = {}
    for name in sorted(factoring.tables):
        vocabulary = layers.parameter_shapes()[name][0]
        stacked, entry_of[name] = _stack_entries(gradients, name, vocabulary, home(layers, name))
        other[name] = stacked.to(dtype)
    return Directions(len(gradients), linear, other, term_weights, entry_of)


def _stack_terms(
    gradients: Sequence[Mapping[str, Tensor]],
    key: GroupKey,
    dtype: torch.dtype,
    device: torch.device,
    empty: Callable[..., Tensor],
) -> tuple[Tensor, Tensor]:
    """The terms of all directions one after another, and their weights."""
    inputs, output_grads, weights = term_keys(key)
    own_weights = [gradient[weights].to(device) for gradient in gradients]
    total, fan_in = sum(map(len, own_weights)), gradients[0][inputs].shape[1]
    terms = empty(total, fan_in + gradients[0][output_grads].shape[1], dtype=dtype, device=device)
    stacked = torch.zeros(total, len(gradients), device=device)
    start = 0
    for direction, (gradient, own) in enumerate(zip(gradients, own_weights, strict=True)):
        part = slice(start, start := start + len(own))
        terms[part, :fan_in] = gradient[inputs].to(terms.device)
        terms[part, fan_in:] = gradient[output_grads].to(terms.device)
        stacked[part, direction] = own
    return terms, stacked


def _stack_entries(
    gradients: Sequence[Mapping[str, Tensor]], name: str, vocabulary: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """A table's entries that occur in any direction, with one of zeros behind them, and the number of each token's."""
    ids, rows = entry_keys(name)
    occurring = torch.unique(torch.cat([gradient[ids] for gradient in gradients])).to(device)
    entry_of = torch.full((vocabulary,), len(occurring), dtype=torch.long, device=device)
    entry_of[occurring] = torch.arange(len(occurring), device=device)
    stacked = torch.zeros(len(gradients), len(occurring) + 1, gradients[0][rows].shape[1], device=device)
    for direction, gradient in enumerate(gradients):
        stacked[direction].index_add_(0, entry_of[gradient[ids].to(device)], gradient[rows].to(device).float())
    return stacked, entry_of


def home(layers: ModelLayers, key: GroupKey) -> torch.device:
    """Where a group's or a parameter's directions are wanted: beside its weights."""
    name = key if isinstance(key, str) else layers.groups[key].layers[0].weight
    device: torch.device = layers.causal.get_parameter(name).device
    # the model was given back: the directions are only to be sent on
    return torch.device("cpu") if device.type == "meta" else device


def _product_dtype(group: LayerGroup, dtype: torch.dtype) -> torch.dtype:
    """The type a group computes in: LoRA layers keep float32 on a bfloat16 base; packed weights follow the model's."""
    weight = group.layers[0].module.weight
    return weight.dtype if isinstance(weight, Tensor) and weight.dtype.is_floating_point else dtype


def choose_factoring(layers: ModelLayers, terms: int, head_terms: int) -> Factoring:
    """What two directions' ``terms``, ``head_terms`` at the head, hold smaller than matrices; so with products."""
    groups: set[GroupKey] = set()
    for number, group in enumerate(layers.groups):
        if group.linear:
            out, fan_in = group.shape()
            if terms * (out + fan_in) < 2 * out * fan_in:
                groups.add(number)
    shapes = layers.parameter_shapes()
    few = {table.weight for table in layers.tables() if terms < shapes[table.weight][0]}
    head_weight = layers.head_weight
    if head_weight is not None:
        out, fan_in = shapes[head_weight]
        entries = 2 * terms * fan_in if layers.tied else 0
        if head_terms * (out + fan_in) + entries < 2 * out * fan_in:
            groups.add(head_weight)
            few |= {head_weight} if layers.tied else set()
        elif layers.tied:
            few.discard(head_weight)
    return Factoring(frozenset(groups), frozenset(few))


def dense_shapes(layers: ModelLayers, factoring: Factoring) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters in scope whose directions are dense."""
    left = set(factoring.tables)
    for key in factoring.groups:
        left |= {key} if isinstance(key, str) else {layer.weight for layer in layers.groups[key].layers}
    return {name: shape for name, shape in layers.parameter_shapes().items() if name not in left}


def zero_gradient(layers: ModelLayers, factoring: Factoring = DENSE) -> Gradient:
    """A vector of zeros over the parameters in scope that are dense, in float32 beside the weights."""
    shapes = dense_shapes(layers, factoring)
    return {name: torch.zeros(shape, device=home(layers, name)) for name, shape in shapes.items()}


def mean_gradient(gradients: Sequence[Mapping[str, Tensor]], dtype: torch.dtype) -> Gradient:
    """The mean, formed tensor by tensor in float32; matrices then in ``dtype``. Terms and entries are put together."""
    mean: Gradient = {}
    for key in gradients[0]:
        parts = [gradient[key] for gradient in gradients]
        if key.startswith(TERMS + ENTRIES):
            scaled = key.startswith((TERMS[-1], ENTRIES[-1]))
            mean[key] = torch.cat(parts) / len(parts) if scaled else torch.cat(parts)
            continue
        total = parts[0].to(torch.float32, copy=True)
        for part in parts[1:]:
            total += part
        total /= len(parts)
        mean[key] = total.to(dtype) if total.dim() == 2 else total
    return mean


def norm_of(gradient: Mapping[str, Tensor]) -> float:
    """Euclidean norm over all parameters."""
    factoring = Factoring.of([gradient])
    total = sum(
        float(torch.linalg.vector_norm(tensor, dtype=torch.float32)) ** 2
        for name, tensor in gradient.items()
        if not name.startswith(TERMS + ENTRIES)
    )
    for key in factoring.groups:
        inputs, grads = _scaled_terms(gradient, key)
        total += _sum((inputs @ inputs.mT) * (grads @ grads.mT))
    for name in factoring.tables:
        occurring, entries = added_up(*(gradient[part] for part in entry_keys(name)))
        total += _sum(entries.square())
        if name in factoring.groups:
            inputs, grads = _scaled_terms(gradient, name)
            total += 2.0 * _sum((grads[:, occurring].mT @ inputs) * entries)
    return math.sqrt(total)


def added_up(ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The ids that occur, and of each the sum of its rows in float32."""
    occurring, numbers = torch.unique(ids, return_inverse=True)
    return occurring, torch.zeros(len(occurring), rows.shape[1], device=rows.device).index_add_(
        0, numbers, rows.float()
    )


def _sum(values: Tensor) -> float:
    """In float64, which not every device has."""
    return float(values.cpu().sum(dtype=torch.float64))


def _scaled_terms(gradient: Mapping[str, Tensor], key: GroupKey) -> tuple[Tensor, Tensor]:
    inputs, grads, weights = (gradient[part].float() for part in term_keys(key))
    return inputs, grads * weights.unsqueeze(1)
