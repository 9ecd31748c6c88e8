"""Rows and a model for doctor to look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.models.tiny import save_tiny

WORDS = ["the", "old", "mill", "turned", "slowly", "while", "children", "counted", "boats", "and", "bread", "baked"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny", "llama_tied")


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def lesson(number: int) -> dict[str, Any]:
    return {"prompt": f"Say number {number}.", "response": " ".join(WORDS[: 1 + number % len(WORDS)])}


@pytest.fixture
def lessons(tmp_path: Path) -> Path:
    rows = [lesson(number) for number in range(60)]
    rows[7] = {"prompt": "Say nothing.", "response": ""}
    rows[31] = {"prompt": "Say null.", "response": None}
    return write_rows(tmp_path / "lessons.jsonl", rows)
