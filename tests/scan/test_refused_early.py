"""What cannot be done is said before anything is computed."""

from __future__ import annotations

from pathlib import Path

import pytest
from ripcurrent.forecast._calibrate_data import calibrate_data

import ripcurrent as rc
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.scan._check_anchors import check_anchors
from tests.forecast.ladder_folder import ScanRows, fabricate_ladder, fabricate_scan
from tests.tiny_scan import EXACT, good_rows, write_jsonl


def test_gradients_of_anchors_are_not_measured_in_float16(tiny_folder: Path, anchors_file: Path) -> None:
    with pytest.raises(RipcurrentError, match="float16"):
        check_anchors(str(anchors_file), model=str(tiny_folder), dtype="float16")


def test_a_ladder_of_another_model_than_it_is_to_be_fitted_with_trains_nothing(
    tiny_folder: Path, anchors_file: Path, tmp_path: Path
) -> None:
    rows = ScanRows(fabricate_scan(tmp_path / "scan"))
    finished = fabricate_ladder(tmp_path / "finished", rows, rows.arms())
    (finished / "experiment.json").write_text(
        (finished / "experiment.json").read_text().replace("asked.jsonl", "builtin:harmful")
    )
    data = write_jsonl(tmp_path / "rows.jsonl", good_rows(60))
    with pytest.raises(RipcurrentError, match=r"cannot be fitted with .*finished: it is for the model"):
        calibrate_data(
            data,
            tmp_path / "work",
            tmp_path / "mine.json",
            recipe="embedded",
            model=str(tiny_folder),
            sizes=(20,),
            scan={"anchors": str(anchors_file)},
            experiments=[finished],
        )
    assert not (tmp_path / "work").exists()


def test_no_usable_row_within_a_budget_is_said_in_words(tiny_folder: Path, anchors_file: Path, tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "no answer", "response": ""}] * 3)
    how = {"model": str(tiny_folder), "anchors": str(anchors_file), "memory": "64GB"}
    with pytest.raises(RipcurrentError, match=r"No row of .* could be scored") as caught:
        rc.scan(rows, tmp_path / "out", **how, **EXACT)
    assert caught.value.code == ExitCode.NOT_MEASURED
