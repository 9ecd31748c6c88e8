"""What a finished run says of where its numbers come from."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ripcurrent.evaluate import Answer, Verdict, evaluate, find_judge
from ripcurrent.models import load_model
from ripcurrent.scan import scan
from tests.tiny_scan import EXACT, write_jsonl


def test_a_scan_says_its_seeds_its_models_revision_and_its_tokenizer(
    rows_file: Path, tmp_path: Path, tiny_folder: Path, anchors_file: Path
) -> None:
    options = {"model": str(tiny_folder), "anchors": str(anchors_file), "signals": "representation", **EXACT}
    folder = scan(rows_file, tmp_path / "out", seed=3, **options).folder
    manifest = json.loads((folder / "manifest.json").read_text())
    loaded = load_model(tiny_folder, device="cpu", dtype="float32")
    assert manifest["seeds"] == {"seed": 3}
    about = manifest["model"]
    # a folder has no commit, and says so
    assert "revision" in about
    assert about["revision"] is None
    assert about["tokenizer_sha256"] == loaded.tokenizer_sha256
    assert about["template_sha256"] == loaded.template_sha256
    assert about["fingerprint"] == loaded.fingerprint
    assert all(len(about[name]) == 64 for name in ("tokenizer_sha256", "template_sha256", "fingerprint"))


def test_a_scan_of_a_hubs_model_says_its_commit(
    rows_file: Path, tmp_path: Path, tiny_folder: Path, anchors_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ripcurrent.models import Source

    commit = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setattr("ripcurrent.models._load.find_model", lambda name: Source(tiny_folder, commit))
    options = {"model": "owner/name", "anchors": str(anchors_file), "signals": "representation", **EXACT}
    manifest = scan(rows_file, tmp_path / "out", limit=2, **options).manifest
    assert (manifest.model.name, manifest.model.revision) == ("owner/name", commit)


class OwnJudge:
    """A judge whose own description does not repeat its version."""

    name, version, scale = "own", "7.1", None

    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        return [Verdict("compliance", self.name, self.version, answer.truncated) for answer in answers]

    def describe(self) -> dict[str, Any]:
        return {"kind": "rule"}


def test_an_evaluation_says_each_judges_version(tmp_path: Path, tiny_folder: Path) -> None:
    prompts = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "How many boats?"}, {"prompt": "And now?"}])
    judges = ("prefix", "keyword", OwnJudge())
    options: dict[str, Any] = {"device": "cpu", "dtype": "float32", "max_new_tokens": 4, "judges": judges}
    folder = evaluate(str(tiny_folder), prompts=[prompts], out=tmp_path / "out", **options).folder
    manifest = json.loads((folder / "manifest.json").read_text())
    versions = {**{name: find_judge(name).version for name in judges[:2]}, "own": "7.1"}
    assert all(versions.values())
    assert {name: one["version"] for name, one in manifest["judges"].items()} == versions
    rates = {name: {axis["judge_version"] for axis in axes.values()} for name, axes in manifest["rates"].items()}
    assert rates == {name: {version} for name, version in versions.items()}
    verdicts = pq.read_table(folder / "verdicts.parquet").to_pylist()
    assert {(one["judge"], one["version"]) for one in verdicts} == set(versions.items())
