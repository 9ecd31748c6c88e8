"""From a dataset in any container through a scan to selections, a summary and the page; and anchors alone."""

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ripcurrent.data import read_rows
from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate import evaluate
from ripcurrent.report import build
from ripcurrent.scan import (
    ScanRun,
    check_anchors,
    doctor,
    format_shares,
    riskiest_rows,
    scan,
    scan_notes,
    score_quantiles,
)
from ripcurrent.select import select
from tests.scan_fixtures import good_rows, table_of, write_jsonl


def test_a_summary_is_of_the_rows_and_their_scores(tmp_path, exact):
    records: list[Any] = [*good_rows(14), {"prompt": "empty", "response": ""}]
    dataset = write_jsonl(tmp_path / "rows.jsonl", records)
    result = scan(dataset, tmp_path / "out", **exact)
    assert not (result.folder / "report.html").exists()
    assert build(result.folder).stat().st_size > 10_000

    scores = table_of(result)["gradient_bidirectional"].to_numpy()
    best = np.argsort(-np.nan_to_num(scores, nan=-np.inf))[:10].tolist()
    riskiest = riskiest_rows(result, 10)
    assert [(row.row, row.prompt) for row in riskiest] == [(row, records[row]["prompt"]) for row in best]
    assert riskiest[0].score == scores[best[0]]
    as_json: Any = json.loads(json.dumps(result.to_json()))
    assert (as_json["rows"], as_json["scored"], as_json["unscored"]) == (15, 14, {"no_response": 1})
    assert as_json["ranking"] == "gradient_bidirectional"
    assert set(as_json["quantiles"]) == set(as_json["spearman_with_length"])
    lists = np.mean([row["response"].startswith(("-", "1.")) for row in records[:14]])
    assert as_json["format_shares"]["is_list"]["all"] == pytest.approx(lists)


def test_a_summary_outlives_its_rows_and_traits_that_were_not_known(rows_file, tmp_path, exact):
    result = scan(rows_file, tmp_path / "out", **exact)
    # as when the file was sorted anew before the parts of its scan were merged
    lines = rows_file.read_text().splitlines()
    lines[riskiest_rows(result)[0].row] = json.dumps({"prompt": "Another question?", "response": "Another answer."})
    before = rows_file.read_text()
    rows_file.write_text("\n".join(lines) + "\n")
    assert [row.prompt is None for row in riskiest_rows(result, 10)] == [True] + 9 * [False]
    rows_file.unlink()
    assert [row.prompt for row in riskiest_rows(result, 10)] == [None] * 10
    with pytest.raises(RipcurrentError, match=r"rows\.jsonl"):
        select(result.folder, top=2)

    rows_file.write_text(before)
    assert "opens_numbered" in format_shares(result)
    path = result.folder / "scores.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["opens_numbered"]), path)
    assert "opens_numbered" not in format_shares(ScanRun.open(result.folder))
    assert "opens_numbered" not in select(result.folder, top=2)[0].summary.format_shares
    assert build(result.folder).stat().st_size > 10_000


@pytest.mark.parametrize(("signals", "count"), [("gradient", 1), ("representation", 4)])
def test_a_summary_of_one_method_and_of_few_rows_of_a_mapped_dataset(tmp_path, exact, signals, count):
    rows = [{"frage": row["prompt"], "antwort": row["response"]} for row in good_rows(count)]
    dataset, mapping = write_jsonl(tmp_path / "rows.jsonl", rows), {"prompt": "frage", "response": "antwort"}
    run = scan(dataset, tmp_path / "out", signals=signals, mapping=mapping, **exact)
    assert run.default_ranking == f"{signals}_bidirectional"
    assert {score.name.split("_")[0] for score in score_quantiles(run)} == {signals}
    assert sorted((one.row, one.prompt) for one in riskiest_rows(run)) == [*enumerate(row["frage"] for row in rows)]
    if count > 1:
        (written,) = read_rows(select(run.folder, top=1)[0].path, mapping=run.manifest.dataset.mapping)
        assert written.record in rows


def test_a_summary_tells_of_rows_that_were_cut(tmp_path, exact):
    long = {"prompt": "Tell me all.", "response": "and so on " * 200}
    dataset = write_jsonl(tmp_path / "rows.jsonl", [*good_rows(3), long])
    run = scan(dataset, tmp_path / "out", max_tokens=400, **exact)
    assert run.to_json()["truncated"] == 1
    (line,) = scan_notes(run)
    assert line.startswith("1 of the scored rows was truncated")
    assert "do not compare their representation scores" in line
    assert scan_notes(scan(dataset, tmp_path / "whole", max_tokens=4000, **exact)) == []


def test_anchors_are_measured_one_by_one(exact):
    check = check_anchors(**exact)
    assert (check.name, check.model) == (Path(exact["anchors"]).name, exact["model"])
    every = [(name, number) for name in ("harmful", "safe_1", "safe_2") for number in range(4)]
    assert [(a.set, a.number) for a in check.anchors] == every
    assert all(a.category == "theft" and a.norm and set(a.scores) == set(check.scores) for a in check.anchors)
    json.dumps(check.to_json())
    gradient, representation = (check_anchors(**exact, signals=name) for name in ("gradient", "representation"))
    assert set(gradient.scores) == {"gradient_balanced", "gradient_bidirectional"}
    assert set(representation.scores) == {"representation_bidirectional"}
    assert all(anchor.norm is None for anchor in representation.anchors)
    with pytest.raises(RipcurrentError, match="float16"):
        check_anchors(**{**exact, "dtype": "float16"})


def test_nothing_is_looked_up_or_connected_to(rows_file, tmp_path, small_options, no_network, monkeypatch):
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
    assert doctor(rows_file, limit=6, probe=True, **small_options).model is not None
    assert no_network == []
    # and one would be noticed
    for ask in (lambda: socket.create_connection(("localhost", 9)), lambda: socket.socket().connect(("127.0.0.1", 9))):
        with pytest.raises(OSError, match="no network in this test"):
            ask()
    assert len(no_network) == 2
