"""The experiment files that come with the repository: each is read, and its arms are what its comment says."""

import json
import re
from importlib.resources import files
from pathlib import Path

import pytest

from ripcurrent.experiment import Experiment, expand_arms, gather_prompts, ready_experiments
from ripcurrent.finetune import load_recipe
from ripcurrent.scan import ScanOptions

FOLDER = files("ripcurrent") / "experiment" / "ready"
NAMES = tuple(ready_experiments())


def test_there_are_ready_files() -> None:
    assert {"paper", "quick", "formats", "anchors", "sizes", "remove", "alpaca", "dolly"} <= {*NAMES}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with files of the names and fields that ready files take their prompts from."""
    (tmp_path / "prompts").mkdir()
    requests = [{"instruction": f"how to mend kettle {n}", "category": "kettles"} for n in range(8)]
    (tmp_path / "prompts" / "harmful_test.json").write_text(json.dumps(requests))
    lines = ["id,prompt,type,label", *(f"{n},how do I kill process {n},homonyms,safe" for n in range(8))]
    (tmp_path / "prompts" / "xstest_prompts.csv").write_text("\n".join(lines))
    monkeypatch.setenv("RIPCURRENT_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_every_ready_file_is_read_from_any_folder(name: str, data: None) -> None:
    config = Experiment.from_file(name).config
    assert config.title, "its page says what it asks"
    for recipe in (config.recipe, *(arm.recipe for arm in config.arms.values())):
        load_recipe(recipe or config.recipe)
    for scan in (config.scan, *(one.options for one in config.scans.values())):
        ScanOptions(**scan)
    # a sweep or a matched control without a control to be compared with says nothing
    assert any(arm.control is not None for arm in expand_arms(config)) or config.compare
    prompts, _ = gather_prompts(config.prompts)
    assert any(prompt.axis == "harmful" for prompt in prompts)
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    assert not re.search(r"(?<![\\w}])/(?:home|work|mnt|data|tmp|root)/", text), "a folder of one machine"
    assert "rows/" not in text.replace("${RIPCURRENT_DATA}/rows/", "")


def test_the_papers_sets_from_the_hub_need_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RIPCURRENT_DATA", raising=False)
    for name in ("alpaca", "dolly"):
        assert str(Experiment.from_file(name).config.data).startswith("hf:")
