"""A scan in parts: each beside the others, and together exactly what one process leaves."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ripcurrent.errors import RipcurrentError
from ripcurrent.progress import SilentProgress
from ripcurrent.runs import RunFolder, read_config, read_manifest
from ripcurrent.scan._memory import parse_size, plan_path, read_plan
from ripcurrent.scan._merge import merge_parts
from ripcurrent.scan._part import Part
from ripcurrent.scan._prefilter import read_picked
from ripcurrent.scan._scan import ScanResult, scan, scan_part
from tests.scan_fixtures import without_page
from tests.tiny_scan import rows_with_a_gap, small_shards, write_jsonl

OF = 3
ROWS = 22

PART = """
import json, sys
from ripcurrent.scan._scan import scan_part
from ripcurrent.scan._part import Part

dataset, out, options, index, of = sys.argv[1:]
scan_part(dataset, Part(int(index), int(of)), out, **json.loads(options))
"""


@pytest.fixture(scope="module")
def options(tiny_folder: Path, anchors_file: Path) -> dict[str, Any]:
    return small_shards(tiny_folder, anchors_file)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("rows") / "rows.jsonl", rows_with_a_gap(ROWS))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, dataset: Path, options: dict[str, Any]) -> ScanResult:
    """The scan by one process, with its page."""
    return scan(dataset, tmp_path_factory.mktemp("whole") / "rows", **options)


def run_parts(dataset: Path, out: Path, options: dict[str, Any], but: tuple[int, ...] = (), of: int = OF) -> None:
    for index in range(of):
        if index not in but:
            scan_part(dataset, Part(index, of), out, **options)


def facts_of_the_page(result: ScanResult) -> str:
    """The page without what may differ between two runs: times, memory, and which parts there were."""
    text = result.report_path.read_text(encoding="utf-8")
    shorn, footers = re.subn(r"<footer.*?</footer>", "", text, flags=re.S)
    assert footers == 1
    return re.sub(r"\d+ \w+ 20\d\d, \d\d:\d\d UTC", "", shorn)


def same_selection(one: ScanResult, two: ScanResult) -> None:
    from ripcurrent.select_old._select import select

    chosen = [select(result.folder, top=5, name="top")[0].selection.indices for result in (one, two)]
    assert len(chosen[0]) == 5
    assert chosen[0] == chosen[1]


def test_processes_side_by_side_in_one_folder_merge_to_the_same_bytes(
    tmp_path: Path, dataset: Path, options: dict[str, Any], whole: ScanResult
) -> None:
    out = tmp_path / "rows"
    arguments = [str(dataset), str(out), json.dumps(options)]
    running = [
        subprocess.Popen([sys.executable, "-c", PART, *arguments, str(index), "2"], stderr=subprocess.PIPE)
        for index in range(2)
    ]
    said = [process.communicate(timeout=300)[1].decode() for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert not (out / "scores.parquet").exists()
    merged = merge_parts([out])
    assert merged.scores_path.read_bytes() == whole.scores_path.read_bytes()
    assert merged.status_counts == whole.status_counts == {"ok": ROWS - 1, "no_response": 1}
    assert facts_of_the_page(merged) == facts_of_the_page(whole)
    same_selection(merged, whole)
    assert [part["part"] for part in merged.manifest["parts"]] == ["0/2", "1/2"]
    assert merged.manifest["timings"]["rows_scored_in_this_call"] == ROWS
    ours, theirs = read_manifest(merged.folder), read_manifest(whole.folder)
    kept = {key for key in theirs if key not in ("timings", "started", "finished", "peak_memory_bytes")}
    assert {key: ours[key] for key in kept} == {key: theirs[key] for key in kept}
    assert (out / "anchors" / "directions.json").read_bytes() == (
        whole.folder / "anchors" / "directions.json"
    ).read_bytes()
    assert not list(out.rglob("*.part"))


@pytest.mark.usefixtures("no_merged_page")
def test_folders_of_their_own_merge_to_the_same_bytes(
    tmp_path: Path, dataset: Path, options: dict[str, Any], whole: ScanResult
) -> None:
    folders = [tmp_path / f"part{index}" for index in range(OF)]
    for index, folder in enumerate(folders):
        scan_part(dataset, Part(index, OF), folder, **options)
    with pytest.raises(RipcurrentError, match=r"3 run folders are to become one\.\nName the folder .* --out"):
        merge_parts(folders)
    with pytest.raises(RipcurrentError, match=r"is not whole: part 1/3 is missing \(4 of 6 shards are there\)"):
        merge_parts([folders[0], folders[2]], tmp_path / "merged")
    merged = merge_parts(folders, tmp_path / "merged")
    assert merged.scores_path.read_bytes() == whole.scores_path.read_bytes()
    # the parts' own folders are as they were
    assert not any((folder / "scores.parquet").exists() for folder in folders)


@pytest.mark.usefixtures("no_page", "no_merged_page")
def test_a_missing_part_is_named_and_the_whole_scan_computes_just_that(
    tmp_path: Path, dataset: Path, options: dict[str, Any], whole: ScanResult
) -> None:
    out = tmp_path / "rows"
    run_parts(dataset, out, options, but=(1, 2))
    with pytest.raises(RipcurrentError) as caught:
        merge_parts([out])
    assert "parts 1/3 and 2/3 are missing (2 of 6 shards are there)" in caught.value.message
    assert "--shard 1/3" in caught.value.hint
    run_parts(dataset, out, options, but=(0, 1))
    result = scan(dataset, out, **options)
    assert result.manifest["timings"]["rows_scored_in_this_call"] == 8
    assert result.scores_path.read_bytes() == whole.scores_path.read_bytes()
    assert merge_parts([out]).scores_path.read_bytes() == whole.scores_path.read_bytes()


@pytest.mark.usefixtures("no_merged_page")
@pytest.mark.parametrize("grows", [False, True], ids=["another row", "one more row"])
def test_a_part_whose_dataset_changed_is_not_merged(tmp_path: Path, options: dict[str, Any], grows: bool) -> None:
    dataset = write_jsonl(tmp_path / "rows.jsonl", rows_with_a_gap(ROWS))
    scan_part(dataset, Part(0, 2), tmp_path / "out", **options)

    class Edits(SilentProgress):
        def rows(self, count: int) -> None:
            rows = rows_with_a_gap(ROWS + grows)
            rows[ROWS - 1]["response"] += "!"
            write_jsonl(dataset, rows)

    with pytest.raises(RipcurrentError, match="It changed while it was scanned"):
        scan_part(dataset, Part(1, 2), tmp_path / "out", progress=Edits(), **options)
    # not even the last shard before the one that was found to be of another size
    assert len(list((tmp_path / "out" / "signals").glob("shard-*"))) == 2 * len(Part(0, 2).shards(6))
    with pytest.raises(RipcurrentError, match="part 1/2 is missing"):
        merge_parts([tmp_path / "out"])


@pytest.mark.usefixtures("no_page", "no_merged_page")
def test_a_part_given_again_computes_nothing_and_a_lost_shard_is_named_by_its_part(
    tmp_path: Path, dataset: Path, options: dict[str, Any]
) -> None:
    out = tmp_path / "rows"
    run_parts(dataset, out, options)
    before = (out / "parts" / "1-of-3.json").read_bytes()
    assert scan_part(dataset, Part(1, 3), out, **options).rows_scored_in_this_call == 0
    assert (out / "parts" / "1-of-3.json").read_bytes() == before
    (out / "signals" / "shard-00003.parquet").unlink()
    with pytest.raises(RipcurrentError, match=r"part 1/3 is missing \(5 of 6"):
        merge_parts([out])
    again = scan_part(dataset, Part(1, 3), out, **options)
    assert (again.rows, again.rows_scored_in_this_call) == (8, 4)
    assert merge_parts([out]).status_counts == {"ok": ROWS - 1, "no_response": 1}


@pytest.mark.usefixtures("no_merged_page")
def test_more_parts_than_shards_and_columns_for_each_anchor(
    tmp_path: Path, dataset: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("ripcurrent.scan._scan"), "build_report", lambda folder: folder)
    all_options = {**options, "per_anchor": True, "shard_rows": 16}
    alone = scan(dataset, tmp_path / "alone", **all_options)
    run_parts(dataset, tmp_path / "parts", all_options)
    merged = merge_parts([tmp_path / "parts"])
    assert merged.scores_path.read_bytes() == alone.scores_path.read_bytes()
    assert "gradient_to_harmful_00" in merged.scores().column_names


def test_what_is_at_work_in_the_folder_is_not_stepped_on(
    tmp_path: Path, dataset: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ripcurrent.runs.PATIENCE", 0.05)
    out = tmp_path / "rows"
    scan_part(dataset, Part(0, 3), out, **options)
    config = read_config(out)
    with RunFolder(out, config, part="0/3"):
        with pytest.raises(RipcurrentError, match="Part 0/3 is already at work"):
            scan_part(dataset, Part(0, 3), out, **options)
        with pytest.raises(RipcurrentError, match=r"Part 0/3 is at work in .*, and 1/4 cuts the rows differently"):
            scan_part(dataset, Part(1, 4), out, **options)
        for whole_run in (lambda: merge_parts([out]), lambda: scan(dataset, out, **options)):
            with pytest.raises(RipcurrentError, match="Part 0/3 of this run is still at work"):
                whole_run()
        scan_part(dataset, Part(1, 3), out, **options)
    with RunFolder(out, config), pytest.raises(RipcurrentError, match="Another run is at work"):
        scan_part(dataset, Part(2, 3), out, **options)


def test_a_part_at_work_keeps_its_folder_from_another_scan(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "out", {"position": "last"}, part="0/2"):
        with pytest.raises(RipcurrentError, match="its position is 'last', now 'last_content'"):
            RunFolder(tmp_path / "out", {"position": "last_content"}, part="1/2").__enter__()
        with RunFolder(tmp_path / "out", {"position": "last"}, part="1/2"):
            pass
    # without a result and with nobody at work it is taken over
    with RunFolder(tmp_path / "out", {"position": "last_content"}, part="1/2"):
        assert read_config(tmp_path / "out") == {"position": "last_content"}


@pytest.mark.usefixtures("no_merged_page")
def test_parts_of_different_scans_are_not_merged(tmp_path: Path, dataset: Path, options: dict[str, Any]) -> None:
    cheap = {**options, "signals": "representation"}
    scan_part(dataset, Part(0, 2), tmp_path / "a", **cheap)
    scan_part(dataset, Part(1, 2), tmp_path / "b", **{**cheap, "position": "last_content"})
    with pytest.raises(RipcurrentError, match="parts of different scans: its position is 'last', now 'last_content'"):
        merge_parts([tmp_path / "a", tmp_path / "b"], tmp_path / "merged")
    shutil.rmtree(tmp_path / "b" / "parts")
    with pytest.raises(RipcurrentError, match="b holds no finished part of a scan"):
        merge_parts([tmp_path / "b"])
    with pytest.raises(RipcurrentError, match=r"nowhere holds no run \(there is no config.yaml\)"):
        merge_parts([tmp_path / "nowhere"])


def test_a_calibration_of_the_package_is_known_by_name(tmp_path: Path) -> None:
    with pytest.raises(RipcurrentError, match="holds no run"):
        merge_parts([tmp_path], forecast="embedded")


def test_what_needs_all_rows_is_refused(tmp_path: Path, dataset: Path, options: dict[str, Any]) -> None:
    with pytest.raises(RipcurrentError, match="--tokens does not go with --shard"):
        scan_part(dataset, Part(0, 2), tmp_path / "out", tokens="top:5", **options)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def many(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "rows.jsonl", rows_with_a_gap(150))


PICKING = {"prefilter": "20%", "prefilter_sample": 100, "shard_rows": 16}


@pytest.mark.parametrize("change", [{}, {"limit": 130, "prefilter_sample": 120, "shard_rows": 48}], ids=str)
def test_a_prefilter_picks_from_all_parts_rows(
    tmp_path: Path, many: Path, options: dict[str, Any], change: dict[str, Any]
) -> None:
    dataset, how = many, {**options, **PICKING, **change}
    whole = scan(dataset, tmp_path / "whole", **how)
    out = tmp_path / "parts"
    first = [scan_part(dataset, Part(index, OF), out, **how) for index in range(OF)]
    assert [part.waits for part in first] == [True, True, False]
    # nobody but the last part could know what is picked, so the others' gradients are missing
    with pytest.raises(RipcurrentError, match=r"parts 0/3 and 1/3 are missing \(\d of \d shards of the gradient pass"):
        merge_parts([out])
    again = [scan_part(dataset, Part(index, OF), out, **how) for index in range(OF)]
    assert not any(part.waits for part in again)
    assert [part.rows for part in again] == [part.rows for part in first]
    assert again[2].rows_scored_in_this_call == 0
    merged = merge_parts([out])
    # a part's record is of both its rounds: every row once in the first pass, every picked one in the second
    picked = read_picked(out / "signals" / "gradient" / "picked.npz")
    rows = whole.manifest["dataset"]["rows"]
    assert merged.manifest["timings"]["rows_scored_in_this_call"] == rows + len(picked.rows)
    assert merged.scores_path.read_bytes() == whole.scores_path.read_bytes()
    assert merged.manifest["prefilter"] == whole.manifest["prefilter"]
    assert facts_of_the_page(merged) == facts_of_the_page(whole)
    # the whole scan over the parts' folder computes nothing
    with without_page():
        assert scan(dataset, out, **how).manifest["prefilter"] == whole.manifest["prefilter"]


@pytest.mark.usefixtures("no_merged_page")
def test_a_prefilter_in_folders_of_their_own_never_sees_all_rows(
    tmp_path: Path, many: Path, options: dict[str, Any]
) -> None:
    dataset, how = many, {**options, **PICKING}
    for index in range(2):
        assert scan_part(dataset, Part(index, 2), tmp_path / f"part{index}", **how).waits
    with pytest.raises(RipcurrentError, match=r"parts 0/2 and 1/2 are missing \(0 of \d shards of the gradient pass"):
        merge_parts([tmp_path / "part0", tmp_path / "part1"], tmp_path / "merged")
    # as the error says, what they have in common goes on from there
    again = [scan_part(dataset, Part(index, 2), tmp_path / "merged", **how) for index in range(2)]
    assert not any(part.waits for part in again)
    assert merge_parts([tmp_path / "merged"]).status_counts


@pytest.mark.usefixtures("no_page", "no_merged_page")
def test_each_part_keeps_a_budget_of_its_own(
    tmp_path: Path, dataset: Path, options: dict[str, Any], whole: ScanResult
) -> None:
    out = tmp_path / "rows"
    for index, memory in enumerate(("64GB", "65GB")):
        scan_part(dataset, Part(index, 2), out, **options, memory=memory)
        plan = read_plan(plan_path(out, Part(index, 2)))
        assert plan is not None
        assert plan.memory == parse_size(memory)
    merged = merge_parts([out])
    ours, theirs = merged.scores(), whole.scores()
    assert ours["status"] == theirs["status"]
    for name in ("gradient_bidirectional", "representation_harmful"):
        np.testing.assert_allclose(ours[name].to_numpy(), theirs[name].to_numpy(), atol=2e-5, equal_nan=True)
    assert merged.manifest["memory"]["kept"]
    assert [part["memory"]["memory"] for part in merged.manifest["parts"]] == [64 * 10**9, 65 * 10**9]


@pytest.fixture
def no_merged_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Merging leaves out the page, which takes longer than the rest."""
    monkeypatch.setattr(import_module("ripcurrent.scan._merge"), "build_report", lambda folder: folder)
