"""Folders and patterns of files read as one dataset, started anywhere, and written back."""

import gzip
import json
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
            pq.write_table(pa.Table.from_pylist(records, schema), path, row_group_size=2)
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
    assert texts(read_rows(f"{corpus.parent}/**/part-0[02]*")) == texts(rows)[:8]
    # the hash is of the content in order, wherever it lies
    moved = corpus.rename(corpus.parent / "moved")
    assert read_rows(moved).count_and_hash() == rows.count_and_hash()
    first = min(moved.glob("part-*"))
    first.rename(moved / f"zz-{first.name}")
    assert read_rows(moved).count_and_hash() != rows.count_and_hash()


def test_a_stream_may_be_started_anywhere(corpus: Path) -> None:
    rows = read_rows(corpus)
    for start in range(11):
        assert texts(rows.iter_from(start)) == [f"document {number}" for number in range(start, 9)]
    assert texts(read_rows(corpus, limit=6).iter_from(4)) == ["document 4", "document 5"]


def test_a_selection_is_one_file_of_the_same_kind(corpus: Path, tmp_path: Path) -> None:
    rows = read_rows(corpus)
    for indices in ([1, 4, 8], [8, 0, 4]):
        out = tmp_path / f"chosen{rows.suffix}"
        rows.write(indices, out)
        assert [dict(row.record) for row in read_rows(out)] == [document(number) for number in indices]
    if rows.suffix == ".parquet":
        assert pq.read_schema(out).names == ["text", "url"]
    with pytest.raises(RipcurrentError, match="no row 9"):
        rows.write([9], out)


@pytest.mark.parametrize(
    ("names", "pattern", "said"),
    [
        (("a.jsonl", "b.parquet"), "*", "not read together"),
        (("a.jsonl", "b.csv"), "*", "not read together"),
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
    other = {"about": [{"site": "y", "year": 1}], "text": ["b"], "input": ["c"], "score": [1]}
    pq.write_table(pa.table(other), tmp_path / "b.parquet")
    read_rows(tmp_path).write([1, 0], tmp_path / "chosen.parquet")
    assert pq.read_table(tmp_path / "chosen.parquet").to_pylist() == [
        {"text": "b", "input": "c", "about": {"site": "y", "year": 1}, "url": None, "score": 1},
        {"text": "a", "input": None, "about": {"site": "x", "year": None}, "url": "u", "score": None},
    ]
    # columns of other types cannot be written together
    pq.write_table(pa.table({"text": ["b"], "about": [1]}), tmp_path / "b.parquet")
    with pytest.raises(RipcurrentError, match=r"b\.parquet has other columns than .*a\.parquet"):
        read_rows(f"{tmp_path}/?.parquet").write([0, 1], tmp_path / "other.parquet")
    assert not (tmp_path / "other.parquet").exists()


def test_other_files_are_told_from_these_by_a_few_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = '{"instruction": "a", "output": "b"}\n'
    for folder in (tmp_path / "here", tmp_path / "there"):
        folder.mkdir()
        for number in range(100):
            (folder / f"{number:03d}.jsonl").write_text(row)
    here, there = read_rows(tmp_path / "here"), read_rows(tmp_path / "there")
    opened: list[Path] = []
    usual = Path.open
    monkeypatch.setattr(Path, "open", lambda path, *a, **b: opened.append(path) or usual(path, *a, **b))
    same = here.sampled_hash()
    assert len(opened) <= 64, "of many files some are opened"
    assert there.sampled_hash() == same, "where they lie does not count"
    for name, changed in (("007", row + row), ("099", row.replace("b", "c"))):
        (tmp_path / "there" / f"{name}.jsonl").write_text(changed)
        assert there.sampled_hash() != same
        (tmp_path / "there" / f"{name}.jsonl").write_text(row)
    # of a large file both ends count, and what lies between in places
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


def test_what_lies_beside_a_saved_folders_own_files_does_not_count(tmp_path: Path) -> None:
    datasets.Dataset.from_list([{"text": "a"}]).save_to_disk(tmp_path / "saved")
    before = read_rows(tmp_path / "saved").sampled_hash()
    (tmp_path / "saved" / "run").mkdir()
    (tmp_path / "saved" / ".DS_Store").write_text("x")
    assert read_rows(tmp_path / "saved").sampled_hash() == before
