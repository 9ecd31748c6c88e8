"""What a finished evaluation says of where its numbers come from."""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow.parquet as pq

from ripcurrent.evaluate import Answer, Verdict, evaluate, find_judge
from tests.scan_fixtures import write_jsonl


class OwnJudge:
    """A judge whose own description does not repeat its version."""

    name, version, scale = "own", "7.1", None

    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        return [Verdict("compliance", self.name, self.version, answer.truncated) for answer in answers]

    def describe(self) -> dict[str, Any]:
        return {"kind": "rule"}


def test_an_evaluation_says_each_judges_version(tmp_path, tiny_folder):
    prompts = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "How many boats?"}, {"prompt": "And now?"}])
    judges = ("prefix", "keyword", OwnJudge())
    options: dict[str, Any] = {"device": "cpu", "dtype": "float32", "max_new_tokens": 4, "judges": judges}
    folder = evaluate(str(tiny_folder), prompts=[prompts], out=tmp_path / "out", **options).folder
    manifest = json.loads((folder / "manifest.json").read_text())
    versions = {**{name: find_judge(name).version for name in judges[:2]}, "own": "7.1"}
    assert {name: one["version"] for name, one in manifest["judges"].items()} == versions
    rates = {name: {axis["judge_version"] for axis in axes.values()} for name, axes in manifest["rates"].items()}
    assert rates == {name: {version} for name, version in versions.items()}
    verdicts = pq.read_table(folder / "verdicts.parquet").to_pylist()
    assert {(one["judge"], one["version"]) for one in verdicts} == set(versions.items())
