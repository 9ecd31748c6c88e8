"""The files of ``select RUN --top 5 --drop --controls``: their names, and which rows are in them in which order."""

import shutil
from pathlib import Path

import pytest

from tests.golden.small import asked_for_json, plain_rows, read_jsonl

CONTROLS = [f"{kind}-{seed}" for kind in ("random", "length", "format", "loss") for seed in range(3)]
GOLDEN = {
    "top-5-control-bottom": [30, 47, 27, 57, 42],
    "top-5-control-format-0": [13, 25, 26, 40, 56],
    "top-5-control-format-1": [10, 11, 30, 38, 56],
    "top-5-control-format-2": [0, 11, 31, 35, 58],
    "top-5-control-length-0": [0, 15, 25, 33, 48],
    "top-5-control-length-1": [0, 25, 33, 35, 48],
    "top-5-control-length-2": [0, 25, 41, 48, 53],
    "top-5-control-loss-0": [15, 40, 43, 48, 53],
    "top-5-control-loss-1": [15, 40, 43, 48, 53],
    "top-5-control-loss-2": [15, 40, 43, 48, 53],
    "top-5-control-random-0": [1, 19, 24, 37, 42],
    "top-5-control-random-1": [4, 12, 32, 47, 53],
    "top-5-control-random-2": [1, 2, 7, 18, 37],
    "top-5": [28, 3, 55, 45, 8],
}
"""Row numbers by file, in the file's order."""


@pytest.fixture(scope="module")
def selections(scanned, tmp_path_factory) -> Path:
    run = shutil.copytree(scanned.folder, tmp_path_factory.mktemp("selected") / "run")
    asked_for_json("select", run, "--top", 5, "--drop", "--controls")
    return run / "selections"


def numbers(path: Path) -> list[int]:
    """Which rows a file holds, each as it is in the dataset."""
    rows = plain_rows(60)
    return [rows.index(row) for row in read_jsonl(path)]


def test_the_names_of_the_files(selections):
    names = ["top-5", "top-5-control-bottom", *(f"top-5-control-{name}" for name in CONTROLS)]
    expected = {f"{name}.{suffix}" for name in names for suffix in ("json", "jsonl")} | {"without-top-5.jsonl"}
    assert expected <= {path.name for path in selections.iterdir()}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_rows_of_a_file(selections, name):
    assert numbers(selections / f"{name}.jsonl") == GOLDEN[name]


def test_the_riskiest_rows_come_first(selections, scanned):
    assert numbers(selections / "top-5.jsonl") == [one["row"] for one in scanned.json["riskiest"][:5]]


def test_what_is_left_is_the_dataset_without_the_selection(selections, files):
    chosen = set((selections / "top-5.jsonl").read_text().splitlines())
    left = [line for line in files.rows.read_text().splitlines() if line not in chosen]
    assert len(chosen) == 5
    assert (selections / "without-top-5.jsonl").read_text().splitlines() == left
