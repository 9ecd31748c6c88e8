"""Directions: fixed vectors of the parameters' shape, held stacked and grouped as the recorder reads them.

A linear group's directions are held dense, or factored: a mean of anchors' gradients is a sum of outer products, one
for each of their tokens, and where these are few for the layer's size they take less memory and fewer products. The
output head's are such a sum over the anchors' loss-bearing tokens; an embedding table's have entries for the tokens
that occur in them alone; those of a table that is both are the sum of the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ripcurrent.gradients._sites import Catalogue, SiteGroup, is_linear, linear_shape

Gradient = dict[str, Tensor]
"""One vector of the parameters' shape: parameter name to tensor (``(out, in)`` for linear kinds).

A factored group's weights, or the head's, are replaced by those of :func:`term_keys`: inputs ``(terms, in)``, output
gradients ``(terms, out)`` and the terms' weights ``(terms,)``. A table's are replaced by those of :func:`entry_keys`:
token ids ``(entries,)``, in which one may come twice, and entries ``(entries, width)``, which are added up.
"""

GroupKey = int | str
"""A linear group's number, or the name of the head's weight."""


@dataclass(frozen=True, slots=True)
class Factoring:
    """Which directions are not held as matrices."""

    groups: frozenset[GroupKey] = frozenset()
    """Linear groups, and the head, that are kept as terms."""
    tables: frozenset[str] = frozenset()
    """Embedding tables of which the entries that occur are kept."""


DENSE = Factoring()
"""Every direction a matrix."""


@dataclass(frozen=True, slots=True)
class Directions:
    """Several directions, stacked parameter by parameter and joined group by group."""

    count: int
    """How many."""
    linear: Mapping[GroupKey, Tensor]
    """A group's directions in the compute dtype: dense, shape ``(directions, out, in)``, or factored, shape ``(terms,
    in + out)``, each term an input and an output gradient. The head's are here where they are factored."""
    other: Mapping[str, Tensor]
    """Parameter name to directions of vectors and tables, shape ``(directions, *shape)``; of a table in ``places``
    ``(directions, entries + 1, width)``, the last entry zero."""
    term_weights: Mapping[GroupKey, Tensor] = field(default_factory=dict)
    """Each factored group to its terms' weight in each direction, shape ``(terms, directions)``, float32."""
    places: Mapping[str, Tensor] = field(default_factory=dict)
    """Name of each table with few entries to the place of every token's entry, shape ``(vocabulary,)``."""


def stack_directions(
    catalogue: Catalogue,
    gradients: Iterable[Mapping[str, Tensor]],
    dtype: torch.dtype,
    *,
    count: int | None = None,
    factoring: Factoring = DENSE,
    empty: Callable[..., Tensor] = torch.empty,
    written: Callable[[], None] = lambda: None,
) -> Directions:
    """Stack directions for the recorder: matrices and tables in the compute type, vectors in float32, by its weights.

    ``gradients`` may be mappings that read from disk tensor by tensor, or an iterator of ``count`` gradients with that
    ``factoring`` that are formed one after another, so that no matrix is held twice. ``empty`` makes the tensors, as
    ``torch.empty`` does; ``written`` is told after each parameter.
    """
    given = None
    if count is None:
        gradients = given = list(gradients)
        count, factoring = len(given), _factoring_of(given)
    shapes = dense_shapes(catalogue, factoring)
    linear: dict[GroupKey, Tensor] = {}
    slots: dict[str, Tensor] = {}
    for number, group in enumerate(catalogue.groups):
        names = group_weights(group)
        if not names or number in factoring.groups:
            continue
        out, fan_in = group_shape(group)
        linear[number] = empty(count, out, fan_in, dtype=_product_dtype(group, dtype), device=home(catalogue, number))
        start = 0
        for name in names:
            slots[name] = linear[number][:, start : start + shapes[name][0]]
            start += shapes[name][0]
    other = {
        name: empty(count, *shape, dtype=dtype if len(shape) == 2 else torch.float32, device=home(catalogue, name))
        for name, shape in shapes.items()
        if name not in slots
    }
    slots |= other
    rest: list[Mapping[str, Tensor]] = []
    for number, gradient in enumerate(gradients):
        for name, slot in slots.items():
            slot[number] = gradient[name].to(slot.device)
            written()
        if given is None:
            rest.append({name: gradient[name] for name in gradient if name not in slots})
    found = rest if given is None else given
    term_weights: dict[GroupKey, Tensor] = {}
    for key in sorted(factoring.groups, key=str):
        kind = dtype if isinstance(key, str) else _product_dtype(catalogue.groups[key], dtype)
        linear[key], term_weights[key] = _stack_terms(found, key, kind, home(catalogue, key), empty)
        written()
    places: dict[str, Tensor] = {}
    for name in sorted(factoring.tables):
        shape = catalogue.parameter_shapes()[name]
        other[name], places[name] = _stack_entries(found, name, shape, dtype, home(catalogue, name))
    return Directions(count, linear, other, term_weights, places)


