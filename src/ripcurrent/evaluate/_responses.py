"""A model's answers, kept as they come and found again after a stop."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate._endpoint import FailureKind
from ripcurrent.evaluate._prompts import Prompt
from ripcurrent.evaluate._writable import writable
from ripcurrent.evaluate.judges import UNJUDGED, Answer, Judge, Verdict
from ripcurrent.runs import written_whole

RESPONSES = "responses.parquet"
VERDICTS = "verdicts.parquet"
PARTIAL = "responses.partial.jsonl"

REJECTED = "prompt_rejected"
"""Reason of a verdict, unjudged, on a prompt that was not answered."""

_RESPONSES = pa.schema(
    [
        *((name, pa.string()) for name in ("prompt_id", "prompt", "axis", "category", "source", "completion")),
        ("new_tokens", pa.int32()),
        ("truncated", pa.bool_()),
        ("rejected", pa.string()),
    ]
)
_VERDICTS = pa.schema(
    [
        *((name, pa.string()) for name in ("prompt_id", "judge", "version", "label", "reason")),
        ("opens_with_refusal", pa.bool_()),
        ("score", pa.float64()),
        ("details", pa.string()),
    ]
)
_JUDGES = b"ripcurrent.judges"


@dataclass(frozen=True, slots=True)
class Response:
    """What a model said to one prompt."""

    prompt_id: str
    """The prompt's id."""
    completion: str
    """The answer, thoughts included, special tokens left out."""
    new_tokens: int | None
    """Its length in the model's tokens; None where an endpoint does not say."""
    truncated: bool
    """Whether it reached the limit of new tokens."""
    rejected: str | None = None
    """What an endpoint said that would not take the prompt, which then has no answer; None otherwise."""


class ResponseLog:
    """Answers as they come, one JSON line each; a line that a crash tore is dropped and asked again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[str, Response] = {}
        """The answers that are there, by prompt id."""
        whole = b""
        if path.exists():
            for line in path.read_bytes().splitlines(keepends=True):
                try:
                    fields = json.loads(line)
                    if not line.endswith(b"\n"):
                        break
                    kept = Response(**fields)
                    # versions before kept what no table can hold
                    self.done[kept.prompt_id] = replace(kept, completion=writable(kept.completion))
                except (ValueError, TypeError, KeyError):
                    break
                whole += line
        self._whole = len(whole)

    def __enter__(self) -> ResponseLog:
        self._file = self.path.open("ab")
        self._file.truncate(self._whole)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, responses: Iterable[Response]) -> None:
        """Keep answers, on disk when this returns."""
        for one in responses:
            self.done[one.prompt_id] = one
            fields = {
                "prompt_id": one.prompt_id,
                "completion": one.completion,
                "new_tokens": one.new_tokens,
                "truncated": one.truncated,
                "rejected": one.rejected,
            }
            self._file.write(json.dumps(fields).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def write_responses(folder: Path, prompts: Sequence[Prompt], responses: Sequence[Response]) -> None:
    """Write ``responses.parquet``, one row per prompt, in order."""
    rows = [
        {
            "prompt_id": prompt.id,
            "prompt": prompt.text,
            "axis": prompt.axis,
            "category": prompt.category,
            "source": prompt.source,
            "completion": one.completion,
            "new_tokens": one.new_tokens,
            "truncated": one.truncated,
            "rejected": one.rejected,
        }
        for prompt, one in zip(prompts, responses, strict=True)
    ]
    with written_whole(folder / RESPONSES) as part:
        pq.write_table(pa.Table.from_pylist(rows, schema=_RESPONSES), part)


def read_responses(folder: Path) -> tuple[list[Prompt], list[Response]]:
    """The prompts and answers of an evaluation, in order.

    Raises:
        RipcurrentError: The table is not there or damaged.
    """
    rows = _rows(folder / RESPONSES)
    prompts = [
        Prompt(row["prompt_id"], row["prompt"], row["axis"], row["category"] or "", row["source"] or "") for row in rows
    ]
    # earlier versions rejected none, and had no column for it
    responses = [
        Response(row["prompt_id"], row["completion"], row["new_tokens"], row["truncated"], row.get("rejected"))
        for row in rows
    ]
    return prompts, responses


def judge_responses(judge: Judge, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[Verdict]:
    """A judge's verdict on each answer, in order; a prompt that was rejected has none to judge, and is unjudged."""
    pairs = list(zip(prompts, responses, strict=True))
    said = iter(
        judge.judge(
            [Answer(prompt.text, one.completion, one.truncated) for prompt, one in pairs if one.rejected is None]
        )
    )
    unjudged = Verdict(UNJUDGED, judge.name, judge.version, truncated=False, reason=REJECTED)
    return [next(said) if one.rejected is None else unjudged for one in responses]


