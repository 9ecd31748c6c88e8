"""Which tokens of a file a trainer trains: counts, rows without loss, and rows that two trainers treat differently."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice, pairwise
from multiprocessing import get_context
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, JsonValue

from ripcurrent.data._encode import encode, encode_rows, why_mismatch
from ripcurrent.data._read import Dataset
from ripcurrent.data._render import default_template
from ripcurrent.data._trained_tokens import TrainedTokens
from ripcurrent.data._types import EncodedRow, Fields, Row
from ripcurrent.errors import RipcurrentError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN_DIFFERENCES = 3
_CHUNK = 256
_KEPT_OF_CHUNK, _KEPT = 64, 512
"""Trained rows of which the typical one is taken."""
_SUMS = ("tokens", "trained_tokens", "truncated", "prompts_trained", "turns", "turns_without_loss", "ends_trained")
_TRIED = 4
"""Rows of each column that are labelled without it, to see whether it is read."""


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
    mismatch: str | None
    """What the chat template says of the first row that it refuses or whose turns it hides; None without one."""
    tokens: int
    """Of the trained rows, up to the last token that bears loss."""
    trained_tokens: int
    truncated: int
    """Trained rows that are cut at the longest length."""
    prompts_trained: int
    """Trained rows of which every token but the first bears loss: the prompt is learned as well."""
    turns: int
    """Assistant turns of the trained rows."""
    turns_without_loss: int
    """Of them, by the stretches of trained tokens: a row with fewer stretches than turns has such turns."""
    unread: list[str] | None
    """Columns without which the rows that were tried are trained alike; None where that was not tried."""
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
    *,
    processes: int = 1,
) -> MaskCheck:
    """Label every row as each of the trainers does; no model is needed.

    ``max_tokens`` may be one for each trainer. Further ``processes`` are started by spawning.

    Raises:
        RipcurrentError: A trainer does not read such files, or the tokenizer has no chat template where one is needed.
    """
    lengths = [max_tokens] * len(trainers) if isinstance(max_tokens, int) else list(max_tokens)
    found, unread = _Counted(tokenizer, trainers), iter(rows)
    chunks = iter(lambda: list(islice(unread, _CHUNK)), [])
    for part in _parts(partial(_count, tokenizer, trainers, lengths), chunks, processes):
        found.add(part)
    reports = [
        tally.report(tokenizer, one, _unread(rows, found.with_column, tokenizer, one, longest))
        for tally, one, longest in zip(found.tallies, trainers, lengths, strict=True)
    ]
    return MaskCheck(
        reports=reports,
        columns=dict(found.columns),
        notes=list(_notes(reports, tokenizer)),
        differing=found.differing if len(trainers) > 1 else None,
        differences=found.differences,
    )


class _Counted:
    """What is counted of a chunk of rows, or of several."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, trainers: Sequence[TrainedTokens]) -> None:
        closing = frozenset({tokenizer.eos_token_id, *tokenizer.all_special_ids})
        self.tallies = [_Tally(closing) for _ in trainers]
        self.columns: Counter[str] = Counter()
        self.with_column: dict[str, list[Row]] = {}
        self.differing = 0
        self.differences: list[tuple[MarkedRow, MarkedRow]] = []

    def add(self, other: _Counted) -> None:
        """Add what was counted of later rows."""
        for own, further in zip(self.tallies, other.tallies, strict=True):
            own.merge(further)
        self.columns.update(other.columns)
        for name, rows in other.with_column.items():
            self.with_column[name] = [*self.with_column.get(name, ()), *rows][:_TRIED]
        self.differing += other.differing
        self.differences = [*self.differences, *other.differences][:SHOWN_DIFFERENCES]


def _count(
    tokenizer: PreTrainedTokenizerBase, trainers: Sequence[TrainedTokens], lengths: Sequence[int], chunk: list[Row]
) -> _Counted:
    found = _Counted(tokenizer, trainers)
    for row in chunk:
        held = [name for name, value in row.record.items() if value not in (None, "", [], {})]
        found.columns.update(held)
        for name in (*held, *_keys_of_turns(row)):
            if len(rows := found.with_column.setdefault(name, [])) < _TRIED:
                rows.append(row)
    encoded = [
        list(encode_rows(chunk, tokenizer, max_tokens=longest, trained=one))
        for one, longest in zip(trainers, lengths, strict=True)
    ]
    for tally, own in zip(found.tallies, encoded, strict=True):
        for row, result in zip(chunk, own, strict=True):
            tally.add(row, result)
    for first, second in zip(*encoded[:2], strict=True) if len(trainers) > 1 else ():
        if not _alike(first, second):
            found.differing += 1
            if len(found.differences) < SHOWN_DIFFERENCES:
                found.differences.append((marked(first, tokenizer), marked(second, tokenizer)))
    return found


_ADOPTED: list[Callable[[list[Row]], _Counted]] = []
"""How a worker counts: sent to it once, as to read a tokenizer takes as long as to count a chunk."""


def _adopt(count: Callable[[list[Row]], _Counted]) -> None:
    _ADOPTED.append(count)


def _count_here(chunk: list[Row]) -> _Counted:
    return _ADOPTED[0](chunk)


def _parts(count: Callable[[list[Row]], _Counted], chunks: Iterator[list[Row]], processes: int) -> Iterator[_Counted]:
    """What is counted of each chunk, in order; with few chunks in memory at a time."""
    first = list(islice(chunks, 2 * processes))
    if processes < 2 or len(first) < 2 * processes:
        yield from map(count, chain(first, chunks))
        return
    with ProcessPoolExecutor(processes, get_context("spawn"), _adopt, (count,)) as pool:
        waiting = deque(pool.submit(_count_here, chunk) for chunk in first)
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(_count_here, chunk) for chunk in islice(chunks, 1))


