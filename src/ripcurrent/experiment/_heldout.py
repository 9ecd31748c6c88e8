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

    encoded = encode_rows(rows, chat_model.tokenizer, max_tokens=max_tokens, loss_on=loss_on)
    usable = sorted((row for row in encoded if row.status == "ok"), key=lambda row: len(row.tokens))

    def does_not_fit(row: EncodedRow, said: str) -> RipcurrentError:
        return RipcurrentError(
            f"The loss of held-out row {row.index}, {len(row.tokens)} tokens, does not fit into the memory of "
            f"{chat_model.device}, even alone ({said}).",
            "Lower max_tokens in the experiment's file, or give heldout: 0; docs/scan.md says what takes how much.",
        )

    batches = in_batches(usable, batch_rows, lambda batch: _summed_loss(chat_model, batch), does_not_fit)
    sums = [loss_and_count for _, loss_and_count in batches]
    count = sum(tokens for _, tokens in sums)
    return sum(loss for loss, _ in sums) / count if count else None


def _summed_loss(chat_model: ChatModel, batch: Sequence[EncodedRow]) -> tuple[float, int]:
    """The loss summed over the loss-bearing tokens of some rows, and their number."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    tokens = [torch.from_numpy(row.tokens.astype("int64")) for row in batch]
    ids = pad_sequence(tokens, batch_first=True).to(chat_model.device)
    attention = pad_sequence([torch.ones_like(row) for row in tokens], batch_first=True).to(chat_model.device)
    bears = pad_sequence([torch.from_numpy(row.loss_mask) for row in batch], batch_first=True).to(chat_model.device)
    places = bears[:, 1:].bool().nonzero(as_tuple=True)
    with torch.inference_mode():
        logits = chat_model.model(input_ids=ids, attention_mask=attention, use_cache=False).logits
        chosen = logits[:, :-1][places].float()
        losses = torch.nn.functional.cross_entropy(chosen, ids[:, 1:][places], reduction="sum")
    return float(losses), len(places[0])
