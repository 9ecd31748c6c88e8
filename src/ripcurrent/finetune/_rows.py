"""Rows as they are trained: the tokens and masks that scoring has, without tokenising again."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ripcurrent.data import EncodedRow
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.finetune._run import TrainedRows
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
    about: TrainedRows
    """What a manifest keeps of them."""


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
    count = truncated = 0
    digest = hashlib.sha256()
    for row in encoded:
        count += 1
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
    about = TrainedRows(
        count=count,
        trained=len(rows),
        left_out=dict(left_out),
        truncated=truncated,
        loss_tokens=int(sum((row != IGNORED).sum() for row in labels)),
        tokens_sha256=digest.hexdigest(),
    )
    return TrainingSet(Dataset.from_dict({"input_ids": tokens, "labels": labels}), tuple(rows), about)


def split_by_length(batch: Mapping[str, Tensor], token_budget: int) -> list[dict[str, Tensor]]:
    """A right-padded batch as parts of rows of like length, each padded to its own longest row."""
    lengths = batch["attention_mask"].sum(dim=1)
    parts = []
    for places in plan_batches(lengths.tolist(), token_budget):
        rows = torch.tensor(places, device=lengths.device)
        width = int(lengths[rows].max())
        parts.append({name: values[rows, :width] for name, values in batch.items()})
    return parts
