"""Texts of the shown rows, read again from the dataset and clipped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ripcurrent.data import Row, is_pattern, read_rows, sha256_of_file
from ripcurrent.errors import RipcurrentError
from ripcurrent.scan._scan_run import Indices, ScanRun

TEXT_BUDGET_BYTES = 1_300_000
ROW_BUDGET_BYTES = 2_400


@dataclass(frozen=True, slots=True)
class Clip:
    """The head of a text."""

    text: str
    """What the page shows."""
    characters: int
    """Length of the whole text, in characters."""


@dataclass(frozen=True, slots=True)
class RowTexts:
    """What could be read of the shown rows."""

    texts: Mapping[int, tuple[Clip, Clip]]
    """Prompt and response of a row, by its position; rows that could not be matched are absent."""
    note: str
    """Why some texts are absent, for the reader; empty if none is."""


def read_row_texts(run: ScanRun, indices: Indices, ids: Sequence[str]) -> RowTexts:
    """Read prompt and response of the rows at ascending positions, clipped so that the page stays small.

    A dataset that was edited since the scan must not put other words beside a score: a file counts only if its hash is
    the scanned one, a row only if its id is. A dataset that is gone or unreadable costs the texts, not the page.
    """
    dataset = run.manifest["dataset"]
    path = str(dataset["path"])
    file = Path(path)
    if not path.startswith("hf:") and not is_pattern(path) and not file.exists():
        return RowTexts({}, f"The dataset is no longer at {path}: rows are shown by number and id, without their text.")
    wanted = dict(zip(indices.tolist(), ids, strict=True))
    budget = min(ROW_BUDGET_BYTES, TEXT_BUDGET_BYTES // max(1, len(wanted)))
    last = max(wanted, default=-1)
    texts: dict[int, tuple[Clip, Clip]] = {}
    try:
        if file.is_file() and sha256_of_file(file) != dataset["sha256"]:
            return RowTexts(
                {},
                f"The dataset at {path} has changed since the scan: rows are shown by number and id, without their "
                "text.",
            )
        for row in read_rows(path, format=dataset["format"], mapping=dataset.get("mapping")):
            if row.index > last:
                break
            if wanted.get(row.index) == row.id:
                texts[row.index] = _clip_row(row, budget)
    except RipcurrentError as error:
        return RowTexts({}, f"The dataset can no longer be read, so rows are shown without their text: {error.message}")
    missing = len(wanted) - len(texts)
    note = ""
    if missing:
        note = (
            f"The dataset at {path} has changed since the scan: {missing:,} of the rows below are no longer where they "
            "were and are shown without their text."
        )
    return RowTexts(texts, note)


def _clip_row(row: Row, budget: int) -> tuple[Clip, Clip]:
    prompt = clip_text(row.prompt, budget // 3)
    return prompt, clip_text(row.response, budget - _cost(prompt.text))


def clip_text(text: str, budget: int) -> Clip:
    """The head of a text that takes at most ``budget`` bytes in the page; what is not valid Unicode becomes ``?``."""
    head = text[:budget].encode("utf-8", "replace").decode()
    while (cost := _cost(head)) > budget:
        head = head[: min(len(head) - 1, len(head) * budget // cost)]
    return Clip(head, len(text))


def _cost(text: str) -> int:
    escaped = json.dumps(text, ensure_ascii=False)
    return len(escaped.encode()) - 2 + 5 * escaped.count("<")
