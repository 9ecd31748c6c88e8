"""A scan that was stopped, however hard, goes on where it was and ends with the same file."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from ripcurrent.errors import RipcurrentError
from ripcurrent.models import load_model
from ripcurrent.progress import SilentProgress
from ripcurrent.runs import RunFolder
from ripcurrent.scan import scan
from tests.tiny_scan import EXACT, good_rows, write_jsonl

SLOW_SCAN = """
import json, sys, time
from ripcurrent.progress import SilentProgress
from ripcurrent.scan import scan

class Slow(SilentProgress):
    def rows(self, count):
        time.sleep(0.05 * count)

dataset, out, options = sys.argv[1:]
scan(dataset, out, progress=Slow(), **json.loads(options))
"""


class Counting(SilentProgress):
    """Counts rows computed and rows found done, and stops the scan when told to."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.computed = 0
        self.found = 0
        self.steps: list[str] = []
        self._stop_after = stop_after

    def step(self, name: str) -> None:
        self.steps.append(name)

    def rows(self, count: int) -> None:
        self.computed += count
        if self._stop_after is not None and self.computed >= self._stop_after:
            raise KeyboardInterrupt

    def skipped(self, count: int) -> None:
        self.found += count


def options_for(model: Path, anchors: Path, **changes: Any) -> dict[str, Any]:
    return {"model": str(model), "anchors": str(anchors), "shard_rows": 4, **EXACT, **changes}


def wait_for(path: Path, process: subprocess.Popen[bytes], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.stderr.read().decode() if process.stderr else "ended"
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.01)


def test_killed_in_mid_run_it_resumes_to_the_same_bytes(tmp_path: Path, tiny_folder: Path, anchors_file: Path) -> None:
    dataset = write_jsonl(tmp_path / "rows.jsonl", good_rows(22))
    options = options_for(tiny_folder, anchors_file)
    out = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_SCAN, str(dataset), str(out), json.dumps(options)], stderr=subprocess.PIPE
    )
    try:
        wait_for(out / "signals" / "shard-00001.done", process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()  # type: ignore[union-attr]
    done = len(list((out / "signals").glob("*.done")))
    assert 2 <= done < 6
    assert not (out / "scores.parquet").exists()
    assert not (out / "manifest.json").exists()
    # as if it had died while writing, too
    (out / "signals" / f"shard-{done:05d}.parquet.part").write_bytes(b"PAR1 torn")
    first_times = {path.name: path.stat().st_mtime_ns for path in (out / "signals").glob("*.parquet")}

    told = Counting()
    result = scan(dataset, out, progress=told, **options)
    assert (told.found, told.computed) == (4 * done, 22 - 4 * done)
    assert result.manifest.timings["rows_scored_in_this_call"] == 22 - 4 * done
    assert all((out / "signals" / name).stat().st_mtime_ns == first for name, first in first_times.items())
    assert not list(out.rglob("*.part"))

    whole = scan(dataset, tmp_path / "whole", **options)
    assert result.scores_path.read_bytes() == whole.scores_path.read_bytes()


@pytest.mark.parametrize("stop_after", [1, 9, 22])
def test_stopped_by_ctrl_c_it_resumes_to_the_same_bytes(
    tmp_path: Path, tiny_folder: Path, anchors_file: Path, stop_after: int
) -> None:
    dataset = write_jsonl(tmp_path / "rows.jsonl", good_rows(22))
    options = options_for(tiny_folder, anchors_file)
    with pytest.raises(KeyboardInterrupt):
        scan(dataset, tmp_path / "stopped", progress=Counting(stop_after), **options)
    assert not (tmp_path / "stopped" / "scores.parquet").exists()
    resumed = scan(dataset, tmp_path / "stopped", **options)
    whole = scan(dataset, tmp_path / "whole", **options)
    assert resumed.scores_path.read_bytes() == whole.scores_path.read_bytes()


def test_a_finished_scan_given_again_computes_nothing(
    rows_file: Path, tmp_path: Path, tiny_folder: Path, anchors_file: Path
) -> None:
    options = options_for(tiny_folder, anchors_file)
    first = scan(rows_file, tmp_path / "out", **options)
    before = first.scores_path.read_bytes()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "signals").iterdir()}
    told = Counting()
    again = scan(rows_file, tmp_path / "out", progress=told, **options)
    assert (told.computed, told.found) == (0, 12)
    assert again.scores_path.read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "signals").iterdir()} == times
    assert again.manifest.timings == first.manifest.timings
    assert again.manifest.peak_memory_bytes == first.manifest.peak_memory_bytes
    assert [getattr(again.manifest, key) for key in ("started", "finished", "versions", "machine")] == [
        getattr(first.manifest, key) for key in ("started", "finished", "versions", "machine")
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"position": "last_content"}, "its position is 'last', now 'last_content'"),
        ({"signals": "gradient"}, "its signals is 'all', now 'gradient'"),
        ({"token_budget": 256}, "its token_budget is 512, now 256"),
        ({"dtype": "bfloat16"}, "its dtype is 'float32', now 'bfloat16'."),
        ({"anchors": "builtin"}, "its anchors had other content than now"),
        ({"limit": 5}, "its limit is None, now 5"),
    ],
    ids=str,
)
def test_another_option_in_the_same_folder_is_refused_by_name(
    finished: Path, tiny_folder: Path, anchors_file: Path, changes: dict[str, Any], said: str
) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*.*") if path.is_file()}
    with pytest.raises(RipcurrentError) as caught:
        scan(finished.parent / "rows.jsonl", finished, **{**options_for(tiny_folder, anchors_file), **changes})
    assert said in caught.value.message
    assert "--out" in caught.value.hint
    assert {path: path.read_bytes() for path in finished.rglob("*.*") if path.is_file()} == before


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, anchors_file: Path) -> Path:
    """A finished scan's folder, its dataset beside it."""
    folder = tmp_path_factory.mktemp("finished")
    dataset = write_jsonl(folder / "rows.jsonl", good_rows(8))
    scan(dataset, folder / "out", **options_for(tiny_folder, anchors_file))
    return folder / "out"


