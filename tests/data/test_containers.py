"""Containers: started anywhere, many files as one, and written back with everything the package does not know."""

import csv
import gzip
import hashlib
import io
import json
import re
import sys
import tracemalloc
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as given_by
from hypothesis import strategies as st

from ripcurrent.data import Dataset, open_unchanged, read_rows
from ripcurrent.errors import RipcurrentError

TEXT = st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
RECORDS = st.fixed_dictionaries(
    {"instruction": TEXT, "output": TEXT, "keep": JSON}, optional={"input": st.none() | TEXT, "meta": JSON}
)
# a lone carriage return inside quotes is content; csv keeps it
CELL = st.text("ab ,\"'\n\r\té日;", max_size=8)
CELLS = st.fixed_dictionaries({"instruction": CELL, "output": CELL, "keep": CELL})
TYPED = st.fixed_dictionaries({"instruction": TEXT, "output": TEXT | st.none(), "n": st.integers(0, 99)})
CONTAINERS = {".json": RECORDS, ".jsonl": RECORDS, ".csv": CELLS, ".parquet": TYPED}
SETTINGS = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def put(path: Path, data: bytes) -> Path:
    packed = {".gz": gzip.compress, ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True)}
    path.write_bytes(packed.get(path.suffix, bytes)(data))
    return path


def save(records: list[dict[str, Any]], path: Path, indent: int | None = None) -> Path:
    """Write records with the standard library alone."""
    kind = path.name.removesuffix(".gz").removesuffix(".zst").rpartition(".")[2]
    if kind == "json":
        return put(path, json.dumps(records, ensure_ascii=False, indent=indent).encode())
    if kind == "jsonl":
        return put(path, "".join(json.dumps(record) + "\n" for record in records).encode())
    if kind == "csv":
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, ["instruction", "output", "keep"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(records)
        return put(path, out.getvalue().encode())
    stream = io.BytesIO()
    empty = pa.schema({"text": pa.string(), "url": pa.string()}) if not records else None
    pq.write_table(pa.Table.from_pylist(records, empty), stream, row_group_size=2)
    return put(path, stream.getvalue())


def check_everything(dataset: Dataset, destination: Path, indices: list[int]) -> None:
    rows = list(dataset)
    assert list(dataset) == rows
    for start in (0, 1, len(rows) // 2, len(rows), len(rows) + 3):
        assert rows[:start] + list(dataset.iter_from(start)) == rows
    assert dataset.count_and_hash()[0] == len(rows)
    dataset.write(indices, destination)
    again = read_rows(destination, format=dataset.format)
    assert again.container == dataset.container
    # fields in their order too
    assert [list(row.record.items()) for row in again] == [list(rows[index].record.items()) for index in indices]
    assert not list(destination.parent.glob("*.part"))


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
@pytest.mark.parametrize("suffix", CONTAINERS)
@SETTINGS
@given_by(data=st.data())
def test_every_container(tmp_path, suffix, packed, data):
    records = data.draw(st.lists(CONTAINERS[suffix], min_size=1, max_size=12))
    indent = data.draw(st.sampled_from([None, 4])) if suffix == ".json" else None
    dataset = read_rows(save(records, tmp_path / f"in{suffix}{packed}", indent=indent))
    assert [row.record for row in dataset] == records
    indices = data.draw(st.lists(st.integers(0, len(records) - 1), min_size=1))
    check_everything(dataset, tmp_path / f"out{suffix}{packed}", indices)


def test_parquet_keeps_schema_and_metadata(tmp_path):
    messages = [{"role": "user", "content": "a", "n": 1}, {"role": "assistant", "content": "b", "n": 2}]
    small = {"day": pa.array([1] * 700, pa.date32()), "small": pa.array(range(700), pa.int16())}
    table = pa.table({"messages": [messages] * 700, **small}).replace_schema_metadata({"owner": "me"})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=90)
    dataset = read_rows(tmp_path / "in.parquet")
    assert [row.record["small"] for row in dataset.iter_from(355)] == list(range(355, 700))
    dataset.write([500, 3, 3], tmp_path / "out.parquet")
    given, written = pq.read_table(tmp_path / "in.parquet"), pq.read_table(tmp_path / "out.parquet")
    assert written.schema.equals(given.schema, check_metadata=True)
    assert written.to_pylist() == given.take([500, 3, 3]).to_pylist()


def test_saved_folder_and_its_single_split(tmp_path):
    records = [{"question": str(n), "answer": f"é{n}", "tags": [n, n + 1]} for n in range(600)]
    saved = datasets.Dataset.from_list(records)
    saved.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"test": saved}).save_to_disk(tmp_path / "dict")
    dataset = read_rows(tmp_path / "one")
    assert (dataset.container, dataset.suffix, dataset.name) == ("folder", "", "one")
    check_everything(dataset, tmp_path / "out", [599, 0, 3])
    assert datasets.load_from_disk(tmp_path / "out").features == saved.features
    (file,) = (tmp_path / "one").glob("*.arrow")
    check_everything(read_rows(file), tmp_path / "out.arrow", [599, 0, 3])
    assert datasets.Dataset.from_file(str(tmp_path / "out.arrow")).features == saved.features
    assert [row.record for row in read_rows(tmp_path / "dict")] == records
    assert read_rows(tmp_path / "dict").count_and_hash() == dataset.count_and_hash()
    (tmp_path / "one" / "run").mkdir()
    (tmp_path / "one" / ".DS_Store").write_text("x")
    assert read_rows(tmp_path / "one").sampled_hash() == dataset.sampled_hash(), "what lies beside does not count"


