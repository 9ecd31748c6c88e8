"""What is said where an extra is not installed: the line that installs it, of an extra that there is."""

import sys
from importlib import import_module
from importlib.metadata import metadata
from pathlib import Path

import pytest

from ripcurrent.errors import ExitCode, MissingExtraError
from ripcurrent.evaluate import JudgeSettings, evaluate, find_judge
from ripcurrent.scan import Execution, scan
from tests.scan_fixtures import anchors_file, rows_file, shared_cache, tiny_folder
from tests.tiny_scan import EXACT, write_jsonl

__all__ = ["anchors_file", "rows_file", "shared_cache", "tiny_folder"]


def assert_installs(error: MissingExtraError, package: str, extra: str) -> None:
    assert error.message == f"{package} is not installed, and this needs it."
    assert error.hint == f'Install it with: pip install "ripcurrent[{extra}]"'
    assert error.code is ExitCode.USAGE
    assert extra in (metadata("ripcurrent").get_all("Provides-Extra") or [])


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "ray.data", raising=False)


@pytest.mark.usefixtures("without_ray")
def test_a_scan_by_ray(rows_file: Path, tmp_path: Path, tiny_folder: Path, anchors_file: Path) -> None:
    options = {"model": str(tiny_folder), "anchors": str(anchors_file), **EXACT, "signals": "representation"}
    with pytest.raises(MissingExtraError) as caught:
        scan(rows_file, tmp_path / "out", execution=Execution(executor="ray"), **options)
    assert_installs(caught.value, "ray[data]", "ray")


def test_an_endpoint_that_answers_or_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("ripcurrent.evaluate._endpoint"), "find_spec", lambda name: None)
    prompts = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "Why?"}])
    with pytest.raises(MissingExtraError) as caught:
        evaluate("served", prompts=[prompts], out=tmp_path / "out", endpoint="http://localhost:9/v1")
    assert_installs(caught.value, "openai", "endpoint")
    assert not (tmp_path / "out").exists()
    with pytest.raises(MissingExtraError) as caught:
        find_judge("rubric", JudgeSettings(endpoint="http://localhost:9/v1", model="judge", cache=tmp_path))
    assert_installs(caught.value, "openai", "endpoint")
