"""A scan by Ray's workers on this machine: what one process leaves, also when a worker is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from ripcurrent.data import read_rows
from ripcurrent.errors import RipcurrentError
from ripcurrent.progress import SilentProgress
from ripcurrent.scan._execution import Execution, OpenRows, _absolute_paths
from ripcurrent.scan._ray import ALONE, RayExecutor
from ripcurrent.scan._scan import ScanResult, scan
from tests.tiny_scan import good_rows, rows_with_a_gap, small_shards, write_jsonl

# read when Ray is first imported, which is here
os.environ.update(ALONE)
pytest.importorskip("ray")
pytestmark = pytest.mark.usefixtures("no_page")

ROWS = 40
ONE, TWO = (Execution("ray", workers=workers) for workers in (1, 2))


@pytest.fixture(scope="module", autouse=True)
def one_ray(shared_cache: Path) -> Iterator[None]:
    """One Ray for the module's scans, which leave a Ray alone that they did not start."""
    with RayExecutor(workers=2) as executor:
        executor.put(np.zeros(1))
        yield


@pytest.fixture(scope="module")
def options(tiny_folder: Path, anchors_file: Path) -> dict[str, Any]:
    return small_shards(tiny_folder, anchors_file)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("rows") / "rows.jsonl", rows_with_a_gap(ROWS))


@pytest.fixture
def alone(tmp_path: Path, dataset: Path, options: dict[str, Any]) -> ScanResult:
    """The scan by this process."""
    return scan(dataset, tmp_path / "alone", **options)


def workers() -> list[psutil.Process]:
    """Ray's processes that hold a stage, below this process."""
    below = psutil.Process().children(recursive=True)
    return [process for process in below if any("MapWorker" in word for word in process.cmdline()[:1])]


class KillAtFirstRows(SilentProgress):
    """Kill -9 one of two workers when the first rows are reported."""

    def __init__(self) -> None:
        self.killed: list[int] = []
        self.reported = 0

    def rows(self, rows: int) -> None:
        """Rows were done."""
        self.reported += rows
        if not self.killed:
            victim = workers()[0]
            os.kill(victim.pid, signal.SIGKILL)
            self.killed.append(victim.pid)


def same_scores(one: ScanResult, other: ScanResult) -> None:
    """The same rows, ids, order and statuses; numbers to float32's rounding."""
    first, second = pq.read_table(one.scores_path), pq.read_table(other.scores_path)
    assert first.schema.equals(second.schema)
    for name in first.column_names:
        left, right = first[name], second[name]
        if str(left.type) in ("double", "float"):
            assert np.allclose(left.to_numpy(), right.to_numpy(), rtol=1e-4, atol=2e-5, equal_nan=True), name
        else:
            assert left.equals(right), name


def test_two_workers_leave_what_one_process_leaves_though_one_is_killed(
    tmp_path: Path, dataset: Path, options: dict[str, Any], alone: ScanResult
) -> None:
    progress = KillAtFirstRows()
    result = scan(dataset, tmp_path / "ray", execution=TWO, progress=progress, **options)
    assert progress.killed
    assert progress.reported == ROWS
    assert result.status_counts == alone.status_counts == {"ok": ROWS - 1, "no_response": 1}
    assert result.manifest["timings"]["rows_scored_in_this_call"] == ROWS
    assert result.manifest["memory"]["batches_halved"] == 0
    peaks = result.manifest["execution"]["worker_peak_bytes"]
    assert peaks
    assert all(peak > 10**8 for peak in peaks.values())
    same_scores(result, alone)
    again = scan(dataset, tmp_path / "ray", **options)
    assert again.manifest["timings"]["rows_scored_in_this_call"] == ROWS, "resumed without computing"
    # and the other way round: Ray goes on where one process stopped
    for number in (3, 8):
        (alone.folder / "signals" / f"shard-{number:05d}.done").unlink()
    resumed = scan(dataset, alone.folder, execution=TWO, **options)
    assert resumed.manifest["timings"]["rows_scored_in_this_call"] == 8
    same_scores(resumed, result)