def _keys_of_turns(row: Row) -> list[str]:
    """Keys that turns hold something in, as ``messages.reasoning_content``."""
    turns = [(column, one) for column, value in row.record.items() if isinstance(value, list) for one in value]
    held = ((column, *pair) for column, turn in turns if isinstance(turn, Mapping) for pair in turn.items())
    return list(dict.fromkeys(f"{column}.{key}" for column, key, value in held if value not in (None, "", [], {})))


def _without(record: Fields, name: str) -> Fields:
    """A record without a column, or without a key of the turns in one."""
    column, _, key = name.partition(".")
    if name in record or not isinstance(turns := record.get(column), list):
        return {other: value for other, value in record.items() if other != name}
    less = [{k: v for k, v in turn.items() if k != key} if isinstance(turn, Mapping) else turn for turn in turns]
    return {**record, column: less}


def _unread(
    rows: Iterable[Row],
    with_column: dict[str, list[Row]],
    tokenizer: PreTrainedTokenizerBase,
    trainer: TrainedTokens,
    max_tokens: int,
) -> list[str] | None:
    """Columns, and keys of turns, whose removal changes nothing of the rows that hold something in them."""
    if not isinstance(rows, Dataset):
        return None

    def read(row: Row, name: str) -> bool:
        less = rows.row(row.index, _without(row.record, name))
        try:
            kept, without = (encode(one, tokenizer, max_tokens=max_tokens, trained=trainer) for one in (row, less))
        except RipcurrentError:  # a trainer that misses a column says so of the whole file
            return True
        return kept.status != without.status or not _alike(kept, without)

    return [name for name, held in with_column.items() if not any(read(row, name) for row in held)]


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


@dataclass(slots=True)
class _Tally:
    """What is counted of one trainer's rows."""

    closing: frozenset[int]
    count: Counter[str] = field(default_factory=Counter)
    first: dict[str, Row] = field(default_factory=dict)
    sums: Counter[str] = field(default_factory=Counter)
    kept: list[EncodedRow] = field(default_factory=list)

    def add(self, row: Row, result: EncodedRow) -> None:
        self.count[result.status] += 1
        self.first.setdefault(result.status, row)
        if result.status != "ok":
            return
        mask = result.loss_mask
        whole = result.prompt_tokens <= 1
        turns = sum(message.role == "assistant" for message in row.messages)
        stretches = int(np.count_nonzero(np.diff(mask.astype(np.int8), prepend=0) > 0))
        self.sums.update(
            tokens=len(result.tokens),
            trained_tokens=result.response_tokens,
            truncated=int(result.truncated),
            prompts_trained=int(whole),
            turns=turns,
            turns_without_loss=0 if whole else max(0, turns - stretches),
            # a template may put a line feed behind the end of the turn
            ends_trained=int(not self.closing.isdisjoint(result.tokens[-2:][mask[-2:]].tolist())),
        )
        if len(self.kept) < _KEPT_OF_CHUNK:
            self.kept.append(result)

    def merge(self, later: _Tally) -> None:
        self.count.update(later.count)
        self.first = later.first | self.first
        self.sums.update(later.sums)
        self.kept = [*self.kept, *later.kept][:_KEPT]

    def report(
        self, tokenizer: PreTrainedTokenizerBase, trainer: TrainedTokens, unread: list[str] | None
    ) -> MaskReport:
        lengths = [len(row.tokens) for row in self.kept]
        hidden = self.first.get("template_mismatch")
        typical = self.kept[int(np.abs(np.asarray(lengths) - np.median(lengths)).argmin())] if lengths else None
        return MaskReport(
            trainer=str(trainer),
            rows=self.count.total(),
            trained_rows=self.count["ok"],
            not_trained={status: count for status, count in self.count.items() if status != "ok"},
            first_not_trained={status: row.index for status, row in self.first.items() if status != "ok"},
            mismatch=why_mismatch(hidden, tokenizer, trainer) if hidden else None,
            typical=None if typical is None else marked(typical, tokenizer),
            unread=unread,
            **{name: self.sums[name] for name in _SUMS},
        )


def _notes(reports: Sequence[MaskReport], tokenizer: PreTrainedTokenizerBase) -> Iterable[str]:
    template = default_template(tokenizer) or ""
    if "strftime_now" in template or "date_string" in template:
        yield "The chat template prints a date: the trainer's rows carry the day of the training, these a fixed one."
    if "</think>" in template:
        yield "The chat template treats thoughts apart: it may leave those of earlier answers out."
    if any(one.trainer == "openai" for one in reports):
        yield "OpenAI's models have their own tokens and chat template: these are this model's, of the same turns."
    for one in reports:
        if one.trained_rows and one.prompts_trained == one.trained_rows:
            yield f"{one.trainer} trains every token, the prompts included."
        if ",packing=true" in one.trainer and one.trainer.startswith("llamafactory") and "neat" not in one.trainer:
            yield f"{one.trainer}: a packed row sees the rows before it, which scores of single rows leave out."
        if one.turns_without_loss:
            yield f"{one.trainer} trains nothing of {one.turns_without_loss} of {one.turns} assistant turns."
        if one.trained_rows and one.ends_trained < one.trained_rows / 2:
            rest = one.trained_rows - one.ends_trained
            yield f"{one.trainer} does not train the end of the answer in {rest} rows: the model may not stop."
