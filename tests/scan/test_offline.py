"""From a scan to an evaluation without a network: nothing is looked up, nothing is connected to."""

import socket
from typing import Any

import pytest

from ripcurrent.evaluate import evaluate
from ripcurrent.report import build
from ripcurrent.scan import doctor, scan
from ripcurrent.select import select
from tests.scan_fixtures import write_jsonl


def test_scan_select_report_evaluate_doctor(rows_file, tmp_path, small_options, no_network, monkeypatch):
    def refuse(_: socket.socket, address: object) -> None:
        no_network.append(address)
        raise OSError("no network in this test")

    # no host is found, and no address of any kind is connected to
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    result = scan(rows_file, tmp_path / "out", limit=6, **small_options)
    assert len(select(result.folder, top=2)[0].selection.indices) == 2
    assert build(result.folder).stat().st_size > 10_000
    prompts = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "How many boats?"}, {"prompt": "And now?"}])
    where: dict[str, Any] = {"device": "cpu", "dtype": "float32"}
    asked = {"prompts": [prompts], "out": tmp_path / "evaluated", "max_new_tokens": 4}
    assert len(evaluate(small_options["model"], **asked, **where).responses) == 2
    assert doctor(rows_file, limit=6, **small_options).model is not None
    assert no_network == []
    # and one would be noticed
    for ask in (lambda: socket.create_connection(("localhost", 9)), lambda: socket.socket().connect(("127.0.0.1", 9))):
        with pytest.raises(OSError, match="no network in this test"):
            ask()
    assert len(no_network) == 2
