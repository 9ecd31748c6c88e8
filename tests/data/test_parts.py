"""Folders and patterns of files read as one dataset, started anywhere, and written back."""

import gzip
import json
from itertools import islice
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ripcurrent.data import read_rows
from ripcurrent.errors import RipcurrentError

SIZES = (3, 0, 5, 1)


def document(number: int) -> dict[str, object]:
    return {"text": f"document {number}", "url": f"u{number}"}


@pytest.fixture(params=["jsonl", "jsonl.gz", "parquet"])
def corpus(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Nine documents in four files, one of them empty, beside files that are no data."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "_metadata.jsonl").write_text("not data")
    (folder / "README.md").write_text("not data")
    number = 0
    for part, size in enumerate(SIZES):
        records = [document(number + place) for place in range(size)]
        number += size
        path = folder / f"part-{part:02d}.{request.param}"
        if request.param == "parquet":
            schema = pa.schema({"text": pa.string(), "url": pa.string()})
            pq.write_table(pa.Table.from_pylist(records, schema), path, row_group_size=2, compression="zstd")
        else:
            data = "".join(json.dumps(record) + "\n" for record in records).encode()
            path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return folder


def texts(rows: object) -> list[str]:
    return [row.text for row in rows]  # type: ignore[attr-defined]


def test_a_folder_or_a_pattern_is_one_dataset_in_the_order_of_its_names(corpus: Path) -> None:
    rows = read_rows(corpus)
    assert texts(rows) == [f"document {number}" for number in range(9)]
    assert [row.index for row in rows] == list(range(9))
    assert (rows.container, rows.format, rows.name, rows.count_and_hash()[0]) == ("files", "text", "corpus", 9)
    pattern = read_rows(f"{corpus}/part-*")
    assert (pattern.name, pattern.count_and_hash()) == ("corpus", rows.count_and_hash())
    deep = read_rows(f"{corpus.parent}/**/part-0[02]*")
    assert texts(deep) == [f"document {number}" for number in (0, 1, 2, 3, 4, 5, 6, 7)]


@pytest.mark.parametrize("known", [False, True])
def test_a_stream_may_be_started_anywhere(corpus: Path, known: bool) -> None:
    rows = read_rows(corpus)
    if known:
        rows.count_and_hash()
    for start in range(11):
        assert texts(rows.iter_from(start)) == [f"document {number}" for number in range(start, 9)]
    assert texts(islice(rows.iter_from(4), 2)) == ["document 4", "document 5"]
    assert texts(read_rows(corpus, limit=6).iter_from(4)) == ["document 4", "document 5"]


def test_the_hash_is_of_the_content_in_order(corpus: Path) -> None:
    before = read_rows(corpus).count_and_hash()[1]
    moved = corpus.rename(corpus.parent / "moved")
    assert read_rows(moved).count_and_hash()[1] == before
    files = sorted(moved.glob("part-*"))
    files[0].rename(moved / f"zz-{files[0].name}")
    assert read_rows(moved).count_and_hash()[1] != before


def test_a_selection_is_one_file_of_the_same_kind(corpus: Path, tmp_path: Path) -> None:
    rows = read_rows(corpus)
    for indices in ([1, 4, 8], [8, 0, 4]):
        out = tmp_path / f"chosen{rows.suffix}"
        rows.write(indices, out)
        assert [dict(row.record) for row in read_rows(out)] == [document(number) for number in indices]
    if rows.suffix == ".parquet":
        assert pq.read_schema(out).names == ["text", "url"]
        assert pq.ParquetFile(out).metadata.row_group(0).column(0).compression == "ZSTD"
    with pytest.raises(RipcurrentError, match="no row 9"):
        rows.write([9], out)


@pytest.mark.parametrize(
    ("names", "pattern", "said"),
    [
        (("a.jsonl", "b.parquet"), "*", "two kinds"),
        (("a.jsonl", "b.csv"), "*", "neither JSON lines nor Parquet"),
        (("a.jsonl",), "*.parquet", "No file fits"),
        (("a.jsonl", "broken.jsonl"), "*", r"broken\.jsonl, line 2: broken JSON"),
    ],
)
def test_what_does_not_go_together_or_is_broken_is_named(
    tmp_path: Path, names: tuple[str, ...], pattern: str, said: str
) -> None:
    for name in names:
        if name.endswith("parquet"):
            pq.write_table(pa.table({"text": ["a"]}), tmp_path / name)
        else:
            (tmp_path / name).write_text('{"text": "a"}\n' + '{"text": \n' * name.startswith("broken"))
    with pytest.raises(RipcurrentError, match=said):
        read_rows(f"{tmp_path}/{pattern}").count_and_hash()


def test_parquet_files_with_columns_of_their_own_are_written_with_all(tmp_path: Path) -> None:
    """Also where one file's values are all null, which Parquet keeps as another type."""
    own = {"text": ["a"], "input": pa.nulls(1), "about": [{"site": "x"}], "url": ["u"]}
    pq.write_table(pa.table(own), tmp_path / "a.parquet")
    pq.write_table(
        pa.table({"about": [{"site": "y", "year": 1}], "text": ["b"], "input": ["c"], "score": [1]}),
        tmp_path / "b.parquet",
    )
    read_rows(tmp_path).write([1, 0], tmp_path / "chosen.parquet")
    assert pq.read_table(tmp_path / "chosen.parquet").to_pylist() == [
        {"text": "b", "input": "c", "about": {"site": "y", "year": 1}, "url": None, "score": 1},
        {"text": "a", "input": None, "about": {"site": "x", "year": None}, "url": "u", "score": None},
    ]


def test_files_with_columns_of_other_types_cannot_be_written_together(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "score": ["high"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["b"], "score": [1]}), tmp_path / "b.parquet")
    rows = read_rows(tmp_path)
    assert texts(rows) == ["a", "b"]
    with pytest.raises(RipcurrentError, match=r"b\.parquet has other columns than .*a\.parquet"):
        rows.write([0, 1], tmp_path / "chosen.parquet")
    assert not (tmp_path / "chosen.parquet").exists()


