"""GGUF files: the same weights and tokens as the model they were written from, read once and copied."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from ripcurrent.errors import RipcurrentError
from ripcurrent.models import _gguf, load_model
from tests.models.tiny import CHAT_TEMPLATE, save_tiny, tiny_model, tiny_tokenizer
from tests.models.tiny_gguf import write_tiny_gguf

TEXT = "<|im_start|>user\nhello th\u00e9re<|im_end|>\n"


@pytest.mark.parametrize("kind", ["llama_tied", "mistral"])
def test_a_gguf_file_is_the_model_it_was_written_from(kind: str, tmp_path: Path, own_cache: Path) -> None:
    original = tiny_model(kind)
    loaded = load_model(write_tiny_gguf(tmp_path / "tiny.gguf", original), device="cpu", dtype="float32")
    for name, parameter in original.named_parameters():
        assert torch.equal(loaded.model.get_parameter(name), parameter), name
    tokens = tiny_tokenizer()(TEXT)["input_ids"]
    assert loaded.tokenizer(TEXT)["input_ids"] == tokens
    assert loaded.tokenizer.chat_template == CHAT_TEMPLATE
    assert loaded.tokenizer.pad_token == loaded.tokenizer.eos_token == "<|im_end|>"
    ids = torch.tensor([tokens])
    assert torch.allclose(loaded.model(ids).logits, original(ids).logits, atol=1e-5)


FREQUENCIES = np.array([1, 1, 2, 4], dtype=np.float32)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        # as llama.cpp writes Llama 3.1 and later, Gemma 3, Phi-3, and a bias that the architecture does not have
        ({"more": {"rope_freqs.weight": FREQUENCIES}}, "rope_freqs.weight"),
        ({"more": {"rope_factors_long.weight": FREQUENCIES}}, "rope_factors_long.weight"),
        ({"scaling": (gguf.RopeScalingType.LINEAR, 8.0)}, "llama.rope.scaling.type linear"),
        ({"scaling": (gguf.RopeScalingType.YARN, 4.0)}, "llama.rope.scaling.type yarn"),
        ({"more": {"blk.0.attn_q.bias": np.ones(32, dtype=np.float32)}}, "has no place in its model"),
    ],
)
def test_a_file_of_which_something_would_be_left_out_is_refused(
    other: dict[str, Any], says: str, tmp_path: Path, own_cache: Path
) -> None:
    file = write_tiny_gguf(tmp_path / "tiny.gguf", tiny_model("llama_tied"), **other)
    with pytest.raises(RipcurrentError, match="another") as caught:
        load_model(file, device="cpu")
    assert says in caught.value.message
    assert "safetensors" in (caught.value.hint or "")


def test_scaling_that_changes_nothing_is_none(tmp_path: Path, own_cache: Path) -> None:
    same = {"rope_freqs.weight": np.ones(4, dtype=np.float32)}
    scaling = (gguf.RopeScalingType.LINEAR, 1.0)
    file = write_tiny_gguf(tmp_path / "tiny.gguf", tiny_model("llama_tied"), more=same, scaling=scaling)
    assert load_model(file, device="cpu").name == str(file)


def test_the_second_load_reads_the_copy_and_gives_the_same(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_tiny_gguf(tmp_path / "tiny.gguf", tiny_model("llama_tied"))
    first = load_model(file, device="cpu", dtype="float32")

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the GGUF file was read again")

    monkeypatch.setattr(_gguf, "_convert", fail)
    moved = file.rename(tmp_path / "elsewhere.gguf")
    os.utime(moved, (0, 0))
    second = load_model(moved, device="cpu", dtype="float32")
    assert first.fingerprint == second.fingerprint
    for name, parameter in first.model.named_parameters():
        assert torch.equal(second.model.get_parameter(name), parameter), name


def test_a_changed_file_or_another_transformers_makes_another_copy(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tiny.gguf"
    first = load_model(write_tiny_gguf(file, tiny_model("llama_tied")), device="cpu")
    second = load_model(write_tiny_gguf(file, tiny_model("llama_tied", seed=1)), device="cpu")
    assert first.fingerprint != second.fingerprint
    assert not torch.equal(*(loaded.model.get_input_embeddings().weight for loaded in (first, second)))
    assert len(list((own_cache / "gguf").iterdir())) == 2
    monkeypatch.setattr(_gguf.transformers, "__version__", "99.0")
    third = load_model(file, device="cpu")
    assert third.fingerprint == second.fingerprint
    assert len(list((own_cache / "gguf").iterdir())) == 3


def test_the_copy_appears_whole_or_not_at_all(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_tiny_gguf(tmp_path / "tiny.gguf", tiny_model("llama_tied"))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_gguf, "_publish", stop)
        with pytest.raises(KeyboardInterrupt):
            load_model(file, device="cpu")
    assert list((own_cache / "gguf").iterdir()) == []
    load_model(file, device="cpu")
    assert [folder.suffix for folder in (own_cache / "gguf").iterdir()] == [""]


def test_what_a_killed_process_left_is_cleared_and_a_living_one_is_let_be(tmp_path: Path, own_cache: Path) -> None:
    file = write_tiny_gguf(tmp_path / "tiny.gguf", tiny_model("llama_tied"))
    key = _gguf._cache_key(file)
    old, new = (own_cache / "gguf" / f"{key}.{word}.part" for word in ("old", "new"))
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    load_model(file, device="cpu")
    assert not old.exists()
    assert new.exists()


def test_two_processes_that_convert_at_once_share_one_copy(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_tiny_gguf(tmp_path / "tiny.gguf", tiny_model("llama_tied"))
    publish = _gguf._publish

    def be_second(staging: Path, folder: Path) -> None:
        folder.mkdir()
        for made in staging.iterdir():
            (folder / made.name).write_bytes(made.read_bytes())
        publish(staging, folder)

    monkeypatch.setattr(_gguf, "_publish", be_second)
    loaded = load_model(file, device="cpu", dtype="float32")
    assert torch.equal(
        loaded.model.get_input_embeddings().weight, tiny_model("llama_tied").get_input_embeddings().weight
    )
    assert len(list((own_cache / "gguf").iterdir())) == 1


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.5, 0.9, 0.999])
def test_a_file_cut_short_is_one_clear_error_and_leaves_no_copy(share: float, tmp_path: Path, own_cache: Path) -> None:
    file = write_tiny_gguf(tmp_path / "tiny.gguf", tiny_model("llama_tied"))
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(RipcurrentError, match=r"cut short|not a GGUF file") as caught:
        load_model(file, device="cpu")
    assert str(file) in caught.value.message
    assert "again" in caught.value.hint
    assert "\n" not in caught.value.message
    assert not any((own_cache / "gguf").glob("*"))


def test_bytes_that_are_no_gguf_say_so(tmp_path: Path, own_cache: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"<!doctype html>")
    with pytest.raises(RipcurrentError, match="not a GGUF file"):
        load_model(file, device="cpu")


def test_a_cache_that_cannot_be_written_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_tiny_gguf(tmp_path / "tiny.gguf", tiny_model("llama_tied"))
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(RipcurrentError, match="cannot be written") as caught:
        load_model(file, device="cpu")
    assert "RIPCURRENT_CACHE" in caught.value.hint


def test_a_full_disk_is_told_before_writing(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(100, 99, 1))
    with pytest.raises(RipcurrentError, match="MiB"):
        load_model(write_tiny_gguf(tmp_path / "tiny.gguf", tiny_model("llama_tied")), device="cpu")
    assert list((own_cache / "gguf").iterdir()) == []


def test_a_tokenizer_beside_the_file_is_not_taken_for_its_own(tmp_path: Path, own_cache: Path) -> None:
    save_tiny(tmp_path, "llama_tied")
    tiny_tokenizer(chat_template="another").save_pretrained(tmp_path)
    loaded = load_model(write_tiny_gguf(tmp_path / "tiny.gguf", tiny_model("llama_tied", seed=1)), device="cpu")
    assert loaded.tokenizer.chat_template == CHAT_TEMPLATE


def test_reading_prints_nothing(tmp_path: Path, own_cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = write_tiny_gguf(tmp_path / "tiny.gguf", tiny_model("llama_tied"))
    capfd.readouterr()
    load_model(file, device="cpu")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"RIPCURRENT_CACHE": "/a/own", "XDG_CACHE_HOME": "/a/xdg"}, "/a/own"),
        ({"XDG_CACHE_HOME": "/a/xdg"}, "/a/xdg/ripcurrent"),
        ({"HOME": "/a/home"}, "/a/home/.cache/ripcurrent"),
    ],
)
def test_where_the_cache_is(variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RIPCURRENT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(_gguf.cache_folder()) == expected