def _stack_terms(
    gradients: Sequence[Mapping[str, Tensor]],
    key: GroupKey,
    dtype: torch.dtype,
    device: torch.device,
    empty: Callable[..., Tensor],
) -> tuple[Tensor, Tensor]:
    """The terms of all directions one after another, and their weights."""
    inputs, output_grads, weights = term_keys(key)
    found = [gradient[weights].to(device) for gradient in gradients]
    total = sum(len(one) for one in found)
    stacked = torch.zeros(total, len(gradients), device=device)
    terms = empty(
        total, gradients[0][inputs].shape[1] + gradients[0][output_grads].shape[1], dtype=dtype, device=device
    )
    start = 0
    for direction, (gradient, own) in enumerate(zip(gradients, found, strict=True)):
        part = slice(start, start := start + len(own))
        fan_in = gradient[inputs].shape[1]
        terms[part, :fan_in] = gradient[inputs].to(terms.device)
        terms[part, fan_in:] = gradient[output_grads].to(terms.device)
        stacked[part, direction] = own
    return terms, stacked


def _stack_entries(
    gradients: Sequence[Mapping[str, Tensor]],
    name: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """A table's entries that occur in any direction, with one of zeros behind them, and where each token's is."""
    ids, rows = entry_keys(name)
    occurring = torch.unique(torch.cat([gradient[ids] for gradient in gradients])).to(device)
    places = torch.full((shape[0],), len(occurring), dtype=torch.long, device=device)
    places[occurring] = torch.arange(len(occurring), device=device)
    stacked = torch.zeros(len(gradients), len(occurring) + 1, shape[1], device=device)
    for direction, gradient in enumerate(gradients):
        stacked[direction].index_add_(0, places[gradient[ids].to(device)], gradient[rows].to(device).float())
    return stacked.to(dtype), places


def _factoring_of(gradients: Sequence[Mapping[str, Tensor]]) -> Factoring:
    """What these gradients, all alike, have as terms and entries."""
    keys = list(gradients[0]) if gradients else []
    named = [key.removeprefix(TERMS) for key in keys if key.startswith(TERMS)]
    return Factoring(
        frozenset(int(name) if name.isdigit() else name for name in named),
        frozenset(key.removeprefix(ENTRIES) for key in keys if key.startswith(ENTRIES)),
    )


def home(catalogue: Catalogue, key: GroupKey) -> torch.device:
    """Where a group's or a parameter's directions are wanted: beside its weights."""
    device = catalogue.device_of(key if isinstance(key, str) else group_weights(catalogue.groups[key])[0])
    # a model that was given back: the directions are only to be sent on
    return torch.device("cpu") if device.type == "meta" else device


def _product_dtype(group: SiteGroup, dtype: torch.dtype) -> torch.dtype:
    """The type a group computes in: LoRA layers keep float32 on a bfloat16 base; packed weights follow the model's."""
    weight = group.sites[0].module.weight
    return weight.dtype if isinstance(weight, Tensor) and weight.dtype.is_floating_point else dtype


def group_weights(group: SiteGroup) -> list[str]:
    """Names of a linear group's weights in order; empty for other kinds."""
    return [site.weight for site in group.sites if is_linear(site) and site.weight is not None]


def group_shape(group: SiteGroup) -> tuple[int, int]:
    """``(out, in)`` of a linear group's joined weight; only of sites whose weight is in scope."""
    shapes = [linear_shape(site.module) for site in group.sites if is_linear(site) and site.weight is not None]
    return sum(out for out, _ in shapes), shapes[0][1]


TERMS = "inputs of "
ENTRIES = "ids of "


def term_keys(key: GroupKey) -> tuple[str, str, str]:
    """Where a gradient has a factored group's inputs, output gradients and weights."""
    return f"{TERMS}{key}", f"output gradients of {key}", f"weights of {key}"


def entry_keys(name: str) -> tuple[str, str]:
    """Where a gradient has a table's token ids and entries."""
    return f"{ENTRIES}{name}", f"entries of {name}"


def choose_factoring(catalogue: Catalogue, terms: int, head_terms: int, directions: int = 2) -> Factoring:
    """What is smaller as so many terms, at the head ``head_terms``, than dense; products shrink alike.

    A table that is also the head is kept as terms and entries, or as neither.
    """
    groups: set[GroupKey] = set()
    for number, group in enumerate(catalogue.groups):
        if group_weights(group):
            out, fan_in = group_shape(group)
            if terms * (out + fan_in) < directions * out * fan_in:
                groups.add(number)
    shapes = catalogue.parameter_shapes()
    tables = {
        site.weight: shapes[site.weight][0]
        for group in catalogue.groups
        for site in group.sites
        if site.kind == "embedding" and site.weight is not None
    }
    few = {name for name, entries in tables.items() if terms < entries}
    head = catalogue.head_weight
    if head is not None:
        out, fan_in = shapes[head]
        entries = terms * fan_in * directions if catalogue.tied else 0
        if head_terms * (out + fan_in) + entries < directions * out * fan_in:
            groups.add(head)
            few |= {head} if catalogue.tied else set()
        elif catalogue.tied:
            few.discard(head)
    return Factoring(frozenset(groups), frozenset(few))


def dense_shapes(catalogue: Catalogue, factoring: Factoring) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters in scope whose directions are dense."""
    left = set(factoring.tables)
    for key in factoring.groups:
        left |= {key} if isinstance(key, str) else set(group_weights(catalogue.groups[key]))
    return {name: shape for name, shape in catalogue.parameter_shapes().items() if name not in left}


def direction_shapes(
    catalogue: Catalogue, factoring: Factoring, terms: int, head_terms: int, entries: int
) -> dict[str, tuple[int, ...]]:
    """Shapes of all that a gradient has, with so many terms in a factored group and at the head, entries in a table."""
    whole = catalogue.parameter_shapes()
    shapes = dense_shapes(catalogue, factoring)
    for key in factoring.groups:
        many, shape = (head_terms, whole[key]) if isinstance(key, str) else (terms, group_shape(catalogue.groups[key]))
        inputs, output_grads, weights = term_keys(key)
        shapes |= {inputs: (many, shape[1]), output_grads: (many, shape[0]), weights: (many,)}
    for name in factoring.tables:
        ids, rows = entry_keys(name)
        shapes |= {ids: (entries,), rows: (entries, whole[name][1])}
    return shapes


def stacked_bytes(
    catalogue: Catalogue, factoring: Factoring, terms: int, head_terms: int, *, entries: int, count: int, itemsize: int
) -> int:
    """What ``count`` directions take when stacked, that have so many terms in all and entries in a table."""
    dense = dense_shapes(catalogue, factoring)
    terms_and_rows = direction_shapes(catalogue, factoring, terms, head_terms, entries + 1)
    total = sum(count * math.prod(shape) * (itemsize if len(shape) == 2 else 4) for shape in dense.values())
    for key in factoring.groups:
        inputs, output_grads, weights = (math.prod(terms_and_rows[part]) for part in term_keys(key))
        total += (inputs + output_grads) * itemsize + count * weights * 4
    for name in factoring.tables:
        total += count * math.prod(terms_and_rows[entry_keys(name)[1]]) * itemsize
    return total


def zero_gradient(catalogue: Catalogue, factoring: Factoring = DENSE) -> Gradient:
    """A vector of zeros over the parameters in scope that are dense, in float32 beside the weights."""
    shapes = dense_shapes(catalogue, factoring)
    return {name: torch.zeros(shape, device=home(catalogue, name)) for name, shape in shapes.items()}


def mean_gradient(gradients: Sequence[Mapping[str, Tensor]], dtype: torch.dtype) -> Gradient:
    """The mean, formed tensor by tensor in float32; matrices then in ``dtype``. Terms and entries are put together."""
    factoring = _factoring_of(gradients)
    joined = {name for key in factoring.groups for name in term_keys(key)}
    joined |= {name for table in factoring.tables for name in entry_keys(table)}
    scaled = {term_keys(key)[2] for key in factoring.groups} | {entry_keys(table)[1] for table in factoring.tables}
    mean: Gradient = {}
    for key in gradients[0]:
        parts = [gradient[key] for gradient in gradients]
        if key in joined:
            mean[key] = torch.cat(parts) / len(parts) if key in scaled else torch.cat(parts)
            continue
        total = parts[0].to(torch.float32, copy=True)
        for part in parts[1:]:
            total += part
        total /= len(parts)
        mean[key] = total.to(dtype) if total.dim() == 2 else total
    return mean


def norm_of(gradient: Mapping[str, Tensor]) -> float:
    """Euclidean norm over all parameters."""
    factoring = _factoring_of([gradient])
    kept = {name for key in factoring.groups for name in term_keys(key)}
    kept |= {name for table in factoring.tables for name in entry_keys(table)}
    total = sum(
        float(torch.linalg.vector_norm(gradient[name], dtype=torch.float32)) ** 2
        for name in gradient
        if name not in kept
    )
    for key in factoring.groups:
        inputs, grads = _scaled_terms(gradient, key)
        total += _sum((inputs @ inputs.mT) * (grads @ grads.mT))
    for name in factoring.tables:
        ids, rows = (gradient[part] for part in entry_keys(name))
        occurring, places = torch.unique(ids, return_inverse=True)
        entries = torch.zeros(len(occurring), rows.shape[1], device=rows.device).index_add_(0, places, rows.float())
        total += _sum(entries.square())
        if name in factoring.groups:
            inputs, grads = _scaled_terms(gradient, name)
            total += 2.0 * _sum((grads[:, occurring].mT @ inputs) * entries)
    return math.sqrt(total)


def _sum(values: Tensor) -> float:
    """In float64, which not every device has."""
    return float(values.cpu().sum(dtype=torch.float64))


def _scaled_terms(gradient: Mapping[str, Tensor], key: GroupKey) -> tuple[Tensor, Tensor]:
    inputs, grads, weights = (gradient[part].float() for part in term_keys(key))
    return inputs, grads * weights.unsqueeze(1)
