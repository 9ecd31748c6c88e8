"""vLLM's offline engine against the model at hand, and what is said where it is not installed."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ripcurrent.errors import MissingExtraError, RipcurrentError
from ripcurrent.evaluate._evaluate import evaluate
from tests.tiny_scan import write_jsonl


@pytest.mark.embedded
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_answers_are_those_of_the_model_at_hand_and_are_kept(tmp_path: Path) -> None:
    options: dict[str, Any] = {"dtype": "float32", "max_new_tokens": 12, "limit": 4}
    here = evaluate("embedded", out=tmp_path / "here", device="cpu", **options)
    there = evaluate("embedded", out=tmp_path / "there", engine="vllm", batch_size=5, **options)
    assert [one.prompt_id for one in here.responses] == [one.prompt_id for one in there.responses]
    # answers are not compared as texts, so that a failure prints none
    assert sum(one == other for one, other in zip(here.responses, there.responses, strict=True)) == 12
    assert there.manifest["generation"]["engine"] == "vllm"
    assert any(name.startswith("vllm") for name in there.manifest["versions"])
    assert not list((tmp_path / "there").glob("vllm-*"))
    again = evaluate("embedded", out=tmp_path / "there", engine="vllm", **options)
    assert again.manifest["timings"]["answered_now"] == 0
    with pytest.raises(RipcurrentError, match="another run"):
        evaluate("embedded", out=tmp_path / "there", device="cpu", **options)


def test_without_vllm_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("ripcurrent.evaluate._vllm"), "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as caught:
        evaluate("embedded", out=tmp_path / "run", engine="vllm")
    assert 'pip install "ripcurrent[vllm]"' in (caught.value.hint or "")
    assert not (tmp_path / "run").exists()


def test_what_does_not_go_together_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("ripcurrent.evaluate._vllm"), "find_spec", lambda name: name)
    prompts = write_jsonl(tmp_path / "p.jsonl", [{"prompt": "Why?"}])
    for changes, message in (
        ({"engine": "vlm"}, "no engine 'vlm'"),
        ({"engine": "vllm", "device": "cpu"}, "takes the device"),
        ({"engine": "vllm", "endpoint": "http://localhost:1/v1"}, "An endpoint answers, or vllm"),
    ):
        with pytest.raises(RipcurrentError, match=message):
            evaluate("embedded", prompts=[prompts], out=tmp_path / "run", **changes)
