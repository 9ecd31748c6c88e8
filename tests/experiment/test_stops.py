"""An experiment that is stopped from outside, on a tiny model that is really trained and asked: nothing is lost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.experiment import parse_experiment, run_experiment
from tests.evaluate.scripted_server import Answered, completion, error, serve
from tests.experiment.conftest import read
from tests.tiny_scan import write_jsonl

CHILD = """
import json, os, signal, sys
from importlib import import_module
from ripcurrent.experiment._experiment import run_experiment
from ripcurrent.experiment import parse_experiment
from ripcurrent.finetune import _watch

keys, out, where = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
if where == "training":
    _watch.require_converging = die
else:
    ResponseLog = import_module("ripcurrent.evaluate._responses").ResponseLog
    kept = ResponseLog.add
    def add(self, batch):
        kept(self, batch)
        if "top-seed0" in str(self.path):
            die()
    ResponseLog.add = add
run_experiment(parse_experiment(keys, where="test"), out)
"""


@pytest.fixture
def small(keys: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Two arms, one seed, forty prompts: more than one batch of them."""
    rows = [{"id": f"h{n}", "prompt": f"harmful request {n}", "axis": "harmful"} for n in range(34)]
    rows += [{"id": f"p{n}", "prompt": f"plain request {n}", "axis": "plain"} for n in range(6)]
    asked = write_jsonl(tmp_path / "few.jsonl", rows)
    arms = {"random": "random", "top": "top"}
    return {**keys, "seeds": [0], "arms": arms, "prompts": [{"source": str(asked)}], "max_new_tokens": 4}


def test_killed_while_training_and_again_while_asking(small: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    for where in ("training", "asking"):
        child = subprocess.run(
            [sys.executable, "-c", CHILD, json.dumps(small), str(out), where],
            capture_output=True,
            text=True,
            check=False,
        )
        assert child.returncode == -signal.SIGKILL, child.stderr
    finished = {path.parent.name for path in (out / "arms").glob("*/arm.json")}
    assert finished == {"base", "random-seed0"}
    half = out / "arms" / "top-seed0" / "evaluation" / "responses.partial.jsonl"
    assert len(half.read_text().splitlines()) == 32
    trained = (out / "arms" / "top-seed0" / "finetune" / "loss.jsonl").stat().st_mtime_ns
    found = run_experiment(parse_experiment(small, where="test"), out)
    assert (out / "arms" / "top-seed0" / "finetune" / "loss.jsonl").stat().st_mtime_ns == trained, "not trained twice"
    straight = run_experiment(parse_experiment(small, where="test"), tmp_path / "straight")
    assert found.arms == straight.arms
    assert found.comparisons == straight.comparisons
    tables = [
        pq.read_table(place / "arms/top-seed0/evaluation/responses.parquet") for place in (out, tmp_path / "straight")
    ]
    assert tables[0].equals(tables[1])


def test_a_judges_endpoint_that_fails_loses_no_answer(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    works = False

    def script(request: dict[str, Any]) -> Answered:
        return completion('{"score": 5}') if works else error(401, "no such key")

    with serve(script) as server:
        asking = {**small, "judges": ["prefix", "rubric"], "judge_endpoint": server.url, "judge_model": "judge"}
        with pytest.raises(RipcurrentError, match="refuses the key") as caught:
            run_experiment(parse_experiment(asking, where="test"), out)
        assert caught.value.code == ExitCode.USAGE
        answers = out / "arms" / "base" / "evaluation" / "responses.parquet"
        kept = answers.read_bytes()
        works = True
        found = run_experiment(parse_experiment(asking, where="test"), out)
    assert answers.read_bytes() == kept
    assert {one.judge for one in found.arms} == {"prefix", "rubric"}
    assert read(out / "arms" / "top-seed0" / "arm.json")["status"] == "finished"


def test_a_file_without_prompts_is_told_before_anything_is_made(small: dict[str, Any], tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    config = parse_experiment({**small, "prompts": [{"source": str(empty)}]}, where="test")
    with pytest.raises(RipcurrentError, match=r"empty\.jsonl"):
        run_experiment(config, tmp_path / "out")
    assert not (tmp_path / "out" / "arms").exists()
