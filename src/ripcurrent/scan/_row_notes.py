"""What a scan's user should know of rows: parts that were not read, and why a template hides turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ripcurrent.data import Dataset, why_mismatch

if TYPE_CHECKING:
    from ripcurrent.scan._passes import ScanPasses
    from ripcurrent.scan._score import ScoreCounts


def row_notes(rows: Dataset, counts: ScoreCounts, passes: ScanPasses) -> list[str]:
    """Sentences on rows with parts that no format reads, and on those whose turns the chat template hides."""
    notes: list[str] = []
    tokenizer, loss_on = passes.chat_model.tokenizer, passes.options.loss_on
    total = counts.statuses.total()
    if counts.unread:
        notes.append(
            f"{counts.unread} of {total} rows have tool definitions, tool calls or reasoning of their own, "
            "which are not read: what is scored, and would be trained here, is the rest of them."
        )
    if counts.first_mismatch is not None:
        (row,) = rows.at([counts.first_mismatch])
        why = why_mismatch(row, tokenizer, loss_on) or "its turns are hidden"
        hidden = counts.statuses["template_mismatch"]
        note = f"template_mismatch, {hidden} of {total} rows, first row {row.index}: {why.rstrip('.')}"
        # as Qwen3's does, which leaves thoughts out of all but the last
        last = loss_on != "last" and why_mismatch(row, tokenizer, "last") is None
        notes.append(f"{note}; --loss-on last scores its last answer." if last else f"{note}.")
    return notes
