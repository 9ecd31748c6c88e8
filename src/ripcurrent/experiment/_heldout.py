"""The loss on rows of the set that no arm trained on: what fine-tuning was for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ripcurrent.data import Row, encode_rows

if TYPE_CHECKING:
    from ripcurrent.data import LossOn
    from ripcurrent.models import ChatModel


def heldout_loss(
    chat_model: ChatModel, rows: Sequence[Row], *, max_tokens: int, loss_on: LossOn, batch_rows: int = 8
) -> float | None:
    """Mean cross-entropy in nats over the loss-bearing tokens of all rows; None where there is no such token."""
    import torch

    encoded = [
        row
        for row in encode_rows(rows, chat_model.tokenizer, max_tokens=max_tokens, loss_on=loss_on)
        if row.status == "ok"
    ]
    encoded.sort(key=lambda row: len(row.tokens))
    total, count = 0.0, 0
    model, device = chat_model.model, chat_model.device
    with torch.inference_mode():
        for start in range(0, len(encoded), batch_rows):
            batch = encoded[start : start + batch_rows]
            width = max(len(row.tokens) for row in batch)
            ids = torch.zeros(len(batch), width, dtype=torch.long)
            attention = torch.zeros_like(ids)
            bears = torch.zeros(len(batch), width, dtype=torch.bool)
            for place, row in enumerate(batch):
                length = len(row.tokens)
                ids[place, :length] = torch.from_numpy(row.tokens.astype("int64"))
                attention[place, :length] = 1
                bears[place, :length] = torch.from_numpy(row.loss_mask)
            output = model(input_ids=ids.to(device), attention_mask=attention.to(device), use_cache=False)
            places = bears[:, 1:].nonzero(as_tuple=True)
            chosen = output.logits[:, :-1][tuple(part.to(device) for part in places)].float()
            losses = torch.nn.functional.cross_entropy(chosen, ids[:, 1:][places].to(device), reduction="sum")
            total += float(losses)
            count += len(places[0])
    return total / count if count else None
