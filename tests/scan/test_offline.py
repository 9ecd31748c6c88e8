"""From a scan to an evaluation without a network: nothing is looked up, nothing is connected to."""

import socket
from pathlib import Path

import pytest

from ripcurrent.evaluate import evaluate
from ripcurrent.report import build
from ripcurrent.scan import doctor, scan
from ripcurrent.select import select
from tests.models.conftest import no_network
from tests.tiny_scan import EXACT, write_jsonl

__all__ = ["no_network"]


@pytest.fixture
def no_sockets(no_network: list[object], monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """No host is found, and no address of any kind is connected to."""

    def refuse(_: socket.socket, address: object) -> None:
        no_network.append(address)
        raise OSError("no network in this test")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return no_network


def test_scan_select_report_evaluate_doctor(
    rows_file: Path, tmp_path: Path, tiny_folder: Path, anchors_file: Path, no_sockets: list[object]
) -> None:
    model = str(tiny_folder)
    result = scan(rows_file, tmp_path / "out", model=model, anchors=str(anchors_file), limit=6, **EXACT)
    assert len(select(result.folder, top=2)[0].selection.indices) == 2
    assert build(result.folder).stat().st_size > 10_000
    prompts = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "How many boats?"}, {"prompt": "And now?"}])
    evaluated = evaluate(
        model, prompts=[prompts], out=tmp_path / "evaluated", device="cpu", dtype="float32", max_new_tokens=4
    )
    assert len(evaluated.responses) == 2
    found = doctor(rows_file, model=model, anchors=str(anchors_file), device="cpu", dtype="float32", limit=6)
    assert found.model is not None
    assert no_sockets == []


def test_a_connection_would_be_noticed(no_sockets: list[object]) -> None:
    for ask in (lambda: socket.create_connection(("localhost", 9)), lambda: socket.socket().connect(("127.0.0.1", 9))):
        with pytest.raises(OSError, match="no network in this test"):
            ask()
    assert len(no_sockets) == 2
