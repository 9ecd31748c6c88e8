"""Finished scans made up for tests: nothing here was measured."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ripcurrent.data import read_rows
from ripcurrent.models import ModelInfo
from ripcurrent.scan import COLUMNS, DIRECTION_OF_RISK, ScanAnchors, ScanManifest, ScanOptions, ScanRun

TYPES = {"int": pa.int64(), "text": pa.string(), "float": pa.float64(), "bool": pa.bool_()}
ANCHOR_ORDER = (("safe_1", 0), ("harmful", 0), ("harmful", 1), ("safe_2", 0), ("harmful", 2))
HARMFUL_PLACES = [1, 2, 4]


def fabricate(
    folder: Path,
    rows: int = 60,
    seed: int = 0,
    *,
    unscored: float = 0.1,
    distinct: int = 1000,
    gradient: bool = True,
    columns: Mapping[str, Sequence[object]] | None = None,
    suffix: str = ".jsonl",
) -> ScanRun:
    """A finished scan beside its dataset; ``distinct`` limits the score values, so that ties appear."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    ok = random.random(rows) >= unscored
    ok[: min(rows, 4)] = True
    tokens = random.integers(1, 60, rows)
    values: dict[str, Any] = {
        "row": list(range(rows)),
        "id": [f"id-{row}" for row in range(rows)],
        "status": ["ok" if fine else "no_response" for fine in ok],
        "prompt_tokens": random.integers(5, 30, rows).tolist(),
        "response_tokens": tokens.tolist(),
    }
    for column in COLUMNS:
        if column.kind == "float":
            drawn = np.round(random.normal(size=rows) * distinct / 4) / distinct
            absent = not gradient and column.name.startswith(("gradient", "predicted", "loss"))
            values[column.name] = [None if absent or not fine else v for v, fine in zip(drawn, ok, strict=True)]
        elif column.kind == "bool":
            values[column.name] = (random.random(rows) < 0.3).tolist()
    values |= {"is_short": (tokens < 10).tolist(), **(columns or {})}
    return write_run(folder, values, random, "gradient" if gradient else "representation", suffix)


def fabricate_cosines(scored: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """One cosine per row and anchor, those of a row always the same; NaN for unscored rows."""
    cosines = np.random.default_rng(1).normal(scale=0.3, size=(len(scored), len(ANCHOR_ORDER))).round(2)
    return np.where(scored[:, None], cosines, np.nan).astype(np.float32)


def write_run(folder: Path, values: dict[str, Any], random: np.random.Generator, ranks: str, suffix: str) -> ScanRun:
    rows = len(values["row"])
    records = [{"instruction": f"Question {n}?", "input": "", "output": f"Answer {n}."} for n in range(rows)]
    dataset = folder / f"rows{suffix}"
    lines = "".join(json.dumps(record) + "\n" for record in records)
    dataset.write_text(json.dumps(records, indent=1) if suffix == ".json" else lines, encoding="utf-8")
    metadata = {"direction_of_risk": DIRECTION_OF_RISK, "default_ranking": f"{ranks}_bidirectional"}
    schema = pa.schema(
        [(column.name, TYPES[column.kind]) for column in COLUMNS], metadata={"ripcurrent": json.dumps(metadata)}
    )
    run = folder / "run"
    (run / "signals").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: values[name] for name in schema.names}, schema=schema), run / "scores.parquet")
    scored = np.array(values["status"]) == "ok"
    # an unscored row has either no list or one of NaN
    cosines = [of if scored[n] or n % 2 else None for n, of in enumerate(fabricate_cosines(scored).tolist())]
    shard_schema = pa.schema([("row", pa.int64()), ("representation_cosines", pa.list_(pa.float32()))])
    # shards hold rows by length, not by number: nothing may rely on their order
    for number, part in enumerate(np.array_split(random.permutation(rows), 2)):
        shard = {"row": part.tolist(), "representation_cosines": [cosines[row] for row in part]}
        pq.write_table(pa.table(shard, schema=shard_schema), run / "signals" / f"shard-{number:05d}.parquet")
    manifest(dataset).write(run)
    return ScanRun.open(run)


def manifest(dataset: Path, *, fingerprint: str = "a", **options: Any) -> ScanManifest:
    return ScanManifest(
        version="0",
        command="scan",
        finished="2026-01-01",
        dataset=read_rows(dataset).describe(),
        model=ModelInfo(name="made up", fingerprint=fingerprint),
        anchors=ScanAnchors(name="made up", sha256="b", order=ANCHOR_ORDER),
        options=ScanOptions(**options),
    )
