"""Dots of the output head and of embedding tables with directions, whichever way those are held."""

from __future__ import annotations

from torch import Tensor

from ripcurrent.gradients._directions import Directions
from ripcurrent.gradients.kernels import factored, tokens
from ripcurrent.gradients.kernels import head as head_products


def head_token_dots(inputs: Tensor, logit_grads: Tensor, directions: Directions, name: str) -> Tensor:
    """Each head position's terms, shape ``(positions, directions)``, float32; ``name`` is the head's weight."""
    weights = directions.term_weights.get(name)
    if weights is None:
        return head_products.head_dots(inputs, logit_grads, directions.other[name])
    dots = factored.factored_token_dots(inputs, logit_grads, directions.linear[name], weights)
    if name in directions.places:
        entries = directions.other[name]
        occurring = (directions.places[name] < entries.shape[1] - 1).nonzero().squeeze(1)
        dots += head_products.head_dots(inputs, logit_grads.index_select(1, occurring), entries[:, :-1])
    return dots


def table_token_dots(ids: Tensor, grads: Tensor, directions: Directions, name: str) -> Tensor:
    """Each looked-up token's terms, shape ``(rows, tokens, directions)``, float32."""
    places = directions.places.get(name)
    if places is None:
        return tokens.embedding_token_dots(ids, grads, directions.other[name])
    dots = tokens.embedding_token_dots(places[ids], grads, directions.other[name])
    weights = directions.term_weights.get(name)
    if weights is not None:
        dots += factored.looked_up_token_dots(ids, grads, directions.linear[name], weights)
    return dots
