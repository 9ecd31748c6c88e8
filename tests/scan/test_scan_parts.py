"""A scan in parts: each beside the others, and together exactly what one process leaves."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ripcurrent.errors import RipcurrentError
from ripcurrent.progress import SilentProgress
from ripcurrent.runs import RunFolder, read_config
from ripcurrent.scan import Part, ScanRun, scan
from tests.tiny_scan import rows_with_a_gap, small_shards, write_jsonl

ROWS = 22

PART = """
import json, sys
from ripcurrent.scan import Part, scan

dataset, out, options, index, of = sys.argv[1:]
scan(dataset, out, part=Part(int(index), int(of)), **json.loads(options))
"""


@pytest.fixture(scope="module")
def options(tiny_folder: Path, anchors_file: Path) -> dict[str, Any]:
    return small_shards(tiny_folder, anchors_file)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("rows") / "rows.jsonl", rows_with_a_gap(ROWS))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, dataset: Path, options: dict[str, Any]) -> ScanRun:
    """The scan by one process."""
    return scan(dataset, tmp_path_factory.mktemp("whole") / "rows", **options)


def fresh(run: ScanRun) -> float:
    return run.manifest.timings["rows_scored_in_this_call"]


def test_processes_side_by_side_in_one_folder_leave_the_same_bytes(
    tmp_path: Path, dataset: Path, options: dict[str, Any], whole: ScanRun
) -> None:
    out = tmp_path / "rows"
    arguments = [str(dataset), str(out), json.dumps(options)]
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
def test_the_part_that_ends_last_writes_the_scores(
    tmp_path: Path, dataset: Path, options: dict[str, Any], whole: ScanRun, of: int
) -> None:
    runs = [scan(dataset, tmp_path / "rows", part=Part(index, of), **options) for index in reversed(range(of))]
    assert (runs[0].finished, runs[-1].finished) == (False, True)
    assert runs[-1].scores_path.read_bytes() == whole.scores_path.read_bytes()
    # given again it computes nothing, and the records stay
    before = (tmp_path / "rows" / "parts" / f"1-of-{of}.json").read_bytes()
    assert scan(dataset, tmp_path / "rows", part=Part(1, of), **options).finished
    assert (tmp_path / "rows" / "parts" / f"1-of-{of}.json").read_bytes() == before


def test_the_whole_scan_computes_what_parts_left_out(
    tmp_path: Path, dataset: Path, options: dict[str, Any], whole: ScanRun
) -> None:
    out = tmp_path / "rows"
    for index in (0, 2):
        assert not scan(dataset, out, part=Part(index, 3), **options).finished
    assert not (out / "scores.parquet").exists()
    with pytest.raises(RipcurrentError, match="holds no finished scan"):
        ScanRun.open(out)
    result = scan(dataset, out, **options)
    assert fresh(result) == 8
    assert result.scores_path.read_bytes() == whole.scores_path.read_bytes()
    # a shard that was lost is the part's again
    (out / "signals" / "shard-00003.parquet").unlink()
    again = scan(dataset, out, part=Part(1, 3), **options)
    assert again.finished
    assert again.scores_path.read_bytes() == whole.scores_path.read_bytes()


@pytest.mark.parametrize("grows", [False, True], ids=["another row", "one more row"])
def test_a_part_whose_dataset_changed_leaves_nothing(tmp_path: Path, options: dict[str, Any], grows: bool) -> None:
    dataset = write_jsonl(tmp_path / "rows.jsonl", rows_with_a_gap(ROWS))
    scan(dataset, tmp_path / "out", part=Part(0, 2), **options)

    class Edits(SilentProgress):
        def rows(self, count: int) -> None:
            rows = rows_with_a_gap(ROWS + grows)
            rows[ROWS - 1]["response"] += "!"
            write_jsonl(dataset, rows)

    with pytest.raises(RipcurrentError, match="It changed while it was scanned"):
        scan(dataset, tmp_path / "out", part=Part(1, 2), progress=Edits(), **options)
    # not even the last shard before the one that was found to be of another size
    assert len(list((tmp_path / "out" / "signals").glob("shard-*"))) == 2 * 3
    assert not (tmp_path / "out" / "scores.parquet").exists()


def test_what_is_at_work_in_the_folder_is_not_stepped_on(
    tmp_path: Path, dataset: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ripcurrent.runs.PATIENCE", 0.05)
    out = tmp_path / "rows"
    scan(dataset, out, part=Part(0, 3), **options)
    config = read_config(out)
    with RunFolder(out, config, part="0/3"):
        with pytest.raises(RipcurrentError, match="Part 0/3 is already at work"):
            scan(dataset, out, part=Part(0, 3), **options)
        with pytest.raises(RipcurrentError, match=r"Part 0/3 is at work in .*, and 1/4 cuts the rows differently"):
            scan(dataset, out, part=Part(1, 4), **options)
        with pytest.raises(RipcurrentError, match="Part 0/3 of this run is still at work"):
            scan(dataset, out, **options)
        scan(dataset, out, part=Part(1, 3), **options)
    with RunFolder(out, config), pytest.raises(RipcurrentError, match="Another run is at work"):
        scan(dataset, out, part=Part(2, 3), **options)


def test_a_part_at_work_keeps_its_folder_from_another_scan(tmp_path: Path) -> None:
    with RunFolder(tmp_path, {"position": "last"}, part="0/2"):
        with pytest.raises(RipcurrentError, match="its position is 'last', now 'last_content'"):
            RunFolder(tmp_path, {"position": "last_content"}, part="1/2").__enter__()
        with RunFolder(tmp_path, {"position": "last"}, part="1/2"):
            pass
    # without a result and with nobody at work it is taken over
    with RunFolder(tmp_path, {"position": "last_content"}, part="1/2"):
        assert read_config(tmp_path) == {"position": "last_content"}


def test_what_needs_all_rows_is_refused(tmp_path: Path, dataset: Path, options: dict[str, Any]) -> None:
    with pytest.raises(RipcurrentError, match="--tokens does not go with --shard"):
        scan(dataset, tmp_path / "out", part=Part(0, 2), tokens="top:5", **options)
    assert not (tmp_path / "out").exists()
