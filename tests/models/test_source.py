"""From a name to files: paths, what the hub refuses, that no code of a folder runs, and hashes of files."""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import save_file
from transformers import AutoTokenizer

from ripcurrent.errors import RipcurrentError
from ripcurrent.models import (
    _source,
    config_sha256,
    describe,
    file_sha256,
    load_model,
    load_tokenizer,
    tokenizer_sha256,
)
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
    info = describe(loaded)
    assert (info.name, info.revision) == (loaded.name, loaded.revision) == ("someone/some-model", commit)
    assert not any(pattern.endswith((".py", ".bin", "*")) for pattern in asked)
    asked.clear()
    load_tokenizer("someone/some-model")
    assert "*.json" in asked
    assert not any("safetensors" in pattern for pattern in asked), "a tokenizer needs no weights"


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


def sampled(folder: Path, name: str = "big", place: int | slice = 0, added: float = 0.0) -> str:
    """The sampled hash of three tensors, one of them changed."""
    weights = {"big": torch.arange(200_000.0), "small": torch.zeros(64), "other": torch.ones(200_000)}
    weights[name][place] += added
    save_file(weights, folder / "model.safetensors")
    return file_sha256(folder / "model.safetensors", whole_bytes=1000)


def test_a_small_file_is_hashed_whole_and_a_large_ones_sample_sees_any_change_of_a_tensor(tmp_path):
    (tmp_path / "a").write_bytes(b"weights")
    assert file_sha256(tmp_path / "a") == hashlib.sha256(b"weights").hexdigest()
    same = sampled(tmp_path)
    assert sampled(tmp_path) == same
    changes = [(name, place, 1.0) for name in ("big", "other") for place in (slice(None), 0, -1)]
    assert len({same, *(sampled(tmp_path, *change) for change in (*changes, ("small", 33, 1e-6)))}) == 8


def test_a_sampled_hash_of_another_format_sees_any_long_change(tmp_path):
    content = bytearray(40 << 20)
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    before = file_sha256(file, whole_bytes=1000)
    content[30 << 20 : 31 << 20] = b"\x01" * (1 << 20)
    file.write_bytes(content)
    assert file_sha256(file, whole_bytes=1000) != before


def test_a_tokenizer_counts_with_the_roles_of_its_special_tokens():
    tokenizer = tiny_tokenizer()
    before = tokenizer_sha256(tokenizer)
    assert tokenizer_sha256(tiny_tokenizer()) == before
    tokenizer.eos_token = tokenizer.bos_token or "<another>"
    assert tokenizer_sha256(tokenizer) != before


@pytest.mark.parametrize(("other", "same"), [('{"transformers_version": "5.1", "r": 8}', True), ('{"r": 9}', False)])
def test_a_configuration_counts_apart_from_where_it_was_saved(other, same, tmp_path):
    (tmp_path / "a").write_text('{"r": 8, "_name_or_path": "/home/a", "transformers_version": "5.0"}')
    (tmp_path / "b").write_text(other)
    assert (config_sha256(tmp_path / "a") == config_sha256(tmp_path / "b")) == same
