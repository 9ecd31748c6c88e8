"""From a dataset in any container through a scan to selections, a summary and the page."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ripcurrent.data import read_rows
from ripcurrent.errors import RipcurrentError
from ripcurrent.report import build
from ripcurrent.scan import ScanRun, check_anchors, format_shares, riskiest_rows, scan, scan_notes, score_quantiles
from ripcurrent.select import select
from tests.scan_fixtures import table_of
from tests.tiny_scan import EXACT, good_rows, small_shards, write_jsonl

CONTAINERS = ("json", "jsonl", "csv", "parquet", "json.gz", "jsonl.gz", "csv.gz", "parquet.gz", "folder")


def save(records: list[dict[str, str]], folder: Path, kind: str) -> Path:
    import csv
    import io

    path = folder / f"rows.{kind}"
    plain = kind.removesuffix(".gz")
    if plain == "folder":
        import datasets

        datasets.Dataset.from_list(records).save_to_disk(folder / "rows")
        return folder / "rows"
    if plain == "json":
        data = json.dumps(records, indent=1).encode()
    elif plain == "jsonl":
        data = "\n".join(json.dumps(record) for record in records).encode()
    elif plain == "csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
        data = text.getvalue().encode()
    else:
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(records), sink)
        data = sink.getvalue().to_pybytes()
    path.write_bytes(gzip.compress(data) if kind.endswith(".gz") else data)
    return path


@pytest.fixture(scope="module")
def plain(tiny_folder: Path, anchors_file: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """Scores of nine rows from plain lines of JSON."""
    folder = tmp_path_factory.mktemp("plain")
    rows = write_jsonl(folder / "plain.jsonl", good_rows(9))
    return table_of(scan(rows, folder / "out", **small_shards(tiny_folder, anchors_file)))


@pytest.mark.parametrize("kind", CONTAINERS)
def test_every_container_gives_the_same_scores_and_its_own_kind_of_selection(
    kind: str, plain: pa.Table, tmp_path: Path, tiny_folder: Path, anchors_file: Path
) -> None:
    records = good_rows(9)
    dataset = save(records, tmp_path, kind)
    result = scan(dataset, tmp_path / "out", **small_shards(tiny_folder, anchors_file))
    about = result.manifest.dataset
    assert (about.rows, about.format, about.name) == (9, "prompt-response", "rows")
    assert about.container == kind.removesuffix(".gz")
    assert about.path == str(dataset.resolve())
    assert repr(table_of(result).to_pydict()) == repr(plain.to_pydict())

    chosen = select(result.folder, top=2)[0]
    ranked = np.argsort(-table_of(result)["gradient_bidirectional"].to_numpy())[:2]
    written = [row.record for row in read_rows(chosen.path)]
    assert sorted(written, key=str) == sorted((records[place] for place in ranked), key=str)


def test_scan_select_report(tmp_path: Path, tiny_folder: Path, anchors_file: Path) -> None:
    records: list[Any] = [*good_rows(14), {"prompt": "empty", "response": ""}]
    dataset = write_jsonl(tmp_path / "rows.jsonl", records)
    result = scan(dataset, tmp_path / "out", model=str(tiny_folder), anchors=str(anchors_file), **EXACT)
    assert not (result.folder / "report.html").exists()
    assert build(result.folder).stat().st_size > 10_000

    records_written = select(result.folder, top=3, drop=True)
    names = [record.selection.name for record in records_written]
    assert names[0].startswith("top")
    assert len(names) == 1 + 3 * 3 + 1
    assert all(record.path.exists() and record.record_path.exists() for record in records_written)
    chosen = set(records_written[0].selection.indices)
    assert 14 not in chosen
    assert not any(chosen & set(record.selection.indices) for record in records_written[1:])
    assert len(list(read_rows(records_written[0].remaining_path))) == 12  # type: ignore[arg-type]

    scores = table_of(result)["gradient_bidirectional"].to_numpy()
    best = np.argsort(-np.nan_to_num(scores, nan=-np.inf))[:10].tolist()
    riskiest = riskiest_rows(result)
    assert [row.row for row in riskiest] == best
    assert riskiest[0].prompt == records[best[0]]["prompt"]
    assert riskiest[0].score == scores[best[0]]
    as_json: Any = json.loads(json.dumps(result.to_json()))
    assert (as_json["rows"], as_json["scored"], as_json["unscored"]) == (15, 14, {"no_response": 1})
    assert as_json["ranking"] == "gradient_bidirectional"
    assert set(as_json["quantiles"]) == set(as_json["spearman_with_length"])
    assert as_json["format_shares"]["is_list"]["all"] == pytest.approx(
        np.mean([row["response"].startswith(("-", "1.")) for row in records[:14]])
    )


def test_a_summary_shows_no_other_rows_prompts(
    rows_file: Path, tmp_path: Path, tiny_folder: Path, anchors_file: Path
) -> None:
    """As when the file was sorted anew before the parts of its scan were merged."""
    result = scan(rows_file, tmp_path / "out", model=str(tiny_folder), anchors=str(anchors_file), **EXACT)
    lines = rows_file.read_text().splitlines()
    changed = riskiest_rows(result)[0].row
    lines[changed] = json.dumps({"prompt": "Another question?", "response": "Another answer."})
    rows_file.write_text("\n".join(lines) + "\n")
    shown = [row.prompt for row in riskiest_rows(result)]
    assert shown[0] is None
    assert None not in shown[1:]


def test_a_summary_outlives_its_dataset(rows_file: Path, tmp_path: Path, tiny_folder: Path, anchors_file: Path) -> None:
    result = scan(rows_file, tmp_path / "out", model=str(tiny_folder), anchors=str(anchors_file), **EXACT)
    rows_file.unlink()
    assert [row.prompt for row in riskiest_rows(result)] == [None] * 10
    with pytest.raises(RipcurrentError, match=r"rows\.jsonl"):
        select(result.folder, top=2)


def test_scores_of_before_a_trait_was_known_are_read(
    rows_file: Path, tmp_path: Path, tiny_folder: Path, anchors_file: Path
) -> None:
    result = scan(rows_file, tmp_path / "out", model=str(tiny_folder), anchors=str(anchors_file), **EXACT)
    assert "opens_numbered" in format_shares(result)
    path = result.folder / "scores.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["opens_numbered"]), path)
    result = ScanRun.open(result.folder)
    assert "opens_numbered" not in format_shares(result)
    assert "opens_numbered" not in select(result.folder, top=2)[0].summary.format_shares
    assert build(result.folder).stat().st_size > 10_000


@pytest.mark.parametrize("signals", ["gradient", "representation"])
def test_a_summary_of_one_method_and_of_one_row(
    tmp_path: Path, tiny_folder: Path, anchors_file: Path, signals: str
) -> None:
    dataset = write_jsonl(tmp_path / "rows.jsonl", good_rows(1))
    options = {"model": str(tiny_folder), "anchors": str(anchors_file), "signals": signals, **EXACT}
    run = scan(dataset, tmp_path / "out", **options)
    assert run.default_ranking == f"{signals}_bidirectional"
    assert {score.name.split("_")[0] for score in score_quantiles(run)} == {signals}
    assert [row.row for row in riskiest_rows(run)] == [0]


@pytest.mark.parametrize(("position", "compares"), [("last", False), ("last_content", True)])
def test_a_summary_tells_of_rows_that_were_cut(
    tmp_path: Path, tiny_folder: Path, anchors_file: Path, position: str, compares: bool
) -> None:
    long = {"prompt": "Tell me all.", "response": "and so on " * 200}
    dataset = write_jsonl(tmp_path / "rows.jsonl", [*good_rows(3), long])
    options = {"model": str(tiny_folder), "anchors": str(anchors_file), "position": position, **EXACT}
    run = scan(dataset, tmp_path / "out", max_tokens=400, **options)
    assert run.to_json()["truncated"] == 1
    (line,) = scan_notes(run)
    assert line.startswith("1 of the scored rows was truncated")
    assert ("do not compare their representation scores" in line) != compares
    assert scan_notes(scan(dataset, tmp_path / "whole", max_tokens=4000, **options)) == []


def test_a_mapped_dataset_is_found_again(tmp_path: Path, tiny_folder: Path, anchors_file: Path) -> None:
    dataset = write_jsonl(
        tmp_path / "rows.jsonl", [{"frage": row["prompt"], "antwort": row["response"]} for row in good_rows(4)]
    )
    result = scan(
        dataset, tmp_path / "out", model=str(tiny_folder), anchors=str(anchors_file),
        mapping={"prompt": "frage", "response": "antwort"}, **EXACT,
    )  # fmt: skip
    assert riskiest_rows(result)[0].prompt is not None
    assert set(
        next(iter(read_rows(select(result.folder, top=1)[0].path, mapping=result.manifest.dataset.mapping))).record
    ) == {"frage", "antwort"}


def test_anchors_are_measured_one_by_one(tiny_folder: Path, anchors_file: Path) -> None:
    check = check_anchors(str(anchors_file), model=str(tiny_folder), device="cpu", dtype="float32")
    assert check.name == anchors_file.name
    assert check.model == str(tiny_folder)
    assert [(a.set, a.number) for a in check.anchors] == [
        (name, number) for name in ("harmful", "safe_1", "safe_2") for number in range(4)
    ]
    assert all(
        a.category == "theft" and a.norm and a.norm > 0 and set(a.scores) == set(check.scores) for a in check.anchors
    )
    for name, value in check.separation.items():
        harmful = [a.scores[name] for a in check.anchors if a.set == "harmful"]
        safe = [a.scores[name] for a in check.anchors if a.set != "harmful"]
        assert value == pytest.approx(np.mean([(h > s) + 0.5 * (h == s) for h in harmful for s in safe]))
    json.dumps(check.to_json())


def test_anchors_measured_by_one_signal_alone(tiny_folder: Path, anchors_file: Path) -> None:
    options = {"model": str(tiny_folder), "device": "cpu", "dtype": "float32"}
    gradient = check_anchors(str(anchors_file), signals="gradient", **options)
    assert set(gradient.scores) == {"gradient_balanced", "gradient_bidirectional"}
    representation = check_anchors(str(anchors_file), signals="representation", **options)
    assert set(representation.scores) == {"representation_bidirectional"}
    assert all(anchor.norm is None for anchor in representation.anchors)


def test_gradients_of_anchors_are_not_measured_in_float16(tiny_folder: Path, anchors_file: Path) -> None:
    with pytest.raises(RipcurrentError, match="float16"):
        check_anchors(str(anchors_file), model=str(tiny_folder), dtype="float16")
