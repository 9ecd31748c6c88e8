"""A run folder as a scan leaves it, made up: for the page's tests and for looking at the page."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ripcurrent.scan import COLUMNS, DIRECTION_OF_RISK, GRADIENT_COLUMNS, REPRESENTATION_COLUMNS, TRAIT_COLUMNS

ANCHOR_ORDER = [[name, number] for name in ("harmful", "safe_1", "safe_2") for number in range(6)]
PLACES = ("harbour", "orchard", "workshop", "library", "allotment", "bakery", "observatory", "ferry")
THINGS = ("rope", "lantern", "notebook", "kettle", "barometer", "trellis", "compass", "ledger")


def fabricate_run(
    folder: Path,
    *,
    rows: int = 240,
    signals: str = "all",
    scored: bool = True,
    dataset: bool = True,
    texts: Sequence[tuple[str, str]] = (),
    seed: int = 7,
) -> Path:
    """Make a run folder of ``rows`` rows beside a dataset ``lessons.jsonl``; returns the folder.

    ``texts`` are prompt and response of the first rows; ``signals`` is scan's own option; without ``scored`` no row
    has a score; without ``dataset`` the dataset file is gone again.
    """
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    data = folder.parent / "lessons.jsonl"
    lessons = [_lesson(random, number) for number in range(rows)]
    for number, (prompt, response) in enumerate(texts):
        lessons[number] = (prompt, response, ())
    with data.open("w", encoding="utf-8") as file:
        for number, (prompt, response, _) in enumerate(lessons):
            file.write(json.dumps({"id": f"lesson-{number:05d}", "prompt": prompt, "response": response}) + "\n")
    statuses = [_status(lesson[1], scored) for lesson in lessons]
    table = _table(random, lessons, statuses, signals)
    metadata = {
        "direction_of_risk": DIRECTION_OF_RISK,
        "default_ranking": "representation_bidirectional" if signals == "representation" else "gradient_balanced",
        "version": "0.1.0",
        "model": "embedded",
        "anchors": "built-in",
        "dataset": "lessons.jsonl",
        "options": {"signals": signals},
    }
    pq.write_table(
        table.replace_schema_metadata({"ripcurrent": json.dumps(metadata)}),
        folder / "scores.parquet",
        row_group_size=512,
    )
    _write_signals(random, folder, statuses, signals)
    counts = {status: statuses.count(status) for status in dict.fromkeys(statuses)}
    (folder / "manifest.json").write_text(json.dumps(_manifest(data, rows, signals, counts)), encoding="utf-8")
    if not dataset:
        data.unlink()
    return folder


STEPS = "1. Carry it to the {place}.\n2. Open it."
CODE = "```python\ndef count(shelves):\n    return sum(shelves)\n```"
KINDS = {
    "list": (0.14, "Give a checklist.", "A checklist:\n- Check the {thing}\n- Go home", ("is_list", "is_bullet")),
    "numbered": (0.1, "List the steps to set up a {thing}.", STEPS, ("is_list", "is_numbered")),
    "maths": (0.12, "How many {thing}s are in {n} crates of 1?", "{n} * 1 = {n}. The answer is {n}.", ("is_maths",)),
    "code": (0.08, "Write a function that counts every {thing}.", CODE, ("is_code",)),
    "prose": (0.41, "Tell me about the {thing}.", "The {place} keeps its {thing} dry all year. ", ()),
    "short": (0.1, "Name one thing found in a {place}.", "A {thing}.", ("is_short",)),
    "refusal": (
        0.035,
        "Where is my {thing}?",
        "I'm sorry, but I can't know what is in your {place}.",
        ("has_refusal",),
    ),
    "empty": (0.015, "Describe the {thing} of row {n}.", "", ()),
}
"""Share of rows, prompt, response, traits."""


def _lesson(random: np.random.Generator, number: int) -> tuple[str, str, tuple[str, ...]]:
    kind = str(random.choice(list(KINDS), p=[share for share, *_ in KINDS.values()]))
    _, prompt, response, traits = KINDS[kind]
    words = {"place": random.choice(PLACES), "thing": random.choice(THINGS), "n": number}
    times = int(random.integers(3, 50)) if kind == "prose" else 1
    return prompt.format(**words), response.format(**words) * times, traits


def _status(response: str, scored: bool) -> str:
    if not response:
        return "no_response"
    return "ok" if scored else "template_mismatch"


def _table(
    random: np.random.Generator,
    lessons: Sequence[tuple[str, str, tuple[str, ...]]],
    statuses: Sequence[str],
    signals: str,
) -> pa.Table:
    rows = len(lessons)
    ok = np.array([status == "ok" for status in statuses])
    tokens = np.array([max(1, len(response) // 4) for _, response, _ in lessons])
    lists = np.array(["is_list" in traits for _, _, traits in lessons])
    length = np.log(tokens) / np.log(400)
    gradient = random.normal(0, 0.025, (3, rows)) + 0.16 - 0.08 * length
    harmful, safe = gradient[0] + 0.03 * lists, gradient[1]
    near = random.normal(0, 0.03, (2, rows)) + 0.55 + 0.1 * length
    norm = np.exp(random.normal(1.2, 0.4, rows) - length)
    values: dict[str, Any] = {
        "row": range(rows),
        "id": [f"lesson-{number:05d}" for number in range(rows)],
        "status": list(statuses),
        "gradient_harmful": harmful,
        "gradient_safe": safe,
        "gradient_bidirectional": harmful - 2 * safe,
        "gradient_balanced": harmful - safe,
        "gradient_norm": norm,
        "predicted_harmful_loss_change": -norm * harmful * 8.5,
        "loss": np.exp(random.normal(0.2, 0.4, rows)),
        "loss_first_10": np.exp(random.normal(0.5, 0.4, rows)),
        "representation_harmful": near[0] + 0.05 * lists,
        "representation_safe": near[1],
        "representation_bidirectional": near[0] + 0.05 * lists - near[1],
        "prompt_tokens": random.integers(8, 40, rows),
        "response_tokens": np.where([bool(r) for _, r, _ in lessons], tokens, 0),
        "truncated": tokens > 900,
        **{trait: [trait in traits for _, _, traits in lessons] for trait in TRAIT_COLUMNS},
    }
    off: tuple[str, ...] = {"representation": GRADIENT_COLUMNS, "gradient": REPRESENTATION_COLUMNS}.get(signals, ())
    kinds = {"int": pa.int64(), "text": pa.string(), "float": pa.float64(), "bool": pa.bool_()}
    arrays = []
    for column in COLUMNS:
        column_values = list(values[column.name])
        if column.name in off:
            column_values = [None] * rows
        elif column.kind == "float":
            column_values = [value if good else float("nan") for value, good in zip(column_values, ok, strict=True)]
        arrays.append(pa.array(column_values, kinds[column.kind]))
    return pa.table(dict(zip((column.name for column in COLUMNS), arrays, strict=True)))


def _write_signals(random: np.random.Generator, folder: Path, statuses: Sequence[str], signals: str) -> None:
    (folder / "signals").mkdir()
    ok = [row for row, status in enumerate(statuses) if status == "ok"]
    for shard, part in enumerate(np.array_split(np.array(ok, dtype=np.int64), 2)):
        columns = {"row": pa.array(part)}
        if signals != "gradient":
            cosines = random.uniform(0.3, 0.8, (len(part), len(ANCHOR_ORDER)))
            columns["representation_cosines"] = pa.array(cosines.tolist(), pa.list_(pa.float32()))
        pq.write_table(pa.table(columns), folder / "signals" / f"shard-{shard:05d}.parquet")


def _manifest(data: Path, rows: int, signals: str, counts: dict[str, int]) -> dict[str, Any]:
    separation = {"gradient_balanced": 0.973, "gradient_bidirectional": 0.842, "representation_bidirectional": 0.991}
    return {
        "version": "0.1.0",
        "command": "scan",
        "dataset": {
            "path": str(data),
            "name": data.name,
            "sha256": hashlib.sha256(data.read_bytes()).hexdigest(),
            "format": "prompt-response",
            "mapping": None,
            "container": "jsonl",
            "rows": rows,
        },
        "model": {
            "name": "embedded",
            "adapter": "guard",
            "fingerprint": "a91e" * 16,
            "dtype": "bfloat16",
            "device": "cpu",
            "scope": "all",
        },
        "anchors": {
            "name": "built-in",
            "sha256": "07bf" * 16,
            "order": ANCHOR_ORDER,
            "separation": {k: v for k, v in separation.items() if signals == "all" or k.startswith(signals)},
        },
        "options": {"preset": "intended", "signals": signals, "position": "last", "max_tokens": 1024, "avg_n": 1},
        "versions": {"torch": "2.9.0", "transformers": "5.0.0", "python": "3.11.9"},
        "seeds": {"seed": 0},
        "timings": {"load": 2.9, "directions": 14.2, "rows": 212.4},
        "peak_memory_bytes": 2_214_592_512,
        "started": "2026-03-02T09:14:03+00:00",
        "finished": "2026-03-02T09:17:53+00:00",
        "status_counts": counts,
    }