def write_verdicts(
    folder: Path,
    ids: Sequence[str],
    verdicts: Mapping[str, Sequence[Verdict]],
    judges: Mapping[str, Mapping[str, Any]],
) -> None:
    """Write ``verdicts.parquet``: all verdicts of one judge, then of the next, and what a manifest keeps of judges."""
    rows = [
        {
            "prompt_id": prompt_id,
            "judge": one.judge,
            "version": one.version,
            "label": one.label,
            "reason": one.reason,
            "opens_with_refusal": one.opens_with_refusal,
            "score": one.score,
            "details": json.dumps(dict(one.details)) if one.details else None,
        }
        for said in verdicts.values()
        for prompt_id, one in zip(ids, said, strict=True)
    ]
    with written_whole(folder / VERDICTS) as part:
        pq.write_table(
            pa.Table.from_pylist(rows, schema=_VERDICTS.with_metadata({_JUDGES: json.dumps(dict(judges))})), part
        )


def read_judges(folder: Path) -> dict[str, dict[str, Any]]:
    """What was kept of the judges beside their verdicts; nothing where there are none, or of an earlier version."""
    path = folder / VERDICTS
    if not path.is_file():
        return {}
    kept = (_opened(path, pq.read_schema).metadata or {}).get(_JUDGES)
    found: dict[str, dict[str, Any]] = json.loads(kept) if kept else {}
    return found


def lacks_verdicts(folder: Path, judge: Judge) -> bool:
    """Whether answers have no verdict of a judge, have another version's of it, or lack what its endpoint failed on."""
    table = _opened(
        folder / VERDICTS, lambda path: pq.read_table(path, columns=["judge", "version", "label", "reason"])
    )
    own = [row for row in table.to_pylist() if row["judge"] == judge.name]
    failed = any(row["label"] == UNJUDGED and row["reason"] in get_args(FailureKind) for row in own)
    return not own or failed or any(row["version"] != judge.version for row in own if row["reason"] != REJECTED)


def read_verdicts(folder: Path, ids: Sequence[str], truncated: Sequence[bool]) -> dict[str, list[Verdict]]:
    """The verdicts of an evaluation by judge, in the order of ``ids``.

    Raises:
        RipcurrentError: The table is not there, damaged, or of other answers.
    """
    path = folder / VERDICTS
    by_judge: dict[str, dict[str, Verdict]] = {}
    cut = dict(zip(ids, truncated, strict=True))
    for row in _rows(path):
        by_judge.setdefault(row["judge"], {})[row["prompt_id"]] = Verdict(
            label=row["label"],
            judge=row["judge"],
            version=row["version"],
            truncated=cut.get(row["prompt_id"], False),
            reason=row["reason"],
            opens_with_refusal=bool(row["opens_with_refusal"]),
            score=row["score"],
            details=json.loads(row["details"]) if row["details"] else {},
        )
    if any(set(said) != set(ids) for said in by_judge.values()):
        raise RipcurrentError(
            f"{path} has verdicts on other answers than those beside it.",
            "Give the command that made it again: the answers are kept and judged anew.",
        )
    return {judge: [said[prompt_id] for prompt_id in ids] for judge, said in by_judge.items()}


def _rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = _opened(path, pq.read_table).to_pylist()
    return rows


def _opened(path: Path, read: Callable[[Path], Any]) -> Any:
    if not path.is_file():
        raise RipcurrentError(
            f"There is no {path}.", "Give the command that makes it again: it goes on where it was stopped."
        )
    try:
        return read(path)
    except (pa.ArrowException, OSError) as error:
        raise RipcurrentError(f"{path} is damaged: {str(error).rstrip('.')}.", "Evaluate again.") from None
