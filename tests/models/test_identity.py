"""File hashes: whole for small files, sampled so that every tensor counts for large ones."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ripcurrent.models._identity import config_sha256, file_sha256
from ripcurrent.models._template import tokenizer_sha256
from tests.models.tiny import tiny_tokenizer


def tensors() -> dict[str, torch.Tensor]:
    return {"big": torch.arange(200_000, dtype=torch.float32), "small": torch.zeros(64), "other": torch.ones(200_000)}


def sampled(folder: Path, weights: dict[str, torch.Tensor]) -> str:
    save_file(weights, folder / "model.safetensors")
    return file_sha256(folder / "model.safetensors", whole_bytes=1000)


def test_a_small_file_is_hashed_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"weights")
    assert file_sha256(tmp_path / "a") == hashlib.sha256(b"weights").hexdigest()


def test_a_sampled_hash_is_stable(tmp_path: Path) -> None:
    assert sampled(tmp_path, tensors()) == sampled(tmp_path, tensors())


@pytest.mark.parametrize("name", ["big", "other"])
@pytest.mark.parametrize("change", ["scaled", "first", "last"])
def test_a_sampled_hash_sees_a_change_of_any_large_tensor(name: str, change: str, tmp_path: Path) -> None:
    changed = tensors()
    if change == "scaled":
        changed[name] = changed[name] * 1.001
    else:
        changed[name][0 if change == "first" else -1] += 1
    assert sampled(tmp_path, changed) != sampled(tmp_path, tensors())


def test_a_sampled_hash_sees_one_number_of_a_small_tensor(tmp_path: Path) -> None:
    changed = tensors()
    changed["small"][33] = 1e-6
    assert sampled(tmp_path, changed) != sampled(tmp_path, tensors())


def test_a_sampled_hash_sees_names_and_types(tmp_path: Path) -> None:
    renamed = tensors()
    renamed["huge"] = renamed.pop("big")
    assert sampled(tmp_path, renamed) != sampled(tmp_path, tensors())


def test_a_sampled_hash_of_another_format_sees_any_long_change(tmp_path: Path) -> None:
    content = bytearray(40 << 20)
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    before = file_sha256(file, whole_bytes=1000)
    content[30 << 20 : 31 << 20] = b"\x01" * (1 << 20)
    file.write_bytes(content)
    assert file_sha256(file, whole_bytes=1000) != before


def test_a_tokenizer_counts_with_the_roles_of_its_special_tokens() -> None:
    tokenizer = tiny_tokenizer()
    before = tokenizer_sha256(tokenizer)
    assert tokenizer_sha256(tiny_tokenizer()) == before
    tokenizer.eos_token = tokenizer.bos_token or "<another>"
    assert tokenizer_sha256(tokenizer) != before


def test_a_configuration_counts_apart_from_where_it_was_saved(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('{"r": 8, "_name_or_path": "/home/a", "transformers_version": "5.0"}')
    (tmp_path / "b").write_text('{"transformers_version": "5.1", "r": 8}')
    (tmp_path / "c").write_text('{"r": 9}')
    assert config_sha256(tmp_path / "a") == config_sha256(tmp_path / "b") != config_sha256(tmp_path / "c")
