"""A model's answers and the verdicts on them: kept as they come, read back after a stop."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate._endpoint import FailureKind
from ripcurrent.evaluate._prompts import Prompt
from ripcurrent.evaluate.judges import UNJUDGED, Facts, Judge, Verdict
from ripcurrent.runs import written_whole

RESPONSES, VERDICTS, PARTIAL = "responses.parquet", "verdicts.parquet", "responses.partial.jsonl"
REJECTED = "prompt_rejected"
"""Reason of a verdict, unjudged, on a prompt that was not answered."""

_RESPONSES = pa.schema(
    [
        *((name, pa.string()) for name in ("prompt_id", "prompt", "axis", "category", "source", "completion")),
        *(("new_tokens", pa.int32()), ("truncated", pa.bool_()), ("rejected", pa.string())),
    ]
)
_VERDICTS = pa.schema(
    [
        *((name, pa.string()) for name in ("prompt_id", "judge", "version", "label", "reason")),
        *(("opens_with_refusal", pa.bool_()), ("score", pa.float64()), ("details", pa.string())),
    ]
)
_JUDGES = b"ripcurrent.judges"


@dataclass(frozen=True, slots=True)
class Response:
    """What a model said to one prompt."""

    prompt_id: str
    completion: str
    """The answer, thoughts included, special tokens left out."""
    new_tokens: int | None
    """Its length in the model's tokens; None where an endpoint does not say."""
    truncated: bool
    rejected: str | None = None
    """What an endpoint said that would not take the prompt, which then has no answer; None otherwise."""


class ResponseLog:
    """Answers as they come, one JSON line each; a line that a crash tore is dropped and asked again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        whole, end, _ = path.read_bytes().rpartition(b"\n") if path.exists() else (b"", b"", b"")
        kept = [Response(**json.loads(line)) for line in whole.splitlines()]
        self.done = {one.prompt_id: one for one in kept}
        if path.exists():
            os.truncate(path, len(whole + end))

    def add(self, responses: Iterable[Response]) -> None:
        """Keep answers, on disk when this returns."""
        with self.path.open("ab") as file:
            for one in responses:
                self.done[one.prompt_id] = one
                file.write(json.dumps(asdict(one)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def write_responses(folder: Path, prompts: Sequence[Prompt], responses: Sequence[Response]) -> None:
    """Write ``responses.parquet``, one row per prompt, in order."""
    rows = [
        {**asdict(prompt), "prompt": prompt.text, **asdict(one)} for prompt, one in zip(prompts, responses, strict=True)
    ]
    _write(folder / RESPONSES, rows, _RESPONSES)


def read_responses(folder: Path) -> tuple[list[Prompt], list[Response]]:
    """The prompts and answers of an evaluation, in order."""
    # earlier versions rejected none, and had no column for it
    found = read_rows(folder / RESPONSES, _RESPONSES.names[:-1])
    rows: list[list[Any]] = [[row.get(name) for name in _RESPONSES.names] for row in found]
    return [Prompt(*row[:5]) for row in rows], [Response(row[0], *row[5:]) for row in rows]


def write_verdicts(
    folder: Path, ids: Sequence[str], verdicts: Mapping[str, Sequence[Verdict]], judges: Mapping[str, Facts]
) -> None:
    """Write ``verdicts.parquet``: all verdicts of one judge, then of the next, and what a manifest keeps of judges."""
    rows = [
        {"prompt_id": prompt_id, **asdict(one), "details": json.dumps(dict(one.details)) if one.details else None}
        for said in verdicts.values()
        for prompt_id, one in zip(ids, said, strict=True)
    ]
    _write(folder / VERDICTS, rows, _VERDICTS.with_metadata({_JUDGES: json.dumps(dict(judges))}))


def read_judges(folder: Path) -> dict[str, Facts]:
    """What was kept of the judges beside their verdicts; nothing where there are none."""
    path = folder / VERDICTS
    kept = (_opened(path, pq.read_schema).metadata or {}).get(_JUDGES) if path.is_file() else None
    judges: dict[str, Facts] = json.loads(kept or "{}")
    return judges


def read_verdicts(folder: Path, responses: Sequence[Response]) -> dict[str, list[Verdict]]:
    """The verdicts on these responses by judge, in their order."""
    path = folder / VERDICTS
    by_judge: dict[str, dict[str, Verdict]] = {}
    cut = {one.prompt_id: one.truncated for one in responses}
    for row in read_rows(path, _VERDICTS.names[:5]):
        by_judge.setdefault(row["judge"], {})[row["prompt_id"]] = Verdict(
            label=row["label"],
            judge=row["judge"],
            version=row["version"],
            truncated=cut.get(row["prompt_id"], False),
            reason=row["reason"],
            opens_with_refusal=bool(row.get("opens_with_refusal")),
            score=row.get("score"),
            details=json.loads(row.get("details") or "{}"),
        )
    if any(set(said) != set(cut) for said in by_judge.values()):
        raise RipcurrentError(
            f"{path} has verdicts on other answers than those beside it.",
            "Give the command that made it again: the answers are kept and judged again.",
        )
    return {judge: [said[prompt_id] for prompt_id in cut] for judge, said in by_judge.items()}


def lacks_verdicts(folder: Path, judge: Judge) -> bool:
    """Whether answers have no verdict of a judge, have another version's of it, or lack what its endpoint failed on."""
    own = [row for row in read_rows(folder / VERDICTS, _VERDICTS.names[:5]) if row["judge"] == judge.name]
    failed = any(row["label"] == UNJUDGED and row["reason"] in get_args(FailureKind) for row in own)
    return not own or failed or any(row["version"] != judge.version for row in own if row["reason"] != REJECTED)


def _write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    with written_whole(path) as part:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), part)


def read_rows(path: Path, needed: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a table; an error where it is not there, damaged, or lacks a column that is needed."""
    table = _opened(path, pq.read_table)
    if missing := [name for name in needed if name not in table.column_names]:
        raise RipcurrentError(f"{path} has no column {', '.join(missing)}.", "Evaluate again in another folder.")
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _opened(path: Path, read: Callable[[Path], Any]) -> Any:
    if not path.is_file():
        raise RipcurrentError(f"There is no {path}.", "Give the command that makes it again: it goes on from there.")
    try:
        return read(path)
    except (pa.ArrowException, OSError) as error:
        wrong = str(error).rstrip(".")
        raise RipcurrentError(f"{path} is damaged: {wrong}.", "Evaluate again in another folder.") from None
