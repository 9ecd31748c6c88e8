"""The files of ``select RUN --top 5 --drop``: their names, and which rows are in them in which order."""

import shutil
from pathlib import Path

import pytest

from tests.golden.small import asked_for_json, plain_rows, read_jsonl

CONTROLS = ("random", "length", "format", "loss")
SEEDS = (0, 1, 2)
GOLDEN = {
    "top-5-control-bottom": [58, 38, 57, 53, 8],
    "top-5-control-format-0": [5, 15, 35, 45, 55],
    "top-5-control-format-1": [5, 15, 20, 35, 55],
    "top-5-control-format-2": [0, 15, 20, 35, 45],
    "top-5-control-length-0": [16, 20, 36, 45, 56],
    "top-5-control-length-1": [16, 20, 36, 45, 56],
    "top-5-control-length-2": [16, 20, 36, 45, 56],
    "top-5-control-loss-0": [15, 16, 20, 36, 45],
    "top-5-control-loss-1": [15, 16, 20, 45, 55],
    "top-5-control-loss-2": [15, 16, 20, 45, 55],
    "top-5-control-random-0": [1, 18, 23, 37, 43],
    "top-5-control-random-1": [3, 11, 32, 47, 54],
    "top-5-control-random-2": [1, 2, 6, 17, 37],
    "top-5": [30, 10, 50, 25, 40],
}
"""Row numbers by file, in the file's order."""


@pytest.fixture(scope="module")
def selections(scanned, tmp_path_factory) -> Path:
    run = shutil.copytree(scanned.folder, tmp_path_factory.mktemp("selected") / "run")
    asked_for_json("select", run, "--top", 5, "--drop")
    return run / "selections"


def numbers(path: Path) -> list[int]:
    """Which rows a file holds, each as it is in the dataset."""
    rows = plain_rows(60)
    return [rows.index(row) for row in read_jsonl(path)]


def test_the_names_of_the_files(selections):
    names = ["top-5", "top-5-control-bottom", *(f"top-5-control-{kind}-{seed}" for kind in CONTROLS for seed in SEEDS)]
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
