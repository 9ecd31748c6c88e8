"""The calibration that comes with the package is of the model, anchors and recipe that come with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from ripcurrent.anchors import load_anchors
from ripcurrent.finetune import load_recipe
from ripcurrent.forecast._calibration import read_calibration, shipped_calibrations
from ripcurrent.models import load_model


@pytest.mark.embedded
def test_it_holds_for_the_embedded_model_and_recipe() -> None:
    (path,) = shipped_calibrations()
    calibration = read_calibration(path)
    model = load_model("embedded")
    scored = calibration.scored_with
    assert (scored.fingerprint, scored.template_sha256) == (model.fingerprint, model.template_sha256)
    assert scored.tokenizer_sha256 == model.tokenizer_sha256
    assert scored.anchors_sha256 == load_anchors("builtin").sha256
    assert calibration.recipe == load_recipe("embedded").model_dump(mode="json")
    assert calibration.recipe_name == "embedded"


def test_its_coverage_is_that_of_its_runs() -> None:
    (path,) = shipped_calibrations()
    calibration = read_calibration(path)
    error = calibration.error_by_arm
    assert error is not None
    seen = [run for run in calibration.runs if run.forecast is not None]
    assert error.runs == len(seen)
    inside = [run.low <= run.share <= run.high for run in seen]
    assert error.coverage == pytest.approx(sum(inside) / len(inside), abs=1e-6)
    assert len({run.source for run in calibration.runs}) >= 2


def test_every_run_was_asked_what_all_were() -> None:
    (path,) = shipped_calibrations()
    calibration = read_calibration(path)
    assert {run.asked for run in calibration.runs} == {calibration.prompts.count}


def test_it_holds_no_text_of_rows_and_no_place_on_a_machine() -> None:
    (path,) = shipped_calibrations()
    written = path.read_text(encoding="utf-8")
    assert '"/' not in written
    found = list(strings_and_keys(json.loads(written)))
    # a row has a prompt and a response; names, hashes and reasons are short
    assert max(map(len, found)) < 120
    assert not {"messages", "prompt", "response", "instruction", "output", "text"} & set(found)


def strings_and_keys(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from strings_and_keys(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings_and_keys(item)