def test_a_hub_stream_reads_resumes_and_is_written_as_parquet(tmp_path, monkeypatch):
    records = [{"prompt": str(n), "response": "b", "tags": [n]} for n in range(9)]
    load = Mock(return_value=datasets.Dataset.from_list(records).to_iterable_dataset())
    monkeypatch.setattr(datasets, "load_dataset", load)
    read_rows("hf:owner/name/main:test")
    load.assert_called_with("owner/name", name="main", split="test", streaming=True)
    dataset = read_rows("hf:owner/name:test")
    load.assert_called_with("owner/name", name=None, split="test", streaming=True)
    assert (dataset.name, dataset.container, dataset.suffix) == ("owner/name", "hub", ".parquet")
    assert [row.record for row in dataset.iter_from(4)] == records[4:]
    assert dataset.count_and_hash()[0] == 9
    dataset.write([7, 2], tmp_path / "out.parquet")
    assert [row.record for row in read_rows(tmp_path / "out.parquet")] == [records[7], records[2]]


def test_what_lies_at_an_address_is_read_as_files_are_and_copied_again_only_where_it_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "cache"))
    store, address = fsspec.filesystem("memory"), "memory://bucket/parts/one.jsonl.zst"
    parts = [save([{"prompt": f"{n} {m}", "response": "b"} for m in range(5)], tmp_path / f"{n}.jsonl") for n in "ab"]
    one = save([{"prompt": str(n), "response": "a"} for n in range(9)], tmp_path / "one.jsonl.zst")
    store.pipe({f"/bucket/parts/{path.name}": path.read_bytes() for path in (*parts, one)})
    dataset = read_rows(address)
    assert (dataset.name, dataset.suffix, dataset.describe().path) == ("one", ".jsonl.zst", address)
    assert dataset.count_and_hash() == read_rows(one).count_and_hash()
    check_everything(dataset, tmp_path / "out.jsonl.zst", [8, 0])
    assert open_unchanged(dataset.describe()).at([3])
    assert len([*(tmp_path / "cache" / "datasets").glob("*/")]) == 1
    assert [row.index for row in read_rows("memory://bucket/parts/[ab].jsonl") if row.prompt == "b 3"] == [8]
    store.pipe("/bucket/parts/one.jsonl.zst", one.read_bytes() * 2)
    with pytest.raises(RipcurrentError, match=r"memory://bucket/parts/one\.jsonl\.zst has changed since it was"):
        open_unchanged(dataset.describe())


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("s3://bucket/rows.jsonl", r"needs the package s3fs(.|\n)*pip install s3fs"),
        ("memory://nowhere/rows.jsonl", "There is no file at memory://nowhere/rows.jsonl"),
        ("s4://bucket/rows.jsonl", "Protocol not known: s4"),
        ("https://me:secret@host/rows.jsonl", "holds a password"),
    ],
)
def test_an_address_that_cannot_be_read_is_one_clear_error(address, says, tmp_path, monkeypatch):
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(RipcurrentError) as caught:
        read_rows(address)
    assert re.search(says, str(caught.value))
    assert "secret" not in str(caught.value)


BOM = b"\xef\xbb\xbf"
FIRST = '{"text": "caf\\u00e9", "n": 1.0e3, "big": 12345678901234567890123, "n": 2}'
SECOND = '{\n      "text" : "b" }'
# characters that Python's splitlines takes for line ends are content
LINE = FIRST.replace("caf", "caf\u2028\u0085")
HEADER, ROW0, ROW1 = b'"prompt",response,note\r\n', b'"a","line one\r\nline ""two""",x\r\n', b'b,c,""'


