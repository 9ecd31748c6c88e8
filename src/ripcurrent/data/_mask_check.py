"""Which tokens of a file a trainer trains: counts, rows without loss, and rows that two trainers treat differently."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, JsonValue

from ripcurrent.data._encode import encode_rows
from ripcurrent.data._render import default_template
from ripcurrent.data._trained_tokens import TrainedTokens
from ripcurrent.data._types import EncodedRow, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN_DIFFERENCES = 3
_CHUNK = 512


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class MarkedPiece(_Record):
    """Neighbouring tokens that are trained alike."""

    text: str
    weight: float
    """Of their loss; 0 where they are not trained."""


class MarkedRow(_Record):
    """A row as a trainer's loss sees it."""

    row: int
    status: str
    tokens: int
    trained: int
    pieces: list[MarkedPiece]


class MaskReport(_Record):
    """What one trainer makes of a file."""

    trainer: str
    """With the options that differ from its defaults."""
    rows: int
    trained_rows: int
    not_trained: dict[str, int]
    """Reason to number of rows that bear no loss."""
    first_not_trained: dict[str, int]
    """Reason to the first row that has it, 0-based."""
    tokens: int
    """Of the trained rows, up to the last token that bears loss."""
    trained_tokens: int
    truncated: int
    """Trained rows that are cut at the longest length."""
    prompts_trained: int
    """Trained rows of which every token but the first bears loss: the prompt is learned as well."""
    ends_trained: int
    """Trained rows that teach the model to stop: the last trained tokens hold an end-of-text or end-of-turn token."""
    typical: MarkedRow | None = None
    """A trained row of typical length; None where there is none."""


class MaskCheck(_Record):
    """What one or several trainers make of a file, and where the first two differ."""

    reports: list[MaskReport]
    columns: dict[str, int]
    """Column to the number of rows that hold something in it."""
    notes: list[str]
    """What of the chat template or the rows changes what is learned, in sentences."""
    differing: int | None = None
    """Rows of which the first two trainers train other tokens, or tokens at another weight; None for one trainer."""
    differences: list[tuple[MarkedRow, MarkedRow]] = []
    """The first of them, as each of the two has it."""

    @property
    def ok(self) -> bool:
        """Whether every row is trained, and alike by the trainers."""
        return not self.differing and not any(report.not_trained for report in self.reports)

    def to_json(self) -> dict[str, JsonValue]:
        """What ``--json`` prints."""
        return {**self.model_dump(mode="json"), "ok": self.ok}


def check_masks(
    rows: Iterable[Row],
    tokenizer: PreTrainedTokenizerBase,
    trainers: Sequence[TrainedTokens],
    max_tokens: int | Sequence[int] = 1024,
) -> MaskCheck:
    """Label every row as each of the trainers does; no model is needed. ``max_tokens`` may be one for each trainer.

    Raises:
        RipcurrentError: A trainer does not read such files, or the tokenizer has no chat template where one is needed.
    """
    lengths = [max_tokens] * len(trainers) if isinstance(max_tokens, int) else max_tokens
    tallies, columns, differing = [_Tally(trainer) for trainer in trainers], Counter[str](), 0
    differences: list[tuple[MarkedRow, MarkedRow]] = []
    for chunk in _chunks(rows):
        for row in chunk:
            columns.update(name for name, value in row.record.items() if value not in (None, "", [], {}))
        encoded = [
            list(encode_rows(chunk, tokenizer, max_tokens=longest, trained=one))
            for one, longest in zip(trainers, lengths, strict=True)
        ]
        for tally, own in zip(tallies, encoded, strict=True):
            tally.add(own, tokenizer)
        for first, second in zip(*encoded[:2], strict=True) if len(trainers) > 1 else ():
            if not _alike(first, second):
                differing += 1
                if len(differences) < SHOWN_DIFFERENCES:
                    differences.append((marked(first, tokenizer), marked(second, tokenizer)))
    reports = [tally.report(tokenizer) for tally in tallies]
    return MaskCheck(
        reports=reports,
        columns=dict(columns),
        notes=list(_notes(reports, tokenizer)),
        differing=differing if len(trainers) > 1 else None,
        differences=differences,
    )


