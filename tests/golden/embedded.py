"""The scan of demo rows by the embedded model, and how near its columns must be to the stored ones."""

import csv
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq

import ripcurrent as rc
from ripcurrent.data import DEMO_ROWS

SCORES = Path(__file__).parent / "scores.csv"
META = Path(__file__).parent / "scores.json"
COUNT = 24

EXACT = ("row", "id", "status", "prompt_tokens", "response_tokens", "truncated")
TRAITS = ("is_list", "is_bullet", "is_numbered", "is_maths", "is_code", "is_short", "has_refusal")
COSINES = (
    *("gradient_harmful", "gradient_safe", "gradient_bidirectional", "gradient_balanced"),
    *("representation_harmful", "representation_safe", "representation_bidirectional"),
)
SIZE_TOLERANCES = {"gradient_norm": 5e-5, "predicted_harmful_loss_change": 3e-4, "loss": 1e-5, "loss_first_10": 1e-5}
"""Relative. One thread and two differ by 3e-5 in norms, by 1.4e-4 in predicted changes near zero, by 4e-7 in losses."""
COLUMNS = (*EXACT, *COSINES, *SIZE_TOLERANCES, *TRAITS)
COSINE_TOLERANCE = 5e-6
"""Absolute. One thread and two differ by up to 3.7e-6, other batches by 3e-7."""


def demo_rows() -> list[str]:
    """Lines of the demo set, spread over the file."""
    lines = DEMO_ROWS.read_text(encoding="utf-8").splitlines()
    return [lines[number * len(lines) // COUNT] for number in range(COUNT)]


def scan_demo(folder: Path, **options: Any) -> Path:
    """Scan them with the embedded model in float32 on the CPU; returns the table of scores."""
    rows = folder / "rows.jsonl"
    rows.write_text("".join(line + "\n" for line in demo_rows()), encoding="utf-8")
    rc.scan(rows, folder / "run", model="embedded", device="cpu", dtype="float32", **options)
    return folder / "run" / "scores.parquet"


def as_text(value: Any) -> str:
    """A value as the stored file has it."""
    return repr(value) if isinstance(value, float) else str(value)


def read_golden() -> dict[str, list[str]]:
    """The stored columns, as text."""
    with SCORES.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows] for name in rows[0]}


def write_golden(scores: Path) -> None:
    """Store a table's columns and what its metadata say of them."""
    table = pq.read_table(scores)
    with SCORES.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(zip(*([as_text(value) for value in table[name].to_pylist()] for name in COLUMNS), strict=True))
    META.write_text(json.dumps(kept_metadata(scores)) + "\n", encoding="utf-8")


def kept_metadata(scores: Path) -> dict[str, Any]:
    """Of a table's metadata what does not depend on the machine."""
    schema = pq.read_schema(scores)
    told = json.loads(schema.metadata[b"ripcurrent"])
    return {
        "direction_of_risk": {
            name: schema.field(name).metadata[b"direction_of_risk"].decode()
            for name in COLUMNS
            if schema.field(name).metadata
        },
        "default_ranking": told["default_ranking"],
        "architecture": told["model"]["architecture"],
        "parameters": told["model"]["parameters"],
        "dataset_sha256": told["dataset"]["sha256"],
        "rows": told["dataset"]["rows"],
        "anchors_sha256": told["anchors"]["sha256"],
        "separation": {name: round(value, 4) for name, value in told["anchors"]["separation"].items()},
    }


if __name__ == "__main__":
    # store the golden scores again; only for a change of scores that is meant
    with TemporaryDirectory() as own:
        write_golden(scan_demo(Path(own)))
