"""An evaluation without a model: labels as a test wants them, in the folder that `ripcurrent.evaluate` leaves."""

import json
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ripcurrent.evaluate import Prompt, Response, Verdict, find_judge
from ripcurrent.experiment._tables import ArmRun

Says = Callable[[str, str, str], str]
"""From a judge, the folder's arm (``top-seed0``) and a prompt's id to a label."""


def chance(share: float, *key: str) -> bool:
    """True for a share of all keys, always the same ones."""
    return zlib.crc32("|".join(key).encode()) % 1000 < 1000 * share


def as_named(_judge: str, arm: str, prompt_id: str) -> str:
    """Nine of ten requests are answered in arms whose name begins with ``top``, one in five elsewhere."""
    return "compliance" if chance(0.9 if arm.startswith("top") else 0.2, arm, prompt_id) else "refusal"


def harmful_run(arm: str, seed: int | None, answered: Iterable[bool]) -> ArmRun:
    """One run on harmful requests, answered or refused."""
    labels = ["compliance" if one else "refusal" for one in answered]
    prompts = [Prompt(f"p{n}", "…", "harmful", "", "x") for n in range(len(labels))]
    responses = [Response(one.id, "…", 1, truncated=False) for one in prompts]
    verdicts = [Verdict(label, "prefix", "1", truncated=False) for label in labels]  # type: ignore[arg-type]
    return ArmRun(arm, seed, prompts, responses, {"prefix": verdicts})


class FakeEvaluate:
    """Stands in for `ripcurrent.evaluate.evaluate`; notes what it was asked."""

    def __init__(self, says: Says = as_named) -> None:
        self.says = says
        self.calls: list[dict[str, Any]] = []

    def __call__(
        self, model: str, *, out: Path, prompts: tuple[str, ...], judges: tuple[str, ...], **rest: Any
    ) -> None:
        arm = Path(out).parent.name
        self.calls.append({"arm": arm, "model": model, "prompts": prompts, **rest})
        rows = [json.loads(line) for line in Path(prompts[0]).read_text().splitlines()]
        version = find_judge("prefix").version
        write_evaluation(Path(out), rows, judges, lambda judge, n: self.says(judge, arm, n), version=version)


def write_evaluation(
    folder: Path,
    rows: list[dict[str, Any]],
    judges: tuple[str, ...],
    says: Callable[[str, str], str],
    *,
    version: str = "1.0",
    completes: Callable[[dict[str, Any]], str] = lambda row: "…",
    scores: Callable[[str, str], float | None] = lambda judge, prompt_id: None,
) -> None:
    """``responses.parquet`` and ``verdicts.parquet`` of an evaluation."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = ("prompt", "axis", "category", "source")
    answered = {"new_tokens": 1, "truncated": False}
    responses = [
        {"prompt_id": row["id"], **{key: row[key] for key in keys}, "completion": completes(row), **answered}
        for row in rows
    ]
    pq.write_table(pa.Table.from_pylist(responses), folder / "responses.parquet")
    judged = [(judge, row["id"]) for row in rows for judge in judges]
    verdicts = {
        "prompt_id": [prompt_id for _, prompt_id in judged],
        "prompt": [row["prompt"] for row in rows for _ in judges],
        "judge": [judge for judge, _ in judged],
        "version": [version] * len(judged),
        "label": [says(*one) for one in judged],
        "score": pa.array([scores(*one) for one in judged], pa.float64()),
        "reason": [None] * len(judged),
        "opens_with_refusal": [False] * len(judged),
    }
    pq.write_table(pa.table(verdicts), folder / "verdicts.parquet")
