"""What cannot be done is said before anything is computed."""

from __future__ import annotations

from pathlib import Path

import pytest

import ripcurrent as rc
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.scan._check_anchors import check_anchors
from tests.tiny_scan import EXACT, write_jsonl


def test_gradients_of_anchors_are_not_measured_in_float16(tiny_folder: Path, anchors_file: Path) -> None:
    with pytest.raises(RipcurrentError, match="float16"):
        check_anchors(str(anchors_file), model=str(tiny_folder), dtype="float16")


def test_no_usable_row_within_a_budget_is_said_in_words(tiny_folder: Path, anchors_file: Path, tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "no answer", "response": ""}] * 3)
    how = {"model": str(tiny_folder), "anchors": str(anchors_file), "memory": "64GB"}
    with pytest.raises(RipcurrentError, match=r"No row of .* could be scored") as caught:
        rc.scan(rows, tmp_path / "out", **how, **EXACT)
    assert caught.value.code == ExitCode.NOT_MEASURED