def marked(row: EncodedRow, tokenizer: PreTrainedTokenizerBase) -> MarkedRow:
    """An encoded row's text in pieces that are trained alike."""
    weights = _weights(row)
    edges = [0, *(np.flatnonzero(np.diff(weights)) + 1).tolist(), len(weights)] if len(weights) else []
    pieces = [
        MarkedPiece(text=str(tokenizer.decode(row.tokens[start:end])), weight=float(weights[start]))
        for start, end in pairwise(edges)
    ]
    return MarkedRow(
        row=row.index, status=row.status, tokens=len(row.tokens), trained=row.response_tokens, pieces=pieces
    )


def _weights(row: EncodedRow) -> np.ndarray:
    return row.loss_mask.astype(np.float32) if row.weights is None else row.weights


def _alike(first: EncodedRow, second: EncodedRow) -> bool:
    return np.array_equal(first.tokens, second.tokens) and np.array_equal(_weights(first), _weights(second))


def _chunks(rows: Iterable[Row]) -> Iterable[list[Row]]:
    chunk: list[Row] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


class _Tally:
    """What is counted of one trainer's rows."""

    def __init__(self, trainer: TrainedTokens) -> None:
        self.trainer = trainer
        self.count: Counter[str] = Counter()
        self.first: dict[str, int] = {}
        self.tokens = self.trained = self.truncated = self.whole = self.ends = 0
        self.kept: list[EncodedRow] = []

    def add(self, rows: Sequence[EncodedRow], tokenizer: PreTrainedTokenizerBase) -> None:
        closing = {tokenizer.eos_token_id, *tokenizer.all_special_ids}
        for row in rows:
            self.count[row.status] += 1
            self.first.setdefault(row.status, row.index)
            if row.status != "ok":
                continue
            self.tokens += len(row.tokens)
            self.trained += row.response_tokens
            self.truncated += row.truncated
            self.whole += row.prompt_tokens <= 1
            # a template may put a line feed behind the end of the turn
            self.ends += not closing.isdisjoint(row.tokens[-2:][row.loss_mask[-2:]].tolist())
            if len(self.kept) < _CHUNK:
                self.kept.append(row)

    def report(self, tokenizer: PreTrainedTokenizerBase) -> MaskReport:
        lengths = [len(row.tokens) for row in self.kept]
        typical = self.kept[int(np.abs(np.asarray(lengths) - np.median(lengths)).argmin())] if lengths else None
        return MaskReport(
            trainer=str(self.trainer),
            rows=self.count.total(),
            trained_rows=self.count["ok"],
            not_trained={status: count for status, count in self.count.items() if status != "ok"},
            first_not_trained={status: row for status, row in self.first.items() if status != "ok"},
            tokens=self.tokens,
            trained_tokens=self.trained,
            truncated=self.truncated,
            prompts_trained=self.whole,
            ends_trained=self.ends,
            typical=None if typical is None else marked(typical, tokenizer),
        )


def _notes(reports: Sequence[MaskReport], tokenizer: PreTrainedTokenizerBase) -> Iterable[str]:
    template = default_template(tokenizer) or ""
    if "strftime_now" in template or "date_string" in template:
        yield "The chat template prints a date: the trainer's rows carry the day of the training, these a fixed one."
    if "</think>" in template:
        yield "The chat template treats thoughts apart: it may leave those of earlier answers out."
    for one in reports:
        if one.trained_rows and one.prompts_trained == one.trained_rows:
            yield f"{one.trainer} trains every token, the prompts included."
        if one.trained_rows and one.ends_trained < one.trained_rows / 2:
            rest = one.trained_rows - one.ends_trained
            yield f"{one.trainer} does not train the end of the answer in {rest} rows: the model may not stop."