def test_a_changed_dataset_is_refused(finished: Path, tmp_path: Path, tiny_folder: Path, anchors_file: Path) -> None:
    rows = good_rows(8)
    rows[3]["response"] += "!"
    changed = write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(RipcurrentError, match="holds another run: its dataset had other content than now"):
        scan(changed, finished, **options_for(tiny_folder, anchors_file))


def test_a_dataset_that_changes_while_it_is_scanned_is_refused(
    tmp_path: Path, tiny_folder: Path, anchors_file: Path
) -> None:
    dataset, rows = write_jsonl(tmp_path / "rows.jsonl", good_rows(8)), good_rows(8)
    rows[5]["response"] += "!"

    class Edits(SilentProgress):
        def rows(self, count: int) -> None:
            write_jsonl(dataset, rows)

    with pytest.raises(RipcurrentError, match="no longer what it was when the scan began") as caught:
        scan(dataset, tmp_path / "out", progress=Edits(), **options_for(tiny_folder, anchors_file))
    assert "another --out" in caught.value.hint
    assert not (tmp_path / "out" / "scores.parquet").exists()
    # put back, the same command scores every row anew: which were of the other content is not known
    write_jsonl(dataset, good_rows(8))
    told = Counting()
    found = scan(dataset, tmp_path / "out", progress=told, **options_for(tiny_folder, anchors_file))
    assert (told.found, told.computed) == (0, 8)
    assert found.status_counts() == {"ok": 8}


def rewritten(dataset: Path) -> None:
    write_jsonl(dataset, [{**row, "response": "Other."} for row in good_rows(12)])


