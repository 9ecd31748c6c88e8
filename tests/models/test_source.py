"""From a name to files: which names are paths, what the hub's refusals turn into, and that no code of a folder runs."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import errors
from transformers import AutoTokenizer

from ripcurrent.errors import RipcurrentError
from ripcurrent.models import _source, load_model
from tests.models.test_adapter import save_adapter
from tests.models.tiny import save_tiny, tiny_tokenizer


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere", "~/nowhere-at-all", "a/b/c", "missing.gguf", "not a name!"])
def test_a_name_that_cannot_be_a_hub_id_never_asks_the_network(name, no_network):
    with pytest.raises(RipcurrentError, match=r"no file or folder|no hub id either") as caught:
        load_model(name)
    assert "hub id (owner/name), a folder, a .gguf file, or 'embedded'" in caught.value.hint
    assert no_network == []
    with pytest.raises(RipcurrentError, match=r"not a \.gguf file"):
        load_model(__file__)


def answered(kind: type[Exception]) -> Exception:
    """An error of the hub's answers, without the answer that its constructor asks for."""
    return kind.__new__(kind)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (errors.LocalEntryNotFoundError("offline"), "cannot be reached"),
        (answered(errors.RepositoryNotFoundError), "neither here nor on the hub"),
        (answered(errors.GatedRepoError), "gated"),
        (OSError("No space left on device"), "No space left"),
        (type("ProxyError", (Exception,), {})("403 Forbidden"), "could not be fetched: 403 Forbidden"),
    ],
)
def test_the_hub_not_giving_a_model_is_one_clear_error(error, says, monkeypatch):
    def refuse(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(_source, "snapshot_download", refuse)
    with pytest.raises(RipcurrentError, match=says) as caught:
        load_model("someone/some-model")
    assert "someone/some-model" in caught.value.message
    assert caught.value.hint


def test_a_hub_model_carries_its_commit_and_fetches_no_code(tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    asked: list[str] = []

    def give(name: str, *, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        assert ignore_patterns == ["adapter_*"], "an adapter beside the model is not meant"
        asked.extend(allow_patterns)
        return str(save_tiny(tmp_path / commit, "llama_tied"))

    monkeypatch.setattr(_source, "snapshot_download", give)
    loaded = load_model("someone/some-model", device="cpu")
    assert (loaded.name, loaded.revision) == ("someone/some-model", commit)
    assert not any(pattern.endswith((".py", ".bin", "*")) for pattern in asked)


CODE = """
from pathlib import Path
(Path({folder!r}) / "was_run").touch()
from transformers import PreTrainedTokenizerFast
class OwnTokenizerFast(PreTrainedTokenizerFast):
    pass
"""
FAST = {"AutoTokenizer": [None, "own.OwnTokenizerFast"]}


def with_code(folder: Path, file: str, changes: dict[str, Any]) -> None:
    """Let one of the folder's files name code that tells when it is run."""
    (folder / "own.py").write_text(CODE.format(folder=str(folder)))
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("tokenizer_config.json", {"auto_map": FAST, "tokenizer_class": "OwnTokenizer"}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": "own.OwnTokenizerFast"}}),
        ("tokenizer_config.json", {"auto_map": {"AutoProcessor": "own.OwnTokenizerFast"}}),
        ("config.json", {"auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}),
    ],
)
def test_code_that_a_folder_names_is_not_run(file, changes, tmp_path):
    folder = save_tiny(tmp_path / "model", "llama_tied")
    with_code(folder, file, changes)
    # that it cannot be loaded is as good
    with contextlib.suppress(RipcurrentError):
        load_model(folder, device="cpu")
    assert not (folder / "was_run").exists()


def test_code_that_an_adapter_names_is_not_run(tmp_path):
    folder, adapter = save_tiny(tmp_path / "model", "llama_tied"), save_adapter(tmp_path / "adapter")
    # a tokenizer of its own beside it, which is what the adapter is loaded with
    tiny_tokenizer().save_pretrained(adapter)
    with_code(adapter, "tokenizer_config.json", {"auto_map": FAST})
    named = {"base_model_class": "OwnTokenizer", "parent_library": "own"}
    with_code(adapter, "adapter_config.json", {"auto_mapping": named})
    with contextlib.suppress(RipcurrentError):
        load_model(folder, adapter=adapter, device="cpu")
    assert not (adapter / "was_run").exists()


def test_the_code_would_tell_if_it_were_run(tmp_path):
    folder = save_tiny(tmp_path / "model", "llama_tied")
    with_code(folder, "tokenizer_config.json", {"auto_map": FAST})
    AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    assert (folder / "was_run").exists()