@pytest.mark.parametrize(
    ("name", "given", "written"),
    [
        (
            "json",
            BOM + f"[\r\n  {FIRST},\r\n  {SECOND}\r\n]\r\n".encode(),
            f"[\r\n  {SECOND},\r\n  {FIRST}\n]\n".encode(),
        ),
        ("jsonl", BOM + f"{LINE}\r\n\r\n   \r\n{LINE} ".encode(), f"{LINE}\r\n{LINE}\r\n".encode()),
        ("csv", BOM + HEADER + ROW0 + b"\r\n" + ROW1, BOM + HEADER + ROW1 + b"\r\n" + ROW0),
    ],
)
def test_text_is_copied_as_it_stands(tmp_path, name, given, written):
    (tmp_path / f"in.{name}").write_bytes(given)
    read_rows(tmp_path / f"in.{name}").write([1, 0], tmp_path / f"out.{name}")
    assert (tmp_path / f"out.{name}").read_bytes() == written


def test_gzip_goes_by_the_name_and_is_reproducible(tmp_path):
    path = save([{"text": "a"}, {"text": "b"}], tmp_path / "in.jsonl")
    assert read_rows(path).count_and_hash() == (2, hashlib.sha256(path.read_bytes()).hexdigest())
    packed = []
    for name in ("x.jsonl.gz", "y.jsonl.gz"):
        read_rows(path).write([1], tmp_path / name)
        packed.append((tmp_path / name).read_bytes())
    assert packed[0] == packed[1]
    assert gzip.decompress(packed[0]) == b'{"text": "b"}\n'


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet"])
def test_what_cannot_be_written_leaves_nothing(tmp_path, suffix):
    path = save([{"instruction": "a", "output": "b", "keep": 1}], tmp_path / f"in{suffix}")
    (tmp_path / "file").write_text("")
    for indices, name, says in (
        ([0, 1], f"out{suffix}", "no row 1"),
        ([0, -1], f"out{suffix}", "no row -1"),
        ([0], "out.csv" if suffix != ".csv" else "out.json", rf"are written as \{suffix}"),
        ([0], f"file/out{suffix}", "cannot be written"),
    ):
        with pytest.raises(RipcurrentError, match=says):
            read_rows(path).write(indices, tmp_path / name)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", f"in{suffix}"]


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_large_files_stream_in_flat_memory(tmp_path, suffix):
    """Neither what is still to come nor what was already read is kept."""
    noise = np.random.default_rng(0).bytes(40_000_000)
    texts = [noise[n : n + 2000].hex() for n in range(0, len(noise), 2000)]
    path = tmp_path / f"in{suffix}"
    if suffix == ".json":
        save([{"text": text} for text in texts], path, indent=1)
    else:
        pq.write_table(pa.table({"text": texts}), path, row_group_size=2000, use_dictionary=False)
    del texts, noise
    before, highest = pa.total_allocated_bytes(), 0
    # what is read lies in Python's memory, what is unpacked in Arrow's
    tracemalloc.start()
    dataset = read_rows(path)
    for number, _ in enumerate(dataset):
        if number % 100 == 0:
            highest = max(highest, pa.total_allocated_bytes() - before + tracemalloc.get_traced_memory()[0])
    dataset.write(range(0, 20_000, 7), tmp_path / f"out{suffix}")
    highest = max(highest, tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    assert highest < 20_000_000


# many files as one dataset

SIZES = (3, 0, 5, 1)


def document(number: int) -> dict[str, object]:
    return {"text": f"document {number}", "url": f"u{number}"}


@pytest.fixture(params=["jsonl", "jsonl.gz", "parquet"])
def corpus(request, tmp_path) -> Path:
    """Nine documents in four files, one of them empty, beside files that are no data."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in ("_metadata.jsonl", "README.md"):
        (folder / name).write_text("not data")
    for part, (first, size) in enumerate(zip((0, 3, 3, 8), SIZES, strict=True)):
        records = [document(number) for number in range(first, first + size)]
        save(records, folder / f"part-{part:02d}.{request.param}")
    return folder


def texts(rows: object) -> list[str]:
    return [row.text for row in rows]  # type: ignore[attr-defined]


def test_a_folder_or_a_pattern_is_one_dataset_in_the_order_of_its_names(corpus):
    rows = read_rows(corpus)
    for start in range(11):
        assert texts(rows.iter_from(start)) == [f"document {number}" for number in range(start, 9)]
    assert texts(read_rows(corpus, limit=6).iter_from(4)) == ["document 4", "document 5"]
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


def test_a_selection_is_one_file_of_the_same_kind(corpus, tmp_path):
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
def test_what_does_not_go_together_or_is_broken_is_named(tmp_path, names, pattern, said):
    for name in names:
        if name.endswith("parquet"):
            pq.write_table(pa.table({"text": ["a"]}), tmp_path / name)
        else:
            (tmp_path / name).write_text('{"text": "a"}\n' + '{"text": \n' * name.startswith("broken"))
    with pytest.raises(RipcurrentError, match=said):
        read_rows(f"{tmp_path}/{pattern}").count_and_hash()


def test_parquet_files_with_columns_of_their_own_are_written_with_all(tmp_path):
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


def test_other_files_are_told_from_these_by_a_few_reads(tmp_path, monkeypatch):
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