@pytest.mark.parametrize(
    ("touch", "kept"),
    # shards of the other content go; that it cannot be read for a while costs none
    [(rewritten, 0), (lambda dataset: dataset.unlink(missing_ok=True), 8)],
    ids=["changed", "gone"],
)
def test_who_stops_a_scan_of_a_dataset_that_they_changed_keeps_no_shard_of_it(
    tmp_path: Path, tiny_folder: Path, anchors_file: Path, touch: Callable[[Path], None], kept: int
) -> None:
    dataset = write_jsonl(tmp_path / "rows.jsonl", good_rows(12))

    class Stopped(Counting):
        def rows(self, count: int) -> None:
            touch(dataset)
            super().rows(count)

    options = options_for(tiny_folder, anchors_file)
    with pytest.raises(KeyboardInterrupt):
        scan(dataset, tmp_path / "out", progress=Stopped(stop_after=9), **options)
    write_jsonl(dataset, good_rows(12))
    told = Counting()
    scan(dataset, tmp_path / "out", progress=told, **options)
    assert (told.found, told.computed) == (kept, 12 - kept)


def test_the_same_dataset_and_model_moved_elsewhere_go_on(
    finished: Path, tmp_path: Path, tiny_folder: Path, anchors_file: Path
) -> None:
    moved = write_jsonl(tmp_path / "other name.jsonl", good_rows(8))
    told = Counting()
    scan(moved, finished, progress=told, **options_for(tiny_folder, anchors_file))
    assert told.computed == 0


def test_after_anchors_that_did_not_separate_the_hint_works_in_the_same_folder(
    tmp_path: Path, tiny_folder: Path, rows_file: Path
) -> None:
    options = {**EXACT, "model": str(tiny_folder), "signals": "representation", "anchor_check": True}
    with pytest.raises(RipcurrentError, match="do not separate harm from safety") as caught:
        scan(rows_file, tmp_path / "out", **options)
    assert "--no-anchor-check" in caught.value.hint
    assert scan(rows_file, tmp_path / "out", **{**options, "anchor_check": False}).status_counts() == {"ok": 12}


def test_a_folder_where_another_scan_is_at_work_is_refused(
    tmp_path: Path, tiny_folder: Path, anchors_file: Path, rows_file: Path
) -> None:
    options = options_for(tiny_folder, anchors_file, signals="representation")
    with RunFolder(tmp_path / "out", {}), pytest.raises(RipcurrentError, match="Another run is at work"):
        scan(rows_file, tmp_path / "out", **options)


def test_scans_that_need_the_same_directions_at_once_compute_them_once(
    tmp_path: Path, tiny_folder: Path, anchors_file: Path, rows_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "cache"))
    told = [Counting(), Counting()]
    failures: list[BaseException] = []
    # transformers itself does not load models in two threads at once; users' scans are processes
    loading = threading.Lock()

    def load_alone(*names: Any, **options: Any) -> Any:
        with loading:
            return load_model(*names, **options)

    monkeypatch.setattr(import_module("ripcurrent.scan._scan_model"), "load_model", load_alone)

    def one(number: int) -> None:
        try:
            scan(rows_file, tmp_path / f"out{number}", progress=told[number], **options_for(tiny_folder, anchors_file))
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=one, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert sorted("direction of harmful" in counting.steps for counting in told) == [False, True]
    one_file, other = ((tmp_path / f"out{number}" / "scores.parquet").read_bytes() for number in range(2))
    assert one_file == other


@pytest.mark.parametrize("lost", ["measured.json", "harmful.safetensors"], ids=["killed scan", "cleaner"])
def test_a_cache_of_which_a_part_is_missing_is_completed(
    tmp_path: Path, tiny_folder: Path, anchors_file: Path, rows_file: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "cache"))
    options = options_for(tiny_folder, anchors_file)
    whole = scan(rows_file, tmp_path / "a", **options)
    (folder,) = (tmp_path / "cache" / "directions").iterdir()
    (folder / lost).unlink()
    if lost == "measured.json":
        (folder / "harmful.safetensors").write_bytes(b"torn")
    again = scan(rows_file, tmp_path / "b", **options)
    assert again.scores_path.read_bytes() == whole.scores_path.read_bytes()


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, tiny_folder: Path, anchors_file: Path, rows_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(RipcurrentError, match=r"directions cannot be kept in .*Not a directory.*\n.*RIPCURRENT_CACHE"):
        scan(rows_file, tmp_path / "out", **options_for(tiny_folder, anchors_file))
