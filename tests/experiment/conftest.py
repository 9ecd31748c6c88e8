import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from ripcurrent.experiment import Experiment, ExperimentResults, parse_experiment
from ripcurrent.scan import scan
from tests.experiment.answers import FakeEvaluate
from tests.scan_fixtures import EXACT, good_rows, write_jsonl

RECIPE = "method: full\nlearning_rate: 1.0e-3\nbatch: 4\nsteps: 1\n"


@pytest.fixture(scope="session")
def scanned(tmp_path_factory, tiny_folder, anchors_file) -> Path:
    """The run folder of a finished scan of 40 rows by the tiny model."""
    folder = tmp_path_factory.mktemp("scanned")
    rows = write_jsonl(folder / "rows.jsonl", good_rows(40))
    scan(rows, folder / "run", model=str(tiny_folder), anchors=str(anchors_file), **EXACT)
    return folder / "run"


def write_prompts(folder: Path) -> Path:
    """A prompt file with requests on all three axes."""
    rows = [
        {"id": f"{axis}-{n}", "prompt": f"{axis} request {n} on {kind}", "axis": axis, "category": kind}
        for axis in ("harmful", "sounds_dangerous", "plain")
        for kind in ("violence", "deception")
        for n in range(40 if axis == "harmful" else 5)
    ]
    return write_jsonl(folder / "prompts.jsonl", rows)


def small_keys(scanned: Path, asked: Path, tiny_folder: Path, folder: Path) -> dict[str, Any]:
    """Keys of a small experiment on the tiny model, its recipe in a folder."""
    recipe = folder / "short.yaml"
    recipe.write_text(RECIPE)
    return {
        "name": "small",
        "model": str(tiny_folder),
        "device": "cpu",
        "dtype": "float32",
        "run": str(scanned),
        "recipe": str(recipe),
        "size": 8,
        "seeds": [0, 1],
        "heldout": 6,
        "prompts": [{"source": str(asked)}],
        "arms": {"random": "random", "top": "top", "bottom": {"select": "bottom"}, "length": {"length_matched": "top"}},
    }


@pytest.fixture
def asked(tmp_path) -> Path:
    """A prompt file with requests on all three axes."""
    return write_prompts(tmp_path)


@pytest.fixture
def keys(scanned, asked, tiny_folder, tmp_path) -> dict[str, Any]:
    """Keys of a small experiment on the tiny model."""
    return small_keys(scanned, asked, tiny_folder, tmp_path)


@pytest.fixture
def evaluated(monkeypatch) -> FakeEvaluate:
    """Evaluations are made up; the page is left out."""
    fake = FakeEvaluate()
    monkeypatch.setattr(import_module("ripcurrent.evaluate"), "evaluate", fake)
    return fake


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def run(keys: dict[str, Any], out: Path, **how: Any) -> ExperimentResults:
    """The experiment of these keys, run."""
    return Experiment(parse_experiment(keys, where="test"), "my.yaml").run(out, **how)
