"""The loss of a model on rows that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ripcurrent.data import Row, TrainedTokens, encode_rows

if TYPE_CHECKING:
    from ripcurrent.models import ChatModel


def heldout_loss(
    chat_model: ChatModel, rows: Sequence[Row], *, max_tokens: int, trained: TrainedTokens
) -> float | None:
    """Mean cross-entropy in nats over the loss-bearing tokens of all rows; None where there is no such token."""
    import torch

    losses = []
    for row in encode_rows(rows, chat_model.tokenizer, max_tokens=max_tokens, trained=trained):
        if row.status == "ok":
            tokens = torch.tensor(row.tokens.tolist(), device=chat_model.device)
            bears = torch.tensor(row.loss_mask[1:].tolist(), device=chat_model.device)
            with torch.inference_mode():
                logits = chat_model.model(input_ids=tokens[None], use_cache=False).logits[0, :-1]
            losses.append(torch.nn.functional.cross_entropy(logits[bears].float(), tokens[1:][bears], reduction="none"))
    return float(torch.cat(losses).mean()) if losses else None
