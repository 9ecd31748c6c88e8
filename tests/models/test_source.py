"""From a name to files: which names are paths, and what the hub's refusals turn into."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import errors

from ripcurrent.errors import RipcurrentError
from ripcurrent.models import _source, load_model
from tests.models.tiny import save_tiny


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("./nowhere", "no file or folder"),
        ("/nowhere", "no file or folder"),
        ("~/nowhere-at-all", "no file or folder"),
        ("a/b/c", "no file or folder"),
        ("missing.gguf", "no file or folder"),
        ("not a name!", "no hub id either"),
    ],
)
def test_a_name_that_cannot_be_a_hub_id_never_asks_the_network(name: str, says: str, no_network: list[object]) -> None:
    with pytest.raises(RipcurrentError, match=says) as caught:
        load_model(name)
    assert "hub id (owner/name), a folder, a .gguf file, or 'embedded'" in caught.value.hint
    assert no_network == []


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(RipcurrentError, match=r"not a \.gguf file"):
        load_model(tmp_path / "model.bin")


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
def test_the_hub_not_giving_a_model_is_one_clear_error(
    error: Exception, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(_source, "snapshot_download", refuse)
    with pytest.raises(RipcurrentError, match=says) as caught:
        load_model("someone/some-model")
    assert "someone/some-model" in caught.value.message
    assert caught.value.hint


def test_without_a_network_an_unknown_hub_id_fails_at_once(no_network: list[object], tmp_path: Path) -> None:
    with pytest.raises(RipcurrentError, match="cannot be reached"):
        load_model("someone/model-that-is-not-there")


def test_a_hub_model_carries_its_commit_and_fetches_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
