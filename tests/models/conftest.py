import socket
from pathlib import Path

import pytest


@pytest.fixture
def no_network(monkeypatch) -> list[object]:
    """Every look-up of a host fails and is noted in the list that this gives."""
    asked: list[object] = []

    def refuse(*address: object, **_: object) -> None:
        asked.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return asked


@pytest.fixture
def own_cache(tmp_path, monkeypatch) -> Path:
    """A cache folder of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("RIPCURRENT_CACHE", str(folder))
    return folder
