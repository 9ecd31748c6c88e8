"""Parts of a scan: every shard in exactly one, whatever names them; together exactly what one process leaves."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ripcurrent.errors import RipcurrentError
from ripcurrent.progress import SilentProgress
from ripcurrent.runs import RunFolder, read_config
from ripcurrent.scan import Part, ScanRun, parse_part, scan
from ripcurrent.scan._shards import shards_in
from tests.scan_fixtures import good_rows, rows_with_a_gap, write_jsonl

ROWS = 22
PART = """
import json, sys
from ripcurrent.scan import Part, scan

dataset, out, options, index, of = sys.argv[1:]
scan(dataset, out, part=Part(int(index), int(of)), **json.loads(options))
"""


@given(st.integers(0, 500), st.integers(1, 9), st.integers(1, 60))
def test_parts_take_every_row_once_in_order_and_shards_evenly(rows, size, of):
    parts = [shards_in(Part(index, of), rows, size) for index in range(of)]
    shards = [shard for part in parts for shard in part]
    assert shards == shards_in(None, rows, size)
    assert [row for one in shards for row in range(one.start, one.start + one.rows)] == list(range(rows))
    # the last may be short
    assert all(one.rows == size for one in shards[:-1])
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("4/4", r"no part 4 of 4: parts are counted from 0\.\nWrite 0/4 to 3/4"),
        ("0/0", "no part 0 of 0"),
        ("half", "--shard half is not of the form i/n"),
        ("-1/4", "not of the form"),
    ],
)
def test_what_names_no_part_is_refused(text, said):
    assert parse_part("3/4") == Part(3, 4)
    with pytest.raises(RipcurrentError, match=said):
        parse_part(text)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("rows") / "rows.jsonl", rows_with_a_gap(ROWS))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, dataset, small_options) -> ScanRun:
    """The scan by one process."""
    return scan(dataset, tmp_path_factory.mktemp("whole") / "rows", **small_options)


def fresh(run: ScanRun) -> float:
    return run.manifest.timings["rows_scored_in_this_call"]


def test_processes_side_by_side_in_one_folder_leave_the_same_bytes(tmp_path, dataset, small_options, whole):
    out = tmp_path / "rows"
    arguments = [str(dataset), str(out), json.dumps(small_options)]
    running = [
        subprocess.Popen([sys.executable, "-c", PART, *arguments, str(index), "2"], stderr=subprocess.PIPE)
        for index in range(2)
    ]
    said = [process.communicate(timeout=300)[1].decode() for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    merged = ScanRun.open(out)
    assert merged.scores_path.read_bytes() == whole.scores_path.read_bytes()
    assert merged.status_counts() == whole.status_counts() == {"ok": ROWS - 1, "no_response": 1}
    assert [part.part for part in merged.manifest.parts] == ["0/2", "1/2"]
    assert fresh(merged) == ROWS
    differs = {"timings", "started", "finished", "peak_memory_bytes", "parts"}
    assert merged.manifest.model_dump(exclude=differs) == whole.manifest.model_dump(exclude=differs)
    record = Path("anchors", "directions.json")
    assert (out / record).read_bytes() == (whole.folder / record).read_bytes()
    assert not list(out.rglob("*.part"))


@pytest.mark.parametrize("of", [3, 8], ids=["as usual", "more parts than shards"])
def test_the_part_that_ends_last_writes_the_scores(tmp_path, dataset, small_options, whole, of):
    runs = [scan(dataset, tmp_path / "rows", part=Part(index, of), **small_options) for index in reversed(range(of))]
    assert (runs[0].finished, runs[-1].finished) == (False, True)
    assert runs[-1].scores_path.read_bytes() == whole.scores_path.read_bytes()
    # given again it computes nothing, and the records stay
    before = (tmp_path / "rows" / "parts" / f"1-of-{of}.json").read_bytes()
    assert scan(dataset, tmp_path / "rows", part=Part(1, of), **small_options).finished
    assert (tmp_path / "rows" / "parts" / f"1-of-{of}.json").read_bytes() == before


def test_the_whole_scan_computes_what_parts_left_out(tmp_path, dataset, small_options, whole):
    out = tmp_path / "rows"
    for index in (0, 2):
        assert not scan(dataset, out, part=Part(index, 3), **small_options).finished
    with pytest.raises(RipcurrentError, match="holds no finished scan"):
        ScanRun.open(out)
    result = scan(dataset, out, **small_options)
    assert fresh(result) == 8
    assert result.scores_path.read_bytes() == whole.scores_path.read_bytes()
    # a shard that was lost is the part's again
    (out / "signals" / "shard-00003.parquet").unlink()
    again = scan(dataset, out, part=Part(1, 3), **small_options)
    assert again.finished
    assert again.scores_path.read_bytes() == whole.scores_path.read_bytes()


@pytest.mark.parametrize("grows", [False, True], ids=["another row", "one more row"])
def test_a_part_whose_dataset_changed_leaves_nothing(tmp_path, small_options, grows):
    dataset, out = write_jsonl(tmp_path / "rows.jsonl", rows_with_a_gap(ROWS)), tmp_path / "out"
    scan(dataset, out, part=Part(0, 2), **small_options)

    class Edits(SilentProgress):
        def rows(self, count: float) -> None:
            rows = rows_with_a_gap(ROWS + grows)
            rows[ROWS - 1]["response"] += "!"
            write_jsonl(dataset, rows)

    with pytest.raises(RipcurrentError, match="It changed while it was scanned"):
        scan(dataset, out, part=Part(1, 2), progress=Edits(), **small_options)
    # not even the last shard before the one that was found to be of another size
    assert len(list((out / "signals").glob("shard-*"))) == 2 * 3
    assert not (out / "scores.parquet").exists()


def test_what_is_at_work_in_the_folder_is_not_stepped_on(tmp_path, dataset, small_options, monkeypatch):
    monkeypatch.setattr("ripcurrent.runs.PATIENCE", 0.05)
    out = tmp_path / "rows"
    scan(dataset, out, part=Part(0, 3), **small_options)
    config = read_config(out)
    with RunFolder(out, config, part="0/3"):
        for part, said in (
            (Part(0, 3), "Part 0/3 is already at work"),
            (Part(1, 4), r"Part 0/3 is at work in .*, and 1/4 cuts the rows differently"),
            (None, "Part 0/3 of this run is still at work"),
        ):
            with pytest.raises(RipcurrentError, match=said):
                scan(dataset, out, part=part, **small_options)
        scan(dataset, out, part=Part(1, 3), **small_options)
    with RunFolder(out, config), pytest.raises(RipcurrentError, match="Another run is at work"):
        scan(dataset, out, part=Part(2, 3), **small_options)


def test_a_part_at_work_keeps_its_folder_from_another_scan(tmp_path):
    with RunFolder(tmp_path, {"position": "last"}, part="0/2"):
        with pytest.raises(RipcurrentError, match="its position is 'last', now 'last_content'"):
            RunFolder(tmp_path, {"position": "last_content"}, part="1/2").__enter__()
        with RunFolder(tmp_path, {"position": "last"}, part="1/2"):
            pass
    # without a result and with nobody at work it is taken over
    with RunFolder(tmp_path, {"position": "last_content"}, part="1/2"):
        assert read_config(tmp_path) == {"position": "last_content"}


def test_commands_of_two_processes(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset, cheap = write_jsonl(tmp_path / "rows.jsonl", good_rows(300)), ("--signals", "representation", "--json")
    said = [command.scan(dataset, "--shard", part, *cheap) for part in ("0/2", "1/2")]
    assert [one.code for one in said] == [0, 0], said[0].err + said[1].err
    assert said[0].json == {"run": "runs/rows", "part": "0/2", "rows_scored_in_this_call": 256}
    assert (said[1].json["scored"], said[1].json["rows"]) == (300, 300)
    assert Path("runs/rows/report.html").is_file()


def test_options_that_make_no_sense(command, rows_file, tmp_path):
    for options, says in (
        (("--shard", "2/2"), ("no part 2 of 2", "0/2 to 1/2")),
        (("--executor", "dask"), ("--executor dask is not possible", "'local' or 'ray'")),
        (("--workers", "2"), ("--workers is an option of --executor ray",)),
        (("--executor", "ray", "--workers", "0"), ("--workers 0 is not possible",)),
        (("--ray-address", "auto"), ("--ray-address is an option",)),
        (("--shard", "0/2", "--tokens", "top:5"), ("--tokens does not go", "at the end")),
        (("--executor", "ray", "--memory", "8GB"), ("--memory does not go with --executor ray",)),
    ):
        command.scan_fails(rows_file, "--out", tmp_path / "out", *options, says=says)
    assert not (tmp_path / "out").exists()
