"""A run folder as a scan leaves it, made up: for the page's tests and for looking at the page."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ripcurrent.scan import (
    COLUMNS,
    DIRECTION_OF_RISK,
    GRADIENT_COLUMNS,
    REPRESENTATION_COLUMNS,
    TRAIT_COLUMNS,
    ScanAnchors,
)
from tests.select.fabricate import TYPES, manifest

SEPARATION = {"gradient_balanced": 0.973, "gradient_bidirectional": 0.842, "representation_bidirectional": 0.991}
PLACES = ("harbour", "orchard", "workshop", "library", "allotment", "bakery", "observatory", "ferry")
THINGS = ("rope", "lantern", "notebook", "kettle", "barometer", "trellis", "compass", "ledger")
STEPS = "1. Carry it to the {place}.\n2. Open it."
CODE = "```python\ndef count(shelves):\n    return sum(shelves)\n```"
KINDS: dict[str, tuple[float, str, str, tuple[str, ...]]] = {
    "list": (0.14, "Give a checklist.", "A checklist:\n- Check the {thing}\n- Go home", ("is_list", "is_bullet")),
    "numbered": (0.1, "List the steps to set up a {thing}.", STEPS, ("is_list", "is_numbered")),
    "maths": (0.12, "How many {thing}s are in {n} crates of 1?", "{n} * 1 = {n}. The answer is {n}.", ("is_maths",)),
    "code": (0.08, "Write a function that counts every {thing}.", CODE, ("is_code",)),
    "prose": (0.41, "Tell me about the {thing}.", "The {place} keeps its {thing} dry all year. ", ()),
    "short": (0.1, "Name one thing found in a {place}.", "A {thing}.", ("is_short",)),
    "refusal": (0.035, "Where is my {thing}?", "I'm sorry, but I can't know your {place}.", ("has_refusal",)),
    "empty": (0.015, "Describe the {thing} of row {n}.", "", ()),
}
"""Share of rows, prompt, response, traits."""
Lesson = tuple[str, str, tuple[str, ...]]


def fabricate_run(
    folder: Path,
    *,
    rows: int = 240,
    signals: str = "all",
    scored: bool = True,
    dataset: bool = True,
    texts: Sequence[tuple[str, str]] = (),
) -> Path:
    """Make a run folder of ``rows`` rows beside a dataset ``lessons.jsonl``; returns the folder.

    ``texts`` are prompt and response of the first rows; ``signals`` is scan's own option; without ``scored`` no row
    has a score; without ``dataset`` the dataset file is gone again.
    """
    random = np.random.default_rng(7)
    lessons = [_lesson(random, number) for number in range(rows)]
    lessons[: len(texts)] = [(prompt, response, ()) for prompt, response in texts]
    folder.mkdir(parents=True)
    data = folder.parent / "lessons.jsonl"
    records = [{"id": f"lesson-{n:05d}", "prompt": one[0], "response": one[1]} for n, one in enumerate(lessons)]
    data.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    usual = "ok" if scored else "template_mismatch"
    statuses = [usual if response else "no_response" for _, response, _ in lessons]
    ranking = "representation_bidirectional" if signals == "representation" else "gradient_balanced"
    about = {"direction_of_risk": DIRECTION_OF_RISK, "default_ranking": ranking}
    table = _table(random, lessons, statuses, signals).replace_schema_metadata({"ripcurrent": json.dumps(about)})
    pq.write_table(table, folder / "scores.parquet", row_group_size=512)
    separation = {name: value for name, value in SEPARATION.items() if signals == "all" or name.startswith(signals)}
    anchors = ScanAnchors(name="built-in", sha256="07bf" * 16, separation=separation)
    counts = {status: statuses.count(status) for status in dict.fromkeys(statuses)}
    changes = {"anchors": anchors, "status_counts": counts, "peak_memory_bytes": 2_214_592_512}
    manifest(data, signals=signals).model_copy(update=changes).write(folder)
    if not dataset:
        data.unlink()
    return folder


def _lesson(random: np.random.Generator, number: int) -> Lesson:
    kind = str(random.choice(list(KINDS), p=[share for share, *_ in KINDS.values()]))
    _, prompt, response, traits = KINDS[kind]
    words = {"place": random.choice(PLACES), "thing": random.choice(THINGS), "n": number}
    times = int(random.integers(3, 50)) if kind == "prose" else 1
    return prompt.format(**words), response.format(**words) * times, traits


def _table(random: np.random.Generator, lessons: list[Lesson], statuses: list[str], signals: str) -> pa.Table:
    rows = len(lessons)
    tokens = np.array([len(response) // 4 for _, response, _ in lessons])
    length = np.log(np.maximum(tokens, 1)) / np.log(400)
    lists = np.array(["is_list" in traits for _, _, traits in lessons])
    values: dict[str, Any] = {column.name: np.exp(random.normal(1, 0.4, rows) - length) for column in COLUMNS}
    for method, centre in (("gradient", 0.16 - 0.08 * length), ("representation", 0.55 + 0.1 * length)):
        harmful, safe = random.normal(0, 0.03, (2, rows)) + centre + [0.03 * lists, 0 * length]
        values |= {f"{method}_harmful": harmful, f"{method}_safe": safe, f"{method}_balanced": harmful - safe}
        values[f"{method}_bidirectional"] = harmful - (2 if method == "gradient" else 1) * safe
    values |= {trait: [trait in traits for _, _, traits in lessons] for trait in TRAIT_COLUMNS}
    values |= {"row": range(rows), "id": [f"lesson-{number:05d}" for number in range(rows)], "status": statuses}
    values |= {"prompt_tokens": random.integers(8, 40, rows), "response_tokens": tokens, "truncated": tokens > 900}
    off: tuple[str, ...] = {"representation": GRADIENT_COLUMNS, "gradient": REPRESENTATION_COLUMNS}.get(signals, ())
    nothing = np.where(np.array(statuses) == "ok", 0.0, np.nan)
    columns = {}
    for one in COLUMNS:
        own = values[one.name] + nothing if one.kind == "float" else values[one.name]
        columns[one.name] = pa.array([None] * rows if one.name in off else list(own), TYPES[one.kind])
    return pa.table(columns)
