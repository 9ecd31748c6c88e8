"""The loss on rows of the set that no arm trained on: what fine-tuning was for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ripcurrent.data import EncodedRow, Row, encode_rows
from ripcurrent.errors import RipcurrentError

if TYPE_CHECKING:
    from ripcurrent.data import LossOn
    from ripcurrent.models import ChatModel


def heldout_loss(
    chat_model: ChatModel, rows: Sequence[Row], *, max_tokens: int, loss_on: LossOn, batch_rows: int = 8
) -> float | None:
    """Mean cross-entropy in nats over the loss-bearing tokens of all rows; None where there is no such token.

    Where ``batch_rows`` rows do not fit into memory, half as many are read at once, down to one.

    Raises:
        RipcurrentError: A row does not fit alone.
    """
    from ripcurrent.evaluate import in_batches

    encoded = [
        row
        for row in encode_rows(rows, chat_model.tokenizer, max_tokens=max_tokens, loss_on=loss_on)
        if row.status == "ok"
    ]
    encoded.sort(key=lambda row: len(row.tokens))

    def does_not_fit(row: EncodedRow, said: str) -> RipcurrentError:
        return RipcurrentError(
            f"The loss of held-out row {row.index}, {len(row.tokens)} tokens, does not fit into the memory of "
            f"{chat_model.device}, even alone ({said}).",
            "Lower max_tokens in the experiment's file, or give heldout: 0; docs/memory.md says what takes how much.",
        )

    batches = in_batches(encoded, batch_rows, lambda batch: _summed_loss(chat_model, batch), does_not_fit)
    sums = [loss_and_count for _, loss_and_count in batches]
    count = sum(tokens for _, tokens in sums)
    return sum(loss for loss, _ in sums) / count if count else None


def _summed_loss(chat_model: ChatModel, batch: Sequence[EncodedRow]) -> tuple[float, int]:
    """The loss summed over the loss-bearing tokens of some rows, and their number."""
    import torch

    device = chat_model.device
    width = max(len(row.tokens) for row in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    attention = torch.zeros_like(ids)
    bears = torch.zeros(len(batch), width, dtype=torch.bool)
    for place, row in enumerate(batch):
        length = len(row.tokens)
        ids[place, :length] = torch.from_numpy(row.tokens.astype("int64"))
        attention[place, :length] = 1
        bears[place, :length] = torch.from_numpy(row.loss_mask)
    places = bears[:, 1:].nonzero(as_tuple=True)
    with torch.inference_mode():
        output = chat_model.model(input_ids=ids.to(device), attention_mask=attention.to(device), use_cache=False)
        chosen = output.logits[:, :-1][tuple(part.to(device) for part in places)].float()
        losses = torch.nn.functional.cross_entropy(chosen, ids[:, 1:][places].to(device), reduction="sum")
    return float(losses), len(places[0])
