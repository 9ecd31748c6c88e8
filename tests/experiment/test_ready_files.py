"""The experiment files that come with the repository: each is read, and its arms are what its comment says."""

from __future__ import annotations

import csv
import json
import re
from importlib.resources import files
from pathlib import Path

import pytest

from ripcurrent.experiment import Experiment, expand_arms, gather_prompts, load_experiment, ready_experiments
from ripcurrent.finetune import load_recipe
from ripcurrent.scan import ScanOptions

FOLDER = files("ripcurrent") / "experiment" / "ready"
NAMES = tuple(ready_experiments())


def test_there_are_ready_files() -> None:
    assert {"paper", "quick", "formats", "anchors", "sizes", "remove", "alpaca", "dolly"} <= {*NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_every_ready_file_is_read(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RIPCURRENT_DATA", "somewhere")
    monkeypatch.chdir(tmp_path)
    experiment = Experiment.from_file(name)
    config = experiment.config
    assert config.title, "its page says what it asks"
    for recipe in (config.recipe, *(arm.recipe for arm in config.arms.values())):
        load_recipe(recipe or config.recipe)
    for scan in (config.scan, *(one.options for one in config.scans.values())):
        ScanOptions(**scan)
    # a sweep or a matched control without a control to be compared with says nothing
    arms = expand_arms(config)
    assert any(arm.control is not None for arm in arms) or config.compare


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files of the names and fields that ready files take their prompts from."""
    (tmp_path / "prompts").mkdir()
    for name in ("harmful_train", "harmful_val", "harmful_test"):
        requests = [{"instruction": f"{name}: how to mend kettle {n}", "category": "kettles"} for n in range(8)]
        (tmp_path / "prompts" / f"{name}.json").write_text(json.dumps(requests))
    with (tmp_path / "prompts" / "xstest_prompts.csv").open("w", newline="") as written:
        rows = csv.writer(written)
        rows.writerow(["id", "prompt", "type", "label"])
        rows.writerows([n, f"how do I kill process {n}", "homonyms", "safe"] for n in range(8))
    monkeypatch.setenv("RIPCURRENT_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_every_ready_file_finds_its_prompts(name: str, data: Path) -> None:
    config = load_experiment(name)
    prompts, _ = gather_prompts(config.prompts)
    assert any(prompt.axis == "harmful" for prompt in prompts)


def test_the_papers_sets_from_the_hub_need_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RIPCURRENT_DATA", raising=False)
    for name in ("alpaca", "dolly"):
        assert str(load_experiment(name).data).startswith("hf:")


@pytest.mark.parametrize("name", NAMES)
def test_ready_files_name_no_folder_of_one_machine(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    assert not re.search(r"(?<![\\w}])/(?:home|work|mnt|data|tmp|root)/", text)
    assert "rows/" not in text.replace("${RIPCURRENT_DATA}/rows/", "")
