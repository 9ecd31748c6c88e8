"""A scan that was stopped goes on where it was and ends with the same file; what is finished stays."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from ripcurrent.errors import RipcurrentError
from ripcurrent.models import load_model
from ripcurrent.progress import SilentProgress
from ripcurrent.scan import ScanRun, _scan, _tokens, scan
from tests.models.tiny import save_tiny
from tests.scan_fixtures import good_rows, small_shards, write_jsonl


class Counting(SilentProgress):
    """Counts rows computed and rows found done, and stops the scan when told to."""

    computed = found = 0

    def __init__(self, stop_after: int = 10**9) -> None:
        self.steps: list[str] = []
        self._stop_after = stop_after

    def step(self, name: str) -> None:
        self.steps.append(name)

    def rows(self, count: int) -> None:
        self.computed += count
        if self.computed >= self._stop_after:
            raise KeyboardInterrupt

    def skipped(self, count: int) -> None:
        self.found += count


def options_for(model: Path, anchors: Path, **changes: Any) -> dict[str, Any]:
    return small_shards(model, anchors) | changes


@pytest.mark.parametrize("stop_after", [1, 9, 22])
def test_stopped_by_ctrl_c_it_resumes_to_the_same_bytes(tmp_path, small_options, stop_after):
    dataset, out = write_jsonl(tmp_path / "rows.jsonl", good_rows(22)), tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        scan(dataset, out, progress=Counting(stop_after), **small_options)
    assert not (out / "scores.parquet").exists()
    assert not (out / "manifest.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in (out / "signals").glob("*.parquet")}
    # as if it had died while writing, too
    (out / "signals").mkdir(exist_ok=True)
    (out / "signals" / f"shard-{len(kept):05d}.parquet.part").write_bytes(b"PAR1 torn")
    told = Counting()
    resumed = scan(dataset, out, progress=told, **small_options)
    assert (told.found, told.computed) == (4 * len(kept), 22 - 4 * len(kept))
    assert resumed.manifest.timings["rows_scored_in_this_call"] == told.computed
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert not list(out.rglob("*.part"))
    whole = scan(dataset, tmp_path / "whole", **small_options)
    assert resumed.scores_path.read_bytes() == whole.scores_path.read_bytes()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, small_options: dict[str, Any]) -> ScanRun:
    """A finished scan, its dataset beside it."""
    folder = tmp_path_factory.mktemp("finished")
    return scan(write_jsonl(folder / "rows.jsonl", good_rows(8)), folder / "out", **small_options)


def contents(folder: Path) -> dict[Path, tuple[int, bytes]]:
    files = [path for path in folder.rglob("*.*") if path.is_file() and path.suffix not in (".json", ".lock")]
    return {
        path: (0 if path.name == "scores.parquet" else path.stat().st_mtime_ns, path.read_bytes()) for path in files
    }


def test_a_finished_scan_given_again_computes_nothing(finished, small_options):
    before, told = contents(finished.folder), Counting()
    again = scan(finished.folder.parent / "rows.jsonl", finished.folder, progress=told, **small_options)
    assert (told.computed, told.found) == (0, 8)
    assert contents(finished.folder) == before
    assert again.manifest == finished.manifest


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"position": "last_content"}, "its position is 'last', now 'last_content'"),
        ({"signals": "gradient"}, "its signals is 'all', now 'gradient'"),
        ({"token_budget": 256}, "its token_budget is 512, now 256"),
        ({"dtype": "bfloat16"}, "its dtype is 'float32', now 'bfloat16'."),
        ({"anchors": "builtin"}, "its anchors had other content than now"),
        ({"limit": 5}, "its limit is None, now 5"),
        ({"dataset": [*good_rows(7), {"prompt": "And", "response": "now?"}]}, "its dataset had other content than now"),
    ],
    ids=str,
)
def test_another_option_or_dataset_in_the_same_folder_is_refused_by_name(
    finished, small_options, tmp_path, changes, said
):
    before, dataset = contents(finished.folder), finished.folder.parent / "rows.jsonl"
    if "dataset" in changes:
        dataset, changes = write_jsonl(tmp_path / "rows.jsonl", changes["dataset"]), {}
    with pytest.raises(RipcurrentError) as caught:
        scan(dataset, finished.folder, **{**small_options, **changes})
    assert said in caught.value.message
    assert "--out" in caught.value.hint
    assert contents(finished.folder) == before


def rewritten(dataset: Path) -> None:
    write_jsonl(dataset, [{**row, "response": "Other."} for row in good_rows(12)])


@pytest.mark.parametrize(
    ("touch", "stop_after", "ends", "kept"),
    [
        (rewritten, 99, RipcurrentError, 0),
        (rewritten, 9, KeyboardInterrupt, 0),
        # that it cannot be read for a while costs nothing
        (lambda dataset: dataset.unlink(missing_ok=True), 9, KeyboardInterrupt, 8),
    ],
    ids=["changed", "changed and stopped", "gone and stopped"],
)
def test_of_a_dataset_that_changes_while_it_is_scanned_no_shard_is_kept(
    touch, stop_after, ends, kept, tmp_path, small_options
):
    dataset, told = write_jsonl(tmp_path / "rows.jsonl", good_rows(12)), Counting()

    class Edits(Counting):
        def rows(self, count: int) -> None:
            touch(dataset)
            super().rows(count)

    with pytest.raises(ends) as caught:
        scan(dataset, tmp_path / "out", progress=Edits(stop_after), **small_options)
    if isinstance(caught.value, RipcurrentError):
        assert "no longer what it was when the scan began" in caught.value.message
        assert "another --out" in caught.value.hint
    assert not (tmp_path / "out" / "scores.parquet").exists()
    # put back, the same command scores again what may be of the other content
    write_jsonl(dataset, good_rows(12))
    found = scan(dataset, tmp_path / "out", progress=told, **small_options)
    assert (told.found, told.computed) == (kept, 12 - kept)
    assert found.status_counts() == {"ok": 12}


def test_token_shares_that_run_out_of_memory_name_their_row(rows_file, small_options, tmp_path, monkeypatch):
    monkeypatch.setattr(_tokens, "_shares", lambda *arguments: (_ for _ in ()).throw(MemoryError("out of memory")))
    with pytest.raises(RipcurrentError, match=r"The token shares of row \d+ do not fit into memory"):
        scan(rows_file, tmp_path / "out", tokens="top:2", **small_options)
    # the scores are there
    assert ScanRun.open(tmp_path / "out").ranked().size


def test_scans_that_need_the_same_directions_at_once_compute_them_once(tmp_path, small_options, rows_file, monkeypatch):
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "cache"))
    told = [Counting(), Counting()]
    # transformers itself does not load models in two threads at once; users' scans are processes
    loading = threading.Lock()

    def load_alone(*names: Any, **options: Any) -> Any:
        with loading:
            return load_model(*names, **options)

    monkeypatch.setattr(import_module("ripcurrent.scan._scan_model"), "load_model", load_alone)

    def one(number: int) -> bytes:
        run = scan(rows_file, tmp_path / f"out{number}", progress=told[number], **small_options)
        return run.scores_path.read_bytes()

    with ThreadPoolExecutor(2) as both:
        first, second = both.map(one, range(2))
    assert sorted("direction of harmful" in counting.steps for counting in told) == [False, True]
    assert first == second


@pytest.mark.parametrize("lost", ["measured.json", "harmful.safetensors"], ids=["killed scan", "cleaner"])
def test_a_cache_of_which_a_part_is_missing_is_completed(tmp_path, small_options, rows_file, monkeypatch, lost):
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "cache"))
    whole = scan(rows_file, tmp_path / "a", **small_options)
    (folder,) = (tmp_path / "cache" / "directions").iterdir()
    (folder / lost).unlink()
    if lost == "measured.json":
        (folder / "harmful.safetensors").write_bytes(b"torn")
    again = scan(rows_file, tmp_path / "b", **small_options)
    assert again.scores_path.read_bytes() == whole.scores_path.read_bytes()


def test_a_cache_that_is_cleaned_while_rows_are_scored_loses_none(rows_file, anchors_file, tmp_path, monkeypatch):
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "cache"))
    how = options_for(save_tiny(tmp_path / "model", "llama_tied", seed=5), anchors_file)
    run_shards = _scan.run_shards

    def cleaned(*arguments: Any) -> Any:
        computed = run_shards(*arguments)
        shutil.rmtree(tmp_path / "cache" / "directions")
        return computed

    with monkeypatch.context() as patch:
        patch.setattr(_scan, "run_shards", cleaned)
        run = scan(rows_file, tmp_path / "run", **how)
        assert run.status_counts()["ok"]
        # what needs them once more says what to do
        with pytest.raises(RipcurrentError, match="the cache was cleaned while it was needed"):
            scan(rows_file, tmp_path / "run", **how, tokens="top:2")
    assert (tmp_path / "run" / "anchors" / "directions.json").is_file()
    assert scan(rows_file, tmp_path / "run", **how, tokens="top:2").manifest.tokens
