"""What a scan's user should know of rows: parts that were not read, and why a template hides turns."""

from __future__ import annotations

from typing import Any

from ripcurrent.data import Dataset, has_unread, why_mismatch
from ripcurrent.scan._options import ScanOptions

LOOKED_AT = 300
"""Rows, spread over the set, that are looked through."""


def row_notes(rows: Dataset, count: int, options: ScanOptions, tokenizer: Any) -> list[str]:
    """Sentences on rows with parts that no format reads, and on those whose turns the chat template hides."""
    notes: list[str] = []
    if rows.format == "text":
        # documents, which a corpus has too many of to be read once more for a note
        return notes
    looked_at = min(count, LOOKED_AT)
    sample = list(rows.at([count * place // looked_at for place in range(looked_at)]))
    of = f"{looked_at} rows" if looked_at == count else f"{looked_at} rows spread over the set"
    unread = sum(has_unread(row.record, options.mapping or {}) for row in sample)
    if unread:
        notes.append(
            f"{unread} of {of} have tool definitions, tool calls or reasoning of their own, "
            "which are not read: what is scored, and would be trained here, is the rest of them."
        )
    asked = [row for row in sample if row.problem is None and row.text is None]
    hidden = [(row, why) for row in asked if (why := why_mismatch(row, tokenizer, options.loss_on)) is not None]
    if hidden:
        row, why = hidden[0]
        told = f"template_mismatch, {len(hidden)} of {of}, first row {row.index}: {why.rstrip('.')}"
        # as Qwen3's does, which leaves thoughts out of all but the last
        last = options.loss_on != "last" and why_mismatch(row, tokenizer, "last") is None
        notes.append(f"{told}; --loss-on last scores its last answer." if last else f"{told}.")
    return notes
