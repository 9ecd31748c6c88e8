"""The prefilter: which rows it lets through, what the rest keeps, and the recall that it must own up to."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ripcurrent.cli import run
from ripcurrent.data import Dataset, read_rows
from ripcurrent.errors import RipcurrentError
from ripcurrent.scan._prefilter import (
    LEFT_OUT,
    PASSED,
    SAMPLED,
    Picked,
    PickedRows,
    join_gradients,
    pick_rows,
    prefilter_record,
    read_picked,
    recall_sentence,
    recalls,
    write_picked,
)
from ripcurrent.scan._scan import ScanResult, scan
from ripcurrent.scan._summary import summarise_scan
from ripcurrent.select_old._select import select
from tests.scan.test_scan_resume import Counting
from tests.tiny_scan import EXACT, good_rows, write_jsonl

ROWS = 130


class Given:
    """Stands for the scorer: the representation score is in the table already."""

    def score(self, signals: pa.Table) -> pa.Table:
        return signals


def columns(scores: list[float]) -> dict[str, list[float]]:
    """Made-up representation scores that rank rows in three ways, by each column's direction of risk."""
    harmful = [abs(score) for score in scores]
    return {
        "representation_bidirectional": scores,
        "representation_harmful": harmful,
        "representation_safe": [one - score for one, score in zip(harmful, scores, strict=True)],
    }


def shards(scores: list[float], size: int = 4, bad: tuple[int, ...] = ()) -> list[pa.Table]:
    numbers = list(range(len(scores)))
    status = ["no_response" if number in bad else "ok" for number in numbers]
    whole = pa.table({"row": numbers, "status": status, **columns(scores)})
    return [whole.slice(start, size) for start in range(0, len(scores), size)]


@pytest.mark.parametrize("share", [0.05, 0.1, 0.31, 0.9])
def test_the_largest_share_of_the_usable_rows_is_picked(share: float) -> None:
    scores = np.random.default_rng(2).standard_normal(41).round(1).tolist()
    bad = (3, 17, 40)
    picked = pick_rows(shards(scores, bad=bad), Given(), share, 100, 0)  # type: ignore[arg-type]
    usable = [number for number in range(41) if number not in bad]
    ranked = sorted(usable, key=lambda number: (-scores[number], number))
    count = next(k for k in range(1, 42) if k >= share * len(usable) - 1e-9)
    assert picked.passed.tolist() == sorted(ranked[:count])
    assert picked.sampled.tolist() == usable
    assert picked.usable == 38


@pytest.mark.parametrize(
    ("by", "riskier"),
    [("representation_bidirectional", 1), ("representation_harmful", 1), ("representation_safe", -1)],
)
def test_the_riskier_end_of_the_named_column_is_picked_and_the_others_told(by: str, riskier: int) -> None:
    scores = np.random.default_rng(3).standard_normal(60).round(1).tolist()
    by_column = columns(scores)
    picked = pick_rows(shards(scores, 7), Given(), 0.2, 100, 0, by)  # type: ignore[arg-type]
    ranked = sorted(range(60), key=lambda number: (-riskier * by_column[by][number], number))
    assert picked.passed.tolist() == sorted(ranked[:12])
    assert picked.by == by
    assert set(picked.otherwise) == set(by_column) - {by}
    for name, rows in picked.otherwise.items():
        other = pick_rows(shards(scores, 7), Given(), 0.2, 100, 0, name)  # type: ignore[arg-type]
        assert rows.tolist() == other.passed.tolist() != picked.passed.tolist()


def test_what_other_columns_would_have_found_is_what_they_find() -> None:
    scores = np.random.default_rng(4).standard_normal(300).round(2).tolist()
    true = np.random.default_rng(5).standard_normal(300) + 0.5 * np.abs(scores)
    table = pa.table({"row": range(300), "status": ["ok"] * 300, "gradient_bidirectional": true, **columns(scores)})
    records = {}
    for by in columns(scores):
        picked = pick_rows([table], Given(), 0.3, 200, 0, by)  # type: ignore[arg-type]
        records[by] = prefilter_record([table], picked, 0.3, "gradient_bidirectional")
    found = [[one["picked"] for one in record["recall"]] for record in records.values()]
    assert found[0] != found[1] != found[2]
    for record in records.values():
        assert record["picked_by"] not in record["otherwise"]
        for name, other in record["otherwise"].items():
            assert other == {key: records[name][key] for key in ("spearman_on_sample", "recall")}
            counts = ", ".join(str(one["picked"]) for one in other["recall"])
            assert f"by {name} {counts}" in record["in_words"]


