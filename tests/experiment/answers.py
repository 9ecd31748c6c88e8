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


def as_named(judge: str, arm: str, prompt_id: str) -> str:
    """Nine of ten requests are answered in arms whose name begins with ``top``, one in five elsewhere."""
    del judge
    return "compliance" if chance(0.9 if arm.startswith("top") else 0.2, arm, prompt_id) else "refusal"


def harmful_run(arm: str, seed: int, answered: Iterable[bool]) -> ArmRun:
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
        self.completes: Callable[[str, dict[str, Any]], str] = lambda arm, row: "…"
        """From the folder's arm and a prompt's record to an answer."""
        self.calls: list[dict[str, Any]] = []

    def __call__(
        self, model: str, *, out: Path, prompts: tuple[str, ...], judges: tuple[str, ...], **rest: Any
    ) -> None:
        arm = Path(out).parent.name
        self.calls.append({"arm": arm, "model": model, "prompts": prompts, **rest})
        rows = [json.loads(line) for line in Path(prompts[0]).read_text().splitlines()]
        write_evaluation(
            Path(out),
            rows,
            judges,
            lambda judge, prompt_id: self.says(judge, arm, prompt_id),
            version=find_judge("prefix").version,
            completes=lambda row: self.completes(arm, row),
        )


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
    responses = [
        {
            "prompt_id": row["id"],
            "prompt": row["prompt"],
            "axis": row["axis"],
            "category": row["category"],
            "source": row["source"],
            "completion": completes(row),
            "new_tokens": 1,
            "truncated": row.get("truncated", False),
        }
        for row in rows
    ]
    verdicts = [
        {
            "prompt_id": row["id"],
            "prompt": row["prompt"],
            "judge": judge,
            "version": version,
            "label": says(judge, row["id"]),
            "score": scores(judge, row["id"]),
            "reason": None,
            "opens_with_refusal": False,
        }
        for row in rows
        for judge in judges
    ]
    pq.write_table(pa.Table.from_pylist(responses), folder / "responses.parquet")
    table = pa.Table.from_pylist(verdicts)
    place = table.column_names.index("score")
    table = table.set_column(place, "score", table["score"].cast(pa.float64()))
    pq.write_table(table, folder / "verdicts.parquet")
