"""The calibration that comes with the package is of the model, anchors and recipe that come with it."""

import re

import pytest

from ripcurrent.anchors import load_anchors
from ripcurrent.finetune import load_recipe
from ripcurrent.forecast import read_calibration, shipped_calibrations
from ripcurrent.models import load_model


@pytest.mark.embedded
def test_it_holds_for_the_embedded_model_and_recipe() -> None:
    calibration = read_calibration("embedded")
    model = load_model("embedded")
    scored = calibration.scored_with
    assert (scored.fingerprint, scored.template_sha256) == (model.fingerprint, model.template_sha256)
    assert scored.tokenizer_sha256 == model.tokenizer_sha256
    assert scored.anchors_sha256 == load_anchors("builtin").sha256
    assert calibration.recipe == load_recipe("embedded")


def test_it_shows_its_error_and_is_as_short_as_a_forecast_needs() -> None:
    (path,) = shipped_calibrations()
    calibration = read_calibration(path)
    assert calibration.error_by_set is not None
    assert calibration.error_by_source is not None
    assert len(calibration.sources) == calibration.error_by_source.groups >= 5
    assert path.stat().st_size < 20_000
    # names of places on a machine and texts of rows have no business in it
    written = path.read_text(encoding="utf-8")
    assert '"/' not in written
    found = re.findall(r'"((?:[^"\\]|\\.)*)"', written)
    assert max(map(len, found)) < 120
    assert not {"messages", "prompt", "response", "instruction", "output", "text"} & set(found)
