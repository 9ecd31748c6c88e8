"""Rows as they are trained: the tokens and masks that scoring has, padded into batches without tokenising again."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ripcurrent.data import EncodedRow
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.gradients import plan_batches

if TYPE_CHECKING:
    from datasets import Dataset

IGNORED = -100
"""The label of a token that bears no loss, as transformers has it."""


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """The rows of a dataset that can be trained on."""

    dataset: Dataset
    """Columns ``input_ids`` and ``labels``, one row each."""
    rows: tuple[int, ...]
    """0-based positions of these rows in the input."""
    left_out: Mapping[str, int]
    """Rows that cannot be trained on, by reason."""
    truncated: int
    """Rows of which only the head is trained."""
    loss_tokens: int
    """Tokens that bear loss, over all rows."""
    sha256: str
    """SHA-256 in hex of all tokens and labels, in order."""


def build_training_set(encoded: Iterable[EncodedRow]) -> TrainingSet:
    """Encoded rows as a set to train on; those with another status than ``ok`` are left out and counted.

    Raises:
        RipcurrentError: No row bears loss, or a row that claims to be ``ok`` bears none: its share of a batch would be
            trained on nothing.
    """
    from datasets import Dataset

    tokens: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    rows: list[int] = []
    left_out: Counter[str] = Counter()
    truncated = 0
    digest = hashlib.sha256()
    for row in encoded:
        if row.status != "ok":
            left_out[row.status] += 1
            continue
        if not row.loss_mask[1:].any():
            raise RipcurrentError(f"Row {row.index} has no token that bears loss.", "Leave it out.")
        row_labels = np.where(row.loss_mask, row.tokens, IGNORED).astype(np.int32)
        # nothing predicts the first token, so it bears no loss whatever the mask says
        row_labels[0] = IGNORED
        digest.update(len(row.tokens).to_bytes(8, "little") + row.tokens.tobytes() + row_labels.tobytes())
        tokens.append(row.tokens)
        labels.append(row_labels)
        rows.append(row.index)
        truncated += row.truncated
    if not rows:
        reasons = ", ".join(f"{number} {status}" for status, number in sorted(left_out.items())) or "it has no rows"
        raise RipcurrentError(
            f"There is nothing to train on: no row has a token that bears loss ({reasons}).",
            "See how a row is rendered and masked with: ripcurrent doctor DATASET --model M",
            code=ExitCode.NOT_MEASURED,
        )
    return TrainingSet(
        dataset=Dataset.from_dict({"input_ids": tokens, "labels": labels}),
        rows=tuple(rows),
        left_out=dict(left_out),
        truncated=truncated,
        loss_tokens=int(sum((row != IGNORED).sum() for row in labels)),
        sha256=digest.hexdigest(),
    )


class RightPadding:
    """Puts rows into a batch, padded on the right; a padded place bears no loss."""

    def __init__(self, pad_token_id: int) -> None:
        self._pad = pad_token_id

    def __call__(self, rows: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Int[Tensor, "rows tokens"]]:
        """``input_ids``, ``labels`` and ``attention_mask`` of a batch."""
        shape = len(rows), max(len(row["input_ids"]) for row in rows)
        ids = torch.full(shape, self._pad)
        labels = torch.full(shape, IGNORED)
        attention = torch.zeros(shape, dtype=torch.long)
        for place, row in enumerate(rows):
            length = len(row["input_ids"])
            ids[place, :length] = torch.tensor(row["input_ids"])
            labels[place, :length] = torch.tensor(row["labels"])
            attention[place, :length] = 1
        return {"input_ids": ids, "labels": labels, "attention_mask": attention}


def split_by_length(batch: Mapping[str, Tensor], token_budget: int) -> list[dict[str, Tensor]]:
    """A batch of :class:`RightPadding` as parts of rows of like length, each padded to its own longest row."""
    lengths = batch["attention_mask"].sum(dim=1)
    parts = []
    for places in plan_batches(lengths.tolist(), token_budget):
        rows = torch.tensor(places, device=lengths.device)
        width = int(lengths[rows].max())
        parts.append({name: values[rows, :width] for name, values in batch.items()})
    return parts
