"""Rows with one aspect of their answer's format changed, of (nearly) the same length in tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ripcurrent.data import EncodedRow, LossOn, Row, encode_rows
from ripcurrent.experiment._format_edits import Edit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Counter = Callable[[Iterable[Row]], list[int | None]]
"""Response tokens of rows, in order; None of a row that cannot be trained on whole."""


@dataclass(frozen=True, slots=True)
class EditedRow:
    """A row and what an edit made of it."""

    edit: str
    """The edit's name."""
    row: int
    """Row number in the dataset."""
    answer: str
    """The rewritten answer."""
    tokens_before: int
    """Response tokens of the row."""
    tokens_after: int
    """Response tokens of the rewritten row."""


@dataclass(frozen=True, slots=True)
class Edited:
    """What one edit could do with some rows."""

    rows: tuple[EditedRow, ...]
    """The rewritten ones, in the order of the rows."""
    not_applicable: int
    """Rows whose format is not the edit's, or that it would not change."""
    other_length: int
    """Rows that it changes, but not within the tolerance."""


def is_editable(row: Row) -> bool:
    """Whether a row is a conversation with exactly one answer, its last turn, which bears loss."""
    answers = [message for message in row.messages if message.role == "assistant"]
    return len(answers) == 1 and row.messages[-1] is answers[0] and answers[0].bears_loss


def with_answer(row: Row, answer: str) -> Row:
    """The row with another answer; its record is left as it was."""
    return replace(row, messages=(*row.messages[:-1], replace(row.messages[-1], content=answer)))


def as_record(row: Row, row_id: str) -> dict[str, Any]:
    """A conversation as a record of the format ``messages`` that reads back as the same turns."""
    turns = [
        {"role": turn.role, "content": turn.content, **({} if turn.bears_loss else {"weight": 0})}
        for turn in row.messages
    ]
    return {"id": row_id, "messages": turns}


def token_counter(tokenizer: PreTrainedTokenizerBase, *, max_tokens: int, loss_on: LossOn) -> Counter:
    """Counts response tokens as a scan does."""

    def count(rows: Iterable[Row]) -> list[int | None]:
        return [_tokens(row) for row in encode_rows(rows, tokenizer, max_tokens=max_tokens, loss_on=loss_on)]

    return count


def edit_rows(rows: Sequence[Row], tokens: Mapping[int, int], edit: Edit, count: Counter, tolerance: float) -> Edited:
    """Rewrite answers by an edit, each by the first tier's candidate that is closest in length and close enough.

    Args:
        rows: Rows that `is_editable` holds for.
        tokens: Response tokens by row number.
        edit: The edit.
        count: Counts the response tokens of rewritten rows.
        tolerance: Largest change of the response tokens, as a share of those before.
    """
    tiers = {row.index: edit.candidates(row.messages[-1].content) for row in rows}
    waiting = [row for row in rows if tiers[row.index]]
    applicable = len(waiting)
    found: dict[int, EditedRow] = {}
    tier = 0
    while waiting:
        candidates = [with_answer(row, answer) for row in waiting for answer in tiers[row.index][tier]]
        for candidate, after in zip(candidates, count(candidates), strict=True):
            before = tokens[candidate.index]
            if after is None or abs(after - before) > tolerance * before:
                continue
            best = found.get(candidate.index)
            if best is None or abs(after - before) < abs(best.tokens_after - before):
                answer = candidate.messages[-1].content
                found[candidate.index] = EditedRow(edit.name, candidate.index, answer, before, after)
        tier += 1
        waiting = [row for row in waiting if row.index not in found and len(tiers[row.index]) > tier]
    kept = tuple(found[row.index] for row in rows if row.index in found)
    return Edited(kept, len(rows) - applicable, applicable - len(kept))


def _tokens(row: EncodedRow) -> int | None:
    return row.response_tokens if row.status == "ok" and not row.truncated else None
