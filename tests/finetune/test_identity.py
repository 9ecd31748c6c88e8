"""A fine-tuned run is not gone on with, nor taken for, one of other weights or another tokenizer."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ripcurrent.errors import RipcurrentError
from ripcurrent.finetune import FinetuneRun, finetune
from tests.finetune.runs import recipe
from tests.models.tiny import save_tiny
from tests.tiny_scan import good_rows, write_jsonl


def train(folder: Path) -> FinetuneRun:
    common: dict[str, Any] = {"device": "cpu", "dtype": "float32", "max_tokens": 256}
    return finetune(folder / "rows.jsonl", folder / "out", recipe(epochs=1), model=str(folder / "model"), **common)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finetuned")
    save_tiny(folder / "model", "llama_tied")
    write_jsonl(folder / "rows.jsonl", good_rows(4))
    train(folder)
    return folder


def other_weights(model: Path) -> None:
    other = save_tiny(model.parent / "other", "llama_tied", seed=1)
    shutil.copy(other / "model.safetensors", model / "model.safetensors")


def other_tokenizer(model: Path) -> None:
    path = model / "tokenizer.json"
    definition = json.loads(path.read_text())
    merges = definition["model"]["merges"]
    merges[-1], merges[-2] = merges[-2], merges[-1]
    path.write_text(json.dumps(definition))


def other_template(model: Path) -> None:
    path = model / "chat_template.jinja"
    path.write_text(path.read_text() + "{# the same text #}")


@pytest.mark.parametrize(
    ("change", "named"),
    [(other_weights, "model"), (other_tokenizer, "tokenizer"), (other_template, "template")],
    ids=["weights", "tokenizer", "template"],
)
def test_a_run_of_other_content_is_refused(finished: Path, change: Callable[[Path], None], named: str) -> None:
    kept = shutil.copytree(finished / "model", finished / "kept")
    trained = (finished / "out" / "model" / "model.safetensors").read_bytes()
    try:
        change(finished / "model")
        with pytest.raises(RipcurrentError) as caught:
            train(finished)
    finally:
        shutil.rmtree(finished / "model")
        kept.rename(finished / "model")
    assert caught.value.message.endswith(f"holds another run: its {named} had other content than now.")
    assert (finished / "out" / "model" / "model.safetensors").read_bytes() == trained


def test_a_finished_run_of_the_same_content_is_given_back(finished: Path) -> None:
    first = json.loads((finished / "out" / "manifest.json").read_text())
    assert train(finished).manifest.model_dump(mode="json") == first
