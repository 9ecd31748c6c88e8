"""Which row of a scan a trainer's row is: both are known by the tokens that are trained, and by nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np

from ripcurrent.data import encode_rows
from ripcurrent.errors import RipcurrentError
from ripcurrent.scan import ScanRun

IGNORED = -100
"""Label of a token that bears no loss."""


class ScannedRows:
    """The rows of a scan by their trained tokens, as a trainer's tokenizer gives them."""

    def __init__(self, run: ScanRun, trainer: Any) -> None:
        options = run.options
        packs = [one for one in ("packing", "padding_free", "sample_packing") if getattr(trainer.args, one, False)]
        if packs:
            said = f"The trainer joins rows ({packs[0]}), so no row of one is a row of the other."
            raise RipcurrentError(said, "Scan and train row by row.")
        self._folder, self._numbers = run.folder, dict[bytes, list[int]]()
        rows, tokenizer = run.dataset(), trainer.processing_class
        for row in encode_rows(rows, tokenizer, max_tokens=options.max_tokens, trained=options.trained):
            if row.status == "ok":
                self._numbers.setdefault(_key(row.tokens, row.loss_mask), []).append(row.index)

    def numbers(self, ids: Any, labels: Any, which: str = "A row of a batch") -> list[int]:
        """The scan's rows with the trained tokens of one row; empty where it has none; RipcurrentError without such."""
        ids, trained = np.asarray(ids), np.asarray(labels) != IGNORED
        # nothing predicts the first token
        trained[:1] = False
        length = int(np.flatnonzero(trained).max(initial=-1)) + 1
        if length and _key(ids[:length], trained[:length]) not in self._numbers:
            said = (
                f"{which} is not in the scan {self._folder}: no row there has its {length} tokens, {trained.sum()} of"
            )
            raise RipcurrentError(f"{said} them trained.", "Scan what is trained: ripcurrent.scan(trainer, OUT).")
        return self._numbers[_key(ids[:length], trained[:length])] if length else []

    def numbers_of(self, trainer: Any) -> list[int | None]:
        """The scan's row for each of the trainer's, of equal rows each its own; None where nothing is trained."""
        dataset, found = trainer.train_dataset, list[int | None]()
        names = getattr(dataset, "column_names", None) or ()
        if not {"input_ids", "labels"} <= {*names} or not hasattr(dataset, "__len__"):
            what = f"The {type(trainer).__name__} has no processed dataset with input_ids and labels, or streams it."
            raise RipcurrentError(what, "Give a trainer that has tokenized its rows and holds them.")
        left: dict[int, list[int]] = {}
        for place, record in enumerate(dataset):
            if numbers := self.numbers(record["input_ids"], record["labels"], f"Row {place} of the trainer"):
                waiting = left.setdefault(numbers[0], numbers[::-1])
                found.append(waiting.pop() if len(waiting) > 1 else waiting[0])
            else:
                found.append(None)
        return found


def _key(tokens: Any, trained: Any) -> bytes:
    return bytes(tokens.astype(np.int32).tobytes() + trained.tobytes())
