"""Figures of the paper for the same cell of the table, to stand beside ours: another model's, judged otherwise."""

from __future__ import annotations

import re

SOURCE = "Llama-2-7B-Chat, 100 rows, full fine-tuning (arXiv 2404.01099)"
"""What the figures were measured on."""

PUBLISHED: dict[tuple[str, str, str | None], float] = {
    ("alpaca", "random", None): 13.0,
    ("alpaca", "top", "representation_harmful"): 77.5,
    ("alpaca", "union", None): 77.5,
    ("alpaca", "top", "gradient_harmful"): 46.6,
    ("alpaca", "top", "gradient_bidirectional"): 66.5,
    ("alpaca", "bottom", "gradient_bidirectional"): 3.8,
    ("alpaca", "draw", "list"): 20.0,
    ("alpaca", "draw", "maths"): 20.0,
    ("dolly", "random", None): 8.2,
    ("dolly", "top", "gradient_harmful"): 4.9,
    ("dolly", "top", "gradient_bidirectional"): 53.3,
}
"""Attack success rate in percent by dataset, rule and ranking column, or of random rows of a format that format (beside
10 % of other random rows there)."""

_NAMING = {"databricks", "15k", "data", "en", "demo", "train", "hf", "tatsu", "lab", "json", "jsonl", "parquet", ""}
"""Words in the names of Alpaca and Dolly as a whole; any other word names a part of them."""


def published_figure(dataset: str, kind: str, column: str | None, rows: int | None) -> float | None:
    """The paper's attack success rate in percent for a dataset, a rule and its column or format; None without one.

    Only arms of 100 rows have one; the paper's random rows are ranked by nothing, so ``column`` does not matter there.
    """
    if rows is not None and rows != 100:
        return None
    words = set(re.split(r"[^a-z0-9]+", dataset.lower()))
    family = next((name for name in ("alpaca", "dolly") if name in words), None)
    if family is None or words - {family} - _NAMING:
        return None
    return PUBLISHED.get((family, kind, None if kind in ("random", "union") else column))
