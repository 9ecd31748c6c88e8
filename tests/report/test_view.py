"""The viewer as a server: who may ask it, what it lists, and what it says of bad input."""

import json
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from ripcurrent.cli import run as command
from ripcurrent.errors import RipcurrentError
from ripcurrent.report import build, view
from ripcurrent.scan import ScanRun
from ripcurrent.select import select
from tests.report.fabricate import fabricate_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name in ("first", "second"):
        build(fabricate_run(folder / name / "scan", rows=30))
        (folder / name / "scan").rename(folder / f"scan-{name}")
    (folder / "a check").mkdir()
    (folder / "a check" / "report.html").write_text("<h1>Check</h1>")
    return folder


def fetch(address: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_only_who_has_the_address_is_answered(runs, serve):
    address = serve(runs)
    status, page = fetch(address)
    assert status == 200
    assert all(name in page for name in ("scan-first", "scan-second", "a check"))
    assert fetch(f"{address}a%20check/") == (200, "<h1>Check</h1>")
    root = address.rstrip("/").rpartition("/")[0]
    hidden = ("a%20check/revealed", "no-such-run/", "..%2F..%2Fetc/")
    assert {fetch(one)[0] for one in (f"{root}/", f"{root}/wrong/", *(address + name for name in hidden))} == {404}
    # a page elsewhere that has its own name point to this machine
    assert fetch(address, Host="example.org")[0] == 400


def test_a_query_that_is_none_and_a_run_that_is_gone_are_said(runs, serve):
    address = serve(runs)
    said_of = {"gone/rows": "There is no run gone", "scan-first/rows/99": "Row 99 is not in these"}
    for path, message in {**said_of, "scan-first/rows?q={%22size%22:9999}": "size"}.items():
        status, said = fetch(f"{address}{path}")
        assert (status, message in said) == (400, True)


def test_bad_input_is_one_clear_line(tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        run = fabricate_run(tmp_path / "run", rows=20)
        with pytest.raises(RipcurrentError, match=f"Port {port} cannot be used: address already in use"):
            view(run, port=port)
    (tmp_path / "empty").mkdir()
    for name, said in (("empty", "holds no finished run"), ("nowhere", "There is no folder")):
        assert command(["view", str(tmp_path / name)]) == 1
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"row": 1, "decision": "drop", "dataset": "other"}, "another data set"),
        ({"row": 1, "decision": "delete", "dataset": "own"}, "no decision"),
        ({"row": 1, "decision": "keep", "dataset": "own"}, "marks no row to drop"),
    ],
)
def test_decisions_that_are_not_of_this_run_are_refused(tmp_path, line, message):
    run = ScanRun.open(fabricate_run(tmp_path / "run", rows=20))
    own = run.manifest.dataset.sha256
    path = tmp_path / "decisions.jsonl"
    path.write_text(json.dumps({**line, "dataset": own if line["dataset"] == "own" else line["dataset"]}) + "\n")
    with pytest.raises(RipcurrentError, match=message):
        select(run, decisions=path)
    assert not (run.folder / "selections").exists()
