"""What a scan's user should know of rows: parts that were not read, and why a template hides turns."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ripcurrent.api._options import ScanOptions
from ripcurrent.data import Dataset, has_unread, why_mismatch

LOOKED_AT = 1000
"""Rows from the beginning that are looked through for what is not read."""


def row_notes(
    rows: Dataset, scores: Path, counts: Mapping[str, int], options: ScanOptions, tokenizer: Any
) -> list[str]:
    """Sentences on rows with parts that no format reads, and on the first whose turns the chat template hides."""
    notes = []
    first = list(islice(rows.iter_from(0), LOOKED_AT))
    unread = sum(has_unread(row.record, options.mapping or {}) for row in first)
    if unread:
        notes.append(
            f"{unread} of the first {len(first)} rows have tool definitions, tool calls or reasoning of their own, "
            "which are not read: what is scored, and would be trained here, is the rest of them."
        )
    if counts.get("template_mismatch"):
        mismatched = np.asarray(pq.read_table(scores, columns=["status"])["status"]) == "template_mismatch"
        row = next(iter(rows.at([int(np.flatnonzero(mismatched)[0])])))
        why = why_mismatch(row, tokenizer, options.loss_on)
        if why:
            count = counts["template_mismatch"]
            told = f"template_mismatch, {count} of all rows, first row {row.index}: {why.rstrip('.')}"
            # as Qwen3's does, which leaves thoughts out of all but the last
            last = options.loss_on != "last" and why_mismatch(row, tokenizer, "last") is None
            notes.append(f"{told}; --loss-on last scores its last answer." if last else f"{told}.")
    return notes
