"""Layers against directions that are kept as terms: sums of few outer products, never formed.

A direction ``V = Σ_p w_p B_p ⊗ A_p`` has ``<bᵀa, V> = Σ_t Σ_p w_p (a_t·A_p)(b_t·B_p)``, exactly: two products against
all terms at once, of whatever directions, instead of one against each direction's matrix.
"""

from jaxtyping import Float, Int
from torch import Tensor

from ripcurrent.gradients.kernels.linear import linear_products


def factored_token_dots(
    inputs: Float[Tensor, "*tokens in"],
    output_grads: Float[Tensor, "*tokens out"],
    terms: Float[Tensor, "terms in_and_out"],
    weights: Float[Tensor, "terms directions"],
) -> Float[Tensor, "*tokens directions"]:
    """``b_tᵀ V a_t`` of every token. Products in the inputs' dtype, sums over terms in float32."""
    return _products_with_terms(inputs, output_grads, terms).float() @ weights


def factored_products(
    inputs: Float[Tensor, "rows tokens in"],
    output_grads: Float[Tensor, "rows tokens out"],
    terms: Float[Tensor, "terms in_and_out"],
    weights: Float[Tensor, "terms directions"],
    shared: int = 0,
) -> tuple[Float[Tensor, "rows directions"], Float[Tensor, " rows"]]:
    """Each row's dots with the directions and squared norm; the ``shared`` first inputs are the same in every row."""
    fan_in, fan_out = inputs.shape[-1], output_grads.shape[-1]
    of_terms = _products_with_terms(inputs[:, shared:], output_grads[:, shared:], terms).sum(dim=1, dtype=weights.dtype)
    if shared:
        common = _products_with_terms(inputs[:1, :shared], output_grads[:, :shared], terms)
        of_terms += common.sum(dim=1, dtype=weights.dtype)
    _, norms = linear_products(inputs, output_grads, inputs.new_empty(0, fan_out, fan_in))
    return of_terms @ weights, norms


def looked_up_token_dots(
    ids: Int[Tensor, "rows tokens"],
    grads: Float[Tensor, "rows tokens width"],
    terms: Float[Tensor, "terms width_and_vocabulary"],
    weights: Float[Tensor, "terms directions"],
) -> Float[Tensor, "rows tokens directions"]:
    """``<b_t, V[id_t]>`` of a tied table, where ``V`` has the head's terms: ``Σ_p w_p B_p[id_t] (b_t·A_p)``."""
    width = grads.shape[-1]
    at_ids = terms[:, width:].index_select(1, ids.flatten()).mT.reshape(*ids.shape, len(terms))
    of_terms: Tensor = (grads @ terms[:, :width].mT) * at_ids
    return of_terms.float() @ weights


def _products_with_terms(
    inputs: Float[Tensor, "*tokens in"],
    output_grads: Float[Tensor, "*tokens out"],
    terms: Float[Tensor, "terms in_and_out"],
) -> Float[Tensor, "*tokens terms"]:
    """``(a_t·A_p)(b_t·B_p)`` of every token and term."""
    fan_in = inputs.shape[-1]
    products: Tensor = (inputs @ terms[:, :fan_in].mT) * (output_grads @ terms[:, fan_in:].mT)
    return products
