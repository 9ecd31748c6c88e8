"""File hashes: whole for small files, sampled so that every tensor counts for large ones."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ripcurrent.models import config_sha256, file_sha256, tokenizer_sha256
from tests.models.tiny import tiny_tokenizer


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
