"""The experiment files that come with the repository: each is read, and its arms are what its comment says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from ripcurrent.api._experiment import Experiment
from ripcurrent.api._options import ScanOptions
from ripcurrent.experiment import expand_arms
from ripcurrent.training import load_recipe

FOLDER = Path(__file__).parents[2] / "experiments"
FILES = sorted(FOLDER.glob("*.yaml"))
ARMS = [file for file in FILES if yaml.safe_load(file.read_text(encoding="utf-8")).get("kind", "arms") == "arms"]


def test_there_are_ready_files() -> None:
    names = {file.stem for file in FILES}
    assert {"paper", "quick", "bins", "formats", "anchors", "sizes", "remove", "alpaca", "dolly"} <= names


@pytest.mark.parametrize("file", ARMS, ids=lambda file: file.stem)
def test_every_ready_file_is_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIPCURRENT_DATA", "somewhere")
    experiment = Experiment.from_file(file)
    config = experiment.config
    assert experiment.arms
    assert config.title, "its page says what it asks"
    load_recipe(config.recipe)
    for scan in (config.scan, *(one.options for one in config.scans.values())):
        ScanOptions(**scan)
    # a sweep or a matched control without a control to be compared with says nothing
    arms = expand_arms(config)
    assert any(arm.control is not None for arm in arms)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_ready_files_name_no_folder_of_one_machine(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\\w}])/(?:home|work|mnt|data|tmp|root)/", text)
    assert "rows/" not in text.replace("${RIPCURRENT_DATA}/rows/", "")
