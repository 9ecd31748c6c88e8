"""What is said where an extra is not installed: the line that installs it, of an extra that there is."""

import sys
from importlib.metadata import metadata

import pytest

from ripcurrent.errors import ExitCode, MissingExtraError
from ripcurrent.evaluate import JudgeSettings, evaluate, find_judge
from ripcurrent.scan import Execution, scan
from tests.scan_fixtures import EXACT, write_jsonl


def test_the_line_that_installs_it(tmp_path, rows_file, anchors_file, tiny_folder, monkeypatch):
    for module in ("ray", "openai"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "ray.data", raising=False)
    endpoint, out = "http://localhost:9/v1", tmp_path / "out"
    prompts = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "Why?"}])
    judged = JudgeSettings(endpoint=endpoint, model="judge", cache=tmp_path)
    scanned = {"model": str(tiny_folder), "anchors": str(anchors_file), **EXACT, "signals": "representation"}
    for package, extra, asked in (
        ("openai", "endpoint", lambda: evaluate("served", prompts=[prompts], out=out, endpoint=endpoint)),
        ("openai", "endpoint", lambda: find_judge("rubric", judged)),
        (
            "ray[data]",
            "ray",
            lambda: scan(rows_file, tmp_path / "scan", execution=Execution(executor="ray"), **scanned),
        ),
    ):
        with pytest.raises(MissingExtraError) as caught:
            asked()
        assert caught.value.message == f"{package} is not installed, and this needs it."
        assert caught.value.hint == f'Install it with: pip install "ripcurrent[{extra}]"'
        assert caught.value.code is ExitCode.USAGE
        assert extra in (metadata("ripcurrent").get_all("Provides-Extra") or [])
    assert not out.exists()