def test_the_sample_is_drawn_by_seed_from_usable_rows_whatever_was_picked() -> None:
    scores = np.arange(500.0).tolist()
    drawn = [pick_rows(shards(scores, 50, bad=(7,)), Given(), 0.1, 100, seed) for seed in (0, 0, 1)]  # type: ignore[arg-type]
    first, same, other = (picked.sampled.tolist() for picked in drawn)
    assert first == same != other
    assert len(set(first)) == 100
    assert 7 not in first
    assert 2 < len(set(first) & set(drawn[0].passed.tolist())) < 25
    assert drawn[0].rows.tolist() == sorted(set(first) | set(drawn[0].passed.tolist()))


def test_nothing_usable_picks_nothing() -> None:
    picked = pick_rows(shards([1.0, 2.0], bad=(0, 1)), Given(), 0.5, 100, 0)  # type: ignore[arg-type]
    assert (picked.usable, len(picked.rows)) == (0, 0)
    (joined,) = join_gradients(shards([1.0, 2.0], bad=(0, 1)), [], picked)
    assert joined["prefilter"].to_pylist() == [None, None]


def test_picked_rows_stream_from_anywhere(tmp_path: Path) -> None:
    rows = read_rows(write_jsonl(tmp_path / "rows.jsonl", good_rows(20)))
    chosen = PickedRows(rows, np.asarray([2, 3, 11, 19]))
    for start in range(5):
        assert [row.index for row in chosen.iter_from(start)] == [2, 3, 11, 19][start:]


@pytest.mark.parametrize("size", [1, 3, 4, 50])
def test_gradients_join_their_rows_whatever_the_shards(size: int) -> None:
    tables = [
        table.append_column("representation_cosines", pa.array([[0.1, 0.2]] * len(table)))
        for table in shards([0.5] * 23, bad=(5,))
    ]
    picked = Picked(22, np.asarray([1, 6, 7, 8, 21]), np.asarray([2, 7, 22]))
    rows = picked.rows
    status = ["not_finite" if row == 8 else "ok" for row in rows]
    whole = pa.table({"row": rows, "status": status, "dot_harmful": rows * 10.0})
    gradients = [whole.slice(start, size) for start in range(0, len(rows), size)]
    joined = pa.concat_tables(join_gradients(tables, gradients, picked)).to_pylist()
    assert [row["row"] for row in joined] == list(range(23))
    for row in joined:
        number = row["row"]
        assert row["dot_harmful"] == (number * 10.0 if number in rows else None)
        expected = PASSED if number in picked.passed else SAMPLED if number in rows else LEFT_OUT
        assert row["prefilter"] == (None if number == 5 else expected)
        assert row["status"] == {5: "no_response", 8: "not_finite"}.get(number, "ok")
        # a row that the gradient pass could not score has no score of the other pass either
        assert row["representation_cosines"] == (None if number == 8 else [0.1, 0.2])


def test_recall_is_the_share_of_the_samples_riskiest_rows_that_passed() -> None:
    generator = np.random.default_rng(5)
    rows = np.sort(generator.choice(5000, 400, replace=False))
    values = generator.standard_normal(400).round(2)
    passed = np.sort(generator.choice(5000, 1500, replace=False))
    for found in recalls(rows, values, passed):
        riskiest = sorted(range(400), key=lambda place: (-values[place], rows[place]))[: int(400 * found.share)]
        assert found.rows == len(riskiest)
        assert found.picked == sum(rows[place] in passed for place in riskiest)
        assert 0 <= found.low < found.picked / found.rows < found.high <= 1
    assert [found.rows for found in recalls(rows, values, passed)] == [4, 20, 40]


def test_a_sample_too_small_for_its_hundredth_says_unknown_and_not_one_hundred_per_cent() -> None:
    scores = pa.table(
        {
            "row": [0, 1],
            "status": ["ok", "ok"],
            "gradient_bidirectional": [0.5, 0.1],
            **columns([0.5, 0.1]),
        }
    )
    picked = Picked(2, np.asarray([0]), np.asarray([0, 1]))
    record = prefilter_record([scores], picked, 0.5, "gradient_bidirectional")
    assert record["recall"] == []
    assert "Recall UNKNOWN" in recall_sentence(record)


