"""Embedding tables, and the cross term of a table that is also the output head."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def embedding_squared_norm(
    ids: Int[Tensor, "rows tokens"], output_grads: Float[Tensor, "rows tokens width"]
) -> Float[Tensor, " rows"]:
    """Each row's squared norm of its table gradient: ``Σ_{t,s} [id_t = id_s] <b_t, b_s>``, in float32."""
    grads = output_grads.float()
    same = ids.unsqueeze(2) == ids.unsqueeze(1)
    return (torch.bmm(grads, grads.mT) * same).sum(dim=(1, 2))


def tied_cross_term(
    head_grads_at_ids: Float[Tensor, "rows positions tokens"],
    head_inputs: Float[Tensor, "rows positions width"],
    embedding_grads: Float[Tensor, "rows tokens width"],
) -> Float[Tensor, " rows"]:
    """What a tied table adds to head norm plus embedding norm: ``2 Σ_{t,s} b^head_t[id_s] <h_t, b^emb_s>``.

    ``head_grads_at_ids[r, t, s]`` is the gradient at row r's t-th head position of the logit of its s-th input token.
    """
    inner = torch.bmm(head_inputs.float(), embedding_grads.float().mT)
    return 2.0 * (head_grads_at_ids.float() * inner).sum(dim=(1, 2))


def embedding_gradient(
    ids: Int[Tensor, "rows tokens"], output_grads: Float[Tensor, "rows tokens width"], vocabulary: int
) -> Float[Tensor, "vocabulary width"]:
    """The table gradient summed over rows, in float32."""
    grads = output_grads.float().flatten(0, 1)
    table = torch.zeros(vocabulary, grads.shape[-1], dtype=torch.float32, device=grads.device)
    return table.index_add_(0, ids.flatten(), grads)


def embedding_token_dots(
    ids: Int[Tensor, "rows tokens"],
    output_grads: Float[Tensor, "rows tokens width"],
    directions: Float[Tensor, "directions vocabulary width"],
) -> Float[Tensor, "rows tokens directions"]:
    """Each token's term of a table gradient's dots, ``<b_t, V[id_t]>``, in float32."""
    grads = output_grads.float()
    dots = torch.zeros(*ids.shape, len(directions), device=grads.device)
    for number, direction in enumerate(directions):
        dots[:, :, number] = (grads * direction[ids].float()).sum(dim=-1)
    return dots