def test_a_column_for_each_anchor_comes_from_workers_too(
    tmp_path: Path, dataset: Path, options: dict[str, Any]
) -> None:
    each = {**options, "per_anchor": True, "limit": 10, "dtype": "bfloat16"}
    here, there = (
        scan(dataset, tmp_path / name, execution=execution, **each)
        for name, execution in (("here", None), ("there", ONE))
    )
    first, second = here.scores(), there.scores()
    assert "gradient_to_harmful_00" in first.column_names
    assert first.column_names == second.column_names
    for name in (name for name in first.column_names if name.startswith("gradient_to_")):
        assert np.allclose(first[name].to_numpy(), second[name].to_numpy(), atol=2e-2, equal_nan=True), name


def test_a_prefilter_runs_both_of_its_passes_in_workers(tmp_path: Path, options: dict[str, Any]) -> None:
    dataset = write_jsonl(tmp_path / "rows.jsonl", rows_with_a_gap(150))
    how = {**options, "prefilter": "20%", "shard_rows": 16, "prefilter_sample": 100}
    here, there = (
        scan(dataset, tmp_path / name, execution=execution, **how)
        for name, execution in (("here", None), ("there", ONE))
    )
    same_scores(there, here)
    assert there.manifest["prefilter"]["passed"] == here.manifest["prefilter"]["passed"] == 30


def test_documents_in_windows_behind_a_prefilter_come_from_workers(tmp_path: Path, options: dict[str, Any]) -> None:
    texts = [f"{row['prompt']} {row['response']} " * (1 + number % 3) for number, row in enumerate(good_rows(120))]
    dataset = write_jsonl(tmp_path / "documents.jsonl", [{"text": text} for text in texts])
    how = {**options, "windows": True, "max_tokens": 48, "prefilter": "20%", "shard_rows": 16, "prefilter_sample": 100}
    here, there = (
        scan(dataset, tmp_path / name, execution=execution, **how)
        for name, execution in (("here", None), ("there", TWO))
    )
    same_scores(there, here)
    windows = [pq.read_table(result.folder / "windows.parquet") for result in (here, there)]
    assert windows[0].select(["row", "window", "tokens"]).equals(windows[1].select(["row", "window", "tokens"]))
    name = "gradient_bidirectional"
    assert np.allclose(windows[0][name].to_numpy(), windows[1][name].to_numpy(), atol=2e-5, equal_nan=True)


def test_what_needs_one_process_is_refused(tmp_path: Path, dataset: Path, options: dict[str, Any]) -> None:
    with pytest.raises(RipcurrentError, match="--memory does not go with --executor ray"):
        scan(dataset, tmp_path / "out", execution=TWO, memory="8GB", **options)


def test_the_embedded_models_name_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("embedded", "mine"):
        (tmp_path / name).mkdir()
    assert _absolute_paths({"name": "embedded", "adapter": "mine"}) == {
        "name": "embedded", "adapter": str(tmp_path / "mine")
    }  # fmt: skip
    assert _absolute_paths({"name": "mine", "adapter": None}) == {"name": str(tmp_path / "mine"), "adapter": None}


def test_another_file_elsewhere_is_no_row(tmp_path: Path) -> None:
    """A worker's own machine may have other rows under the same path."""
    dataset = write_jsonl(tmp_path / "rows.jsonl", good_rows(6))
    rows = read_rows(dataset)
    opened = OpenRows(str(dataset), sampled=rows.sampled_hash())
    assert [row.index for row in opened(2)] == [2, 3, 4, 5]
    write_jsonl(dataset, good_rows(7)[1:])
    with pytest.raises(RipcurrentError, match=r"rows\.jsonl is another file than where the scan was started"):
        opened(2)