@pytest.fixture(scope="module")
def options(tiny_folder: Path, anchors_file: Path) -> dict[str, Any]:
    return {"model": str(tiny_folder), "anchors": str(anchors_file), **EXACT}


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory, options: dict[str, Any]) -> tuple[ScanResult, ScanResult]:
    """A scan with a prefilter, its page included, and one without, of the same rows."""
    folder = tmp_path_factory.mktemp("prefilter")
    records: list[Any] = [*good_rows(ROWS), {"prompt": "empty", "response": ""}]
    dataset = write_jsonl(folder / "rows.jsonl", records)
    few = scan(dataset, folder / "few", prefilter="20%", prefilter_sample=100, shard_rows=32, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("ripcurrent.scan._scan"), "build_report", lambda run_folder: run_folder)
        whole = scan(dataset, folder / "whole", shard_rows=32, **options)
    return few, whole


def test_documents_in_windows_are_picked_whole(tmp_path: Path, options: dict[str, Any], no_page: None) -> None:
    rows = good_rows(ROWS)
    texts = [f"{row['prompt']} {row['response']} " * (1 + number % 3) for number, row in enumerate(rows)]
    dataset = write_jsonl(tmp_path / "documents.jsonl", [{"text": text} for text in texts])
    how = {**options, "windows": True, "max_tokens": 48, "shard_rows": 32}
    few = scan(dataset, tmp_path / "few", prefilter="20%", prefilter_sample=100, **how)
    whole = scan(dataset, tmp_path / "whole", **how).scores().to_pylist()
    measured = 0
    for row, usual in zip(few.scores().to_pylist(), whole, strict=True):
        assert row["representation_bidirectional"] == pytest.approx(usual["representation_bidirectional"], abs=2e-5)
        assert np.isnan(row["gradient_bidirectional"]) == (row["prefilter"] == LEFT_OUT)
        if row["prefilter"] != LEFT_OUT:
            measured += 1
            assert row["gradient_bidirectional"] == pytest.approx(usual["gradient_bidirectional"], abs=2e-5)
    assert ROWS // 5 <= measured < ROWS
    windows = [pq.read_table(tmp_path / name / "windows.parquet") for name in ("few", "whole")]
    assert len(windows[0]) == len(windows[1]) > 2 * ROWS