def test_other_files_are_told_from_these_by_a_few_reads(tmp_path: Path) -> None:
    row = '{"instruction": "a", "output": "b"}\n'
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        for name in ("1.jsonl", "2.jsonl"):
            (folder / name).write_text(row * 3)
    same = read_rows(here).sampled_hash()
    assert read_rows(there).sampled_hash() == same, "where they lie does not count"
    (there / "2.jsonl").write_text(row * 2 + row.replace("b", "c"))
    assert read_rows(there).sampled_hash() != same
    # a file too large to be read whole: both ends count, and what lies between in places
    large = tmp_path / "large.jsonl"
    large.write_text(row)
    with large.open("r+b") as file:
        file.truncate(200 * 2**20)
    rows = read_rows(large, limit=1)
    found = {rows.sampled_hash()}
    for place in (0, 200 * 2**20 - 1, (200 - 1) * 2**20 * 31 // 63):
        with large.open("r+b") as file:
            file.seek(place)
            file.write(b" ")
        found.add(rows.sampled_hash())
    assert len(found) == 4


def test_of_many_files_some_are_opened_and_the_sizes_of_all_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / f"{number:04d}.jsonl" for number in range(500)]
    for file in files:
        file.write_text('{"text": "a"}')
    rows = read_rows(tmp_path)
    opened: list[Path] = []
    usual = Path.open
    monkeypatch.setattr(Path, "open", lambda path, *a, **b: opened.append(path) or usual(path, *a, **b))
    before = rows.sampled_hash()
    assert len(opened) <= 64
    assert {files[0], files[-1]} <= set(opened)
    assert files[7] not in opened
    files[7].write_text('{"text": "ab"}')
    assert rows.sampled_hash() != before


def test_what_lies_beside_a_saved_folders_own_files_does_not_count(tmp_path: Path) -> None:
    for place, text in enumerate(("a", "b")):
        datasets.Dataset.from_list([{"text": text}]).save_to_disk(tmp_path / str(place))
    hashes = [read_rows(tmp_path / str(place)).sampled_hash() for place in range(2)]
    assert hashes[0] != hashes[1]
    (tmp_path / "0" / "run").mkdir()
    (tmp_path / "0" / "run" / "manifest.json").write_text("{}")
    (tmp_path / "0" / ".DS_Store").write_text("x")
    assert read_rows(tmp_path / "0").sampled_hash() == hashes[0]
