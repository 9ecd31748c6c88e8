"""Run folders and scores tables made up for tests: nothing here was measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ripcurrent.data import read_rows
from ripcurrent.scan._columns import COLUMNS, DIRECTION_OF_RISK

TYPES = {"int": pa.int64(), "text": pa.string(), "float": pa.float64(), "bool": pa.bool_()}
ANCHOR_ORDER = [["safe_1", 0], ["harmful", 0], ["harmful", 1], ["safe_2", 0], ["harmful", 2]]
HARMFUL_PLACES = [1, 2, 4]


def fabricate_table(
    rows: int = 60, seed: int = 0, *, unscored: float = 0.1, distinct: int = 1000, gradient: bool = True
) -> pa.Table:
    """A scores table by contract; ``distinct`` limits the different score values, so that ties appear."""
    random = np.random.default_rng(seed)
    ok = random.random(rows) >= unscored
    ok[: min(rows, 4)] = True
    tokens = random.integers(1, 60, rows)
    columns: dict[str, list[object]] = {
        "row": list(range(rows)),
        "id": [f"id-{row}" for row in range(rows)],
        "status": ["ok" if fine else "no_response" for fine in ok],
        "prompt_tokens": random.integers(5, 30, rows).tolist(),
        "response_tokens": tokens.tolist(),
    }
    for column in COLUMNS:
        if column.kind == "float":
            values = np.round(random.normal(size=rows) * distinct / 4) / distinct
            absent = not gradient and (column.name.startswith(("gradient", "predicted", "loss")))
            columns[column.name] = [
                None if absent else float(v) if fine else float("nan") for v, fine in zip(values, ok, strict=True)
            ]
        elif column.kind == "bool":
            columns[column.name] = (random.random(rows) < 0.3).tolist()
    columns["is_short"] = (tokens < 10).tolist()
    schema = pa.schema(
        [(column.name, TYPES[column.kind]) for column in COLUMNS],
        metadata={
            "ripcurrent": json.dumps(
                {
                    "direction_of_risk": DIRECTION_OF_RISK,
                    "default_ranking": "gradient_bidirectional" if gradient else "representation_bidirectional",
                }
            )
        },
    )
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def fabricate_cosines(table: pa.Table, seed: int = 0) -> list[list[float] | None]:
    """One cosine per row and anchor; None for unscored rows, and a few NaN."""
    random = np.random.default_rng([seed, 1])
    return [
        np.round(random.normal(scale=0.3, size=len(ANCHOR_ORDER)), 2).tolist() if status == "ok" else None
        for status in table["status"].to_pylist()
    ]


def fabricate_run(folder: Path, table: pa.Table, seed: int = 0, shards: int = 2, suffix: str = ".jsonl") -> Path:
    """A finished run folder beside its dataset; returns the run folder."""
    records = [
        {"instruction": f"Question {row}?", "input": "", "output": f"Answer {row}.", "own_field": {"n": row}}
        for row in range(len(table))
    ]
    dataset = folder / f"rows{suffix}"
    lines = "".join(json.dumps(record) + "\n" for record in records)
    dataset.write_text(json.dumps(records, indent=1) if suffix == ".json" else lines, encoding="utf-8")
    run = folder / "run"
    (run / "signals").mkdir(parents=True)
    pq.write_table(table, run / "scores.parquet")
    cosines = fabricate_cosines(table, seed)
    schema = pa.schema([("row", pa.int64()), ("representation_cosines", pa.list_(pa.float32()))])
    # Shards hold rows by length, not by number: nothing may rely on their order.
    order = np.random.default_rng(seed).permutation(len(table))
    for number, part in enumerate(np.array_split(order, shards)):
        shard = {"row": part.tolist(), "representation_cosines": [cosines[row] for row in part]}
        pq.write_table(pa.table(shard, schema=schema), run / "signals" / f"shard-{number:05d}.parquet")
    manifest = {
        "dataset": read_rows(dataset).describe().model_dump(),
        "anchors": {"order": ANCHOR_ORDER, "hash": "fabricated"},
    }
    (run / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return run