def test_rows_that_saw_the_gradient_pass_have_the_usual_scores_and_the_rest_none(
    scanned: tuple[ScanResult, ScanResult],
) -> None:
    few, whole = (result.scores().to_pylist() for result in scanned)
    cut = sorted(range(ROWS), key=lambda n: (-whole[n]["representation_bidirectional"], n))[: ROWS // 5]
    seen = 0
    for row, usual in zip(few, whole, strict=True):
        assert row["status"] == usual["status"]
        if row["row"] == ROWS:
            assert row["prefilter"] is None
            continue
        assert (row["prefilter"] == PASSED) == (row["row"] in cut)
        assert row["representation_bidirectional"] == pytest.approx(usual["representation_bidirectional"], abs=2e-5)
        if row["prefilter"] == LEFT_OUT:
            assert np.isnan(row["gradient_bidirectional"])
            assert np.isnan(row["loss"])
        else:
            seen += 1
            assert row["gradient_bidirectional"] == pytest.approx(usual["gradient_bidirectional"], abs=2e-5)
            assert row["loss"] == pytest.approx(usual["loss"], rel=1e-4)
    assert 100 < seen < ROWS


def test_the_manifest_and_the_scores_file_carry_the_recall(scanned: tuple[ScanResult, ScanResult]) -> None:
    few, whole = scanned
    record = few.manifest["prefilter"]
    assert (record["usable_rows"], record["passed"], record["sample"]) == (ROWS, ROWS // 5, 100)
    (first, *_) = record["recall"]
    assert (first["share"], first["rows"]) == (0.01, 1)
    assert json.loads(few.scores().schema.metadata[b"ripcurrent"])["prefilter"] == record
    table = few.scores().to_pylist()
    # the same by the scan without a prefilter, over the sample's rows
    true = whole.scores()["gradient_bidirectional"].to_pylist()
    sampled = pick_of_sample(few)
    best = max(sampled, key=lambda number: true[number])
    assert first["picked"] == int(table[best]["prefilter"] == PASSED)


def pick_of_sample(result: ScanResult) -> list[int]:
    usable = np.asarray([row["row"] for row in result.scores().to_pylist() if row["status"] == "ok"])
    return np.random.default_rng(0).choice(usable, 100, replace=False).tolist()  # type: ignore[no-any-return]


def test_the_terminal_the_summary_and_selections_know_of_it(
    scanned: tuple[ScanResult, ScanResult], capsys: pytest.CaptureFixture[str]
) -> None:
    few, _ = scanned
    summary = summarise_scan(few.folder)
    assert summary.scored == ROWS
    assert summary.prefilter is not None
    assert "Of a random sample of 100 rows" in summary.prefilter
    assert summary.as_json()["prefilter"] == few.manifest["prefilter"]
    assert summary.prefilter in few.report_path.read_text(encoding="utf-8")
    chosen = select(few.folder, top=5)
    table = few.scores()["prefilter"].to_pylist()
    assert all(table[row] != LEFT_OUT for row in chosen[0].selection.indices)
    random_rows = {row for record in chosen[1:] for row in record.selection.indices}
    assert random_rows
    from ripcurrent.cli._scan import show_summary

    show_summary(summary)
    assert "Prefilter:" in capsys.readouterr().out


def test_it_resumes_and_repeats_nothing(
    scanned: tuple[ScanResult, ScanResult], options: dict[str, Any], tmp_path: Path, no_page: None
) -> None:
    few, _ = scanned
    dataset = few.folder.parent / "rows.jsonl"
    how = {"prefilter": 0.2, "prefilter_sample": 100, "shard_rows": 32, **options}
    told = Counting()
    again = scan(dataset, few.folder, progress=told, **how)
    assert told.computed == 0
    assert again.manifest["prefilter"] == few.manifest["prefilter"]
    with pytest.raises(KeyboardInterrupt):
        scan(dataset, tmp_path / "stopped", progress=Counting(stop_after=ROWS + 50), **how)
    resumed = scan(dataset, tmp_path / "stopped", **how)
    assert resumed.scores_path.read_bytes() == few.scores_path.read_bytes()


def test_another_column_picks_other_rows_and_is_another_run(
    scanned: tuple[ScanResult, ScanResult], options: dict[str, Any], tmp_path: Path, no_page: None
) -> None:
    few, whole = scanned
    dataset = few.folder.parent / "rows.jsonl"
    how = {"prefilter": 0.2, "prefilter_sample": 100, "shard_rows": 32, **options}
    safe = scan(dataset, tmp_path / "safe", prefilter_by="representation_safe", **how)
    values = whole.scores()["representation_safe"].to_pylist()
    cut = sorted(range(ROWS), key=lambda number: (values[number], number))[: ROWS // 5]
    passed = [number for number, way in enumerate(safe.scores()["prefilter"].to_pylist()) if way == PASSED]
    assert passed == sorted(cut)
    record = safe.manifest["prefilter"]
    assert (record["picked_by"], safe.manifest["options"]["prefilter_by"]) == ("representation_safe",) * 2
    usual = few.manifest["prefilter"]
    assert (usual["picked_by"], few.manifest["options"]["prefilter_by"]) == ("representation_bidirectional", None)
    # each is told what the other found
    assert record["otherwise"]["representation_bidirectional"]["recall"] == usual["recall"]
    assert usual["otherwise"]["representation_safe"]["recall"] == record["recall"]
    with pytest.raises(RipcurrentError, match="prefilter_by is 'representation_safe', now None"):
        scan(dataset, safe.folder, **how)


def test_a_folder_from_before_there_was_a_choice_resumes(
    scanned: tuple[ScanResult, ScanResult], options: dict[str, Any], no_page: None
) -> None:
    few, _ = scanned
    config = few.folder / "config.yaml"
    before = config.read_text(encoding="utf-8")
    assert "prefilter_by: null\n" in before
    config.write_text(before.replace("prefilter_by: null\n", ""), encoding="utf-8")
    how = {"prefilter": 0.2, "prefilter_sample": 100, "shard_rows": 32, **options}
    for by in (None, "representation_bidirectional"):
        told = Counting()
        scan(few.folder.parent / "rows.jsonl", few.folder, progress=told, prefilter_by=by, **how)
        assert told.computed == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--prefilter", "ten"), "--prefilter ten is not possible"),
        (("--prefilter", "0%"), "--prefilter 0"),
        (("--prefilter", "10"), "write 10% or 0.1"),
        (("--prefilter", "abc%"), "Write a share of the rows, such as 10% or 0.1"),
        (("--prefilter", "10%", "--signals", "gradient"), "--prefilter needs both signals"),
        (("--prefilter", "10%", "--per-anchor"), "is not built"),
        (("--prefilter", "10%", "--prefilter-sample", "5"), "--prefilter-sample 5"),
        (
            ("--prefilter", "10%", "--prefilter-by", "representation_safety"),
            "--prefilter-by representation_safety is not possible. It must be 'representation_bidirectional', "
            "'representation_harmful' or 'representation_safe'. Did you mean representation_safe?",
        ),
        (("--prefilter-by", "representation_safe"), "--prefilter, which is not given"),
        (("--prefilter-sample", "500"), "--prefilter misses, which is not given"),
        (("--per-anchor", "--signals", "representation"), "--per-anchor compares gradients"),
        (("--dtype", "float16"), "Gradients leave the range of float16"),
    ],
)
def test_what_it_does_not_do_is_said(
    arguments: tuple[str, ...], said: str, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["scan", str(rows_file), "--out", str(tmp_path / "out"), *arguments]) == 1
    assert said in " ".join(capsys.readouterr().err.split())


def test_what_was_picked_stays_though_a_shard_of_the_first_pass_is_computed_anew(
    scanned: tuple[ScanResult, ScanResult], options: dict[str, Any], tmp_path: Path, no_page: None
) -> None:
    few, _ = scanned
    folder = tmp_path / "copy"
    shutil.copytree(few.folder, folder)
    how = {"prefilter": 0.2, "prefilter_sample": 100, "shard_rows": 32, **options}
    kept = folder / "signals" / "gradient" / "picked.npz"
    picked = read_picked(kept)
    assert len(picked.passed) == ROWS // 5
    first = folder / "signals" / "shard-00000.parquet"
    first.unlink()
    again = scan(few.folder.parent / "rows.jsonl", folder, **how)
    assert again.manifest["timings"]["rows_scored_in_this_call"] == 32
    assert again.scores_path.read_bytes() == few.scores_path.read_bytes()
    # gradients of other rows than the picked ones are never taken for theirs
    other = replace(picked, passed=np.setdiff1d(np.arange(ROWS), picked.rows)[: ROWS // 5])
    write_picked(kept, other)
    with pytest.raises(RipcurrentError, match=r"Row \d+ was picked, and the gradient pass has no such row"):
        scan(few.folder.parent / "rows.jsonl", folder, **how)
    kept.write_bytes(b"PK half a file")
    with pytest.raises(RipcurrentError, match=r"picked.npz is damaged.*"):
        scan(few.folder.parent / "rows.jsonl", folder, **how)


def test_rows_between_the_picked_ones_are_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = read_rows(write_jsonl(tmp_path / "rows.jsonl", good_rows(40)))
    made: list[int] = []
    row_of = type(rows)._row

    def counted(self: Any, index: int, record: object) -> Any:
        made.append(index)
        return row_of(self, index, record)

    monkeypatch.setattr(type(rows), "_row", counted)
    stream = PickedRows(rows, np.array([3, 4, 17, 30, 39])).iter_from(1)
    assert next(stream).index == 4
    stream.skip(1)
    assert [row.index for row in stream] == [30, 39]
    assert made == [4, 30, 39]
    stream = PickedRows(rows, np.array([3])).iter_from(0)
    stream.skip(2)
    assert list(stream) == []


def test_a_dataset_that_changes_while_it_is_scanned_is_refused(
    rows_file: Path, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, no_page: None
) -> None:
    counted = Dataset.count_and_hash
    monkeypatch.setattr(Dataset, "count_and_hash", lambda self: (counted(self)[0] + 3, counted(self)[1]))
    with pytest.raises(RipcurrentError, match="no longer has the 15 rows that were counted"):
        scan(rows_file, tmp_path / "out", **options)
