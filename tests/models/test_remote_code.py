"""No code of a model's folder is run, wherever the folder names it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from ripcurrent.errors import RipcurrentError
from ripcurrent.models import load_model
from tests.models.test_adapter import save_adapter
from tests.models.tiny import save_tiny, tiny_tokenizer

CODE = """
from pathlib import Path
(Path({folder!r}) / "was_run").touch()
from transformers import PreTrainedTokenizerFast
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
class OwnTokenizerFast(PreTrainedTokenizerFast):
    pass
"""


def with_code(folder: Path, file: str, changes: dict[str, Any]) -> None:
    """Let one of the folder's files name code that tells when it is run."""
    (folder / "own.py").write_text(CODE.format(folder=str(folder)))
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def load(folder: Path, **options: Any) -> None:
    """Load it, or find that it cannot be, which is as good."""
    with contextlib.suppress(RipcurrentError):
        load_model(folder, device="cpu", **options)


@pytest.mark.parametrize(
    "changes",
    [
        {"auto_map": {"AutoTokenizer": ["own.OwnTokenizer", "own.OwnTokenizerFast"]}},
        {"auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}},
        {"auto_map": {"AutoTokenizer": [None, "own.OwnTokenizerFast"]}, "tokenizer_class": "OwnTokenizer"},
        {"auto_map": {"AutoTokenizer": "own.OwnTokenizerFast"}, "tokenizer_class": "OwnTokenizerFast"},
        {"auto_map": {"AutoProcessor": "own.OwnTokenizer"}, "processor_class": "OwnTokenizer"},
    ],
    ids=["both", "slow", "fast and class", "one name", "processor"],
)
def test_code_that_a_tokenizers_configuration_names_is_not_run(changes: dict[str, Any], tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", "llama_tied")
    with_code(folder, "tokenizer_config.json", changes)
    load(folder)
    assert not (folder / "was_run").exists()


def test_code_that_a_known_architecture_names_is_not_run(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", "llama_tied")
    classes = {"AutoConfig": "own.OwnTokenizer", "AutoModelForCausalLM": "own.OwnTokenizer"}
    with_code(folder, "config.json", {"auto_map": classes})
    load(folder)
    assert not (folder / "was_run").exists()


def test_code_that_an_adapter_names_is_not_run(tmp_path: Path) -> None:
    folder, adapter = save_tiny(tmp_path / "model", "llama_tied"), save_adapter(tmp_path / "adapter")
    # a tokenizer of its own beside it, which is what the adapter is loaded with
    tiny_tokenizer().save_pretrained(adapter)
    with_code(adapter, "tokenizer_config.json", {"auto_map": {"AutoTokenizer": [None, "own.OwnTokenizerFast"]}})
    named = {"base_model_class": "OwnTokenizer", "parent_library": "own"}
    with_code(adapter, "adapter_config.json", {"auto_mapping": named})
    load(folder, adapter=adapter)
    assert not (adapter / "was_run").exists()


def test_the_code_would_tell_if_it_were_run(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = save_tiny(tmp_path / "model", "llama_tied")
    with_code(folder, "tokenizer_config.json", {"auto_map": {"AutoTokenizer": [None, "own.OwnTokenizerFast"]}})
    AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    assert (folder / "was_run").exists()
