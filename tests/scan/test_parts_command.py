"""``scan --shard`` and ``merge`` from the command line."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.cli.command import Command, judge
from tests.tiny_scan import good_rows, write_jsonl

pytestmark = pytest.mark.usefixtures("no_page", "no_merged_page")


@pytest.fixture
def no_merged_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Merging leaves out the page, which takes longer than the rest."""
    monkeypatch.setattr(import_module("ripcurrent.scan._merge"), "build_report", lambda folder: folder)


def test_parts_by_a_slurm_array_and_their_merge(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write_jsonl(tmp_path / "rows.jsonl", good_rows(300))
    out = tmp_path / "out"
    cheap = ("--signals", "representation")
    for name, value in (("COUNT", "2"), ("MIN", "1"), ("MAX", "2")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    rows = []
    for task in (1, 2):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(task))
        if task == 2:
            judge(command("merge", out, "--quiet"), ("part 1/2 is missing (1 of 2 shards are there)", "--shard 1/2"))
        said = command.scan(dataset, "--out", out, "--shard", "auto", "--json", *cheap)
        assert said.code == 0, said.err
        assert said.json["part"] == f"{task - 1}/2"
        rows.append(said.json["rows"])
    assert rows == [256, 44]
    merged = command("merge", out, "--json")
    assert (merged.code, merged.json["scored"]) == (0, 300)
    assert command.scan(dataset, "--out", tmp_path / "alone", "--quiet", *cheap).code == 0
    one, other = (pq.read_table(folder / "scores.parquet") for folder in (out, tmp_path / "alone"))
    assert one.equals(other)


def test_one_task_given_again_alone_is_noticed_in_the_usual_folder_too(
    command: Command, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parts = tmp_path / "runs" / rows_file.stem / "parts"
    parts.mkdir(parents=True)
    (parts / "2-of-8.json").write_text("{}")
    for name in ("ID", "MIN", "MAX"):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", "3")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "1")
    judge(command.scan(rows_file, "--shard", "auto"), ("holds part 2 of 8", "--shard i/8"))


def test_what_a_part_is_told_next(command: Command, rows_file: Path, tmp_path: Path) -> None:
    said = command.scan(rows_file, "--out", tmp_path / "out", "--shard", "0/2", "--signals", "representation")
    assert said.code == 0
    assert "Part 0/2: 0 rows" in said.out
    assert f"When all 2 parts are done: ripcurrent merge {tmp_path / 'out'}" in said.out


def test_a_part_with_a_prefilter_is_told_to_come_again(command: Command, rows_file: Path, tmp_path: Path) -> None:
    how = ("--out", tmp_path / "out", "--prefilter", "50%", "--shard-rows", "4")
    said = command.scan(rows_file, *how, "--shard", "0/2")
    assert said.code == 0
    assert f"when every part has come so far\nin {tmp_path / 'out'}, which all parts must share." in said.out
    waits = [command.scan(rows_file, *how, "--shard", part, "--json").json["waits"] for part in ("1/2", "0/2")]
    assert waits == [False, False]
    again = command.scan(rows_file, *how, "--shard", "1/2").out
    assert re.search(r"Part 1/2: \d+ rows, both passes are done, 0 rows of either computed now", again)
    assert "Prefilter:" in command("merge", tmp_path / "out").out


def test_options_that_make_no_sense(command: Command, rows_file: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    command.scan_fails(rows_file, *out, "--shard", "2/2", says=("no part 2 of 2", "0/2 to 1/2"))
    command.scan_fails(rows_file, *out, "--executor", "dask", says=("no executor 'dask'", "local, ray"))
    command.scan_fails(rows_file, *out, "--workers", "2", says=("--workers is an option of --executor ray",))
    command.scan_fails(rows_file, *out, "--ray-address", "auto", says=("--ray-address is an option",))
    command.scan_fails(
        rows_file, *out, "--shard", "0/2", "--tokens", "top:5", says=("--tokens does not go", "at the end")
    )
    judge(command("merge", tmp_path / "out"), ("holds no run",))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_parts_by_torchrun(command: Command, tmp_path: Path, tiny_folder: Path, anchors_file: Path) -> None:
    """The documented command line, with two processes that torchrun really starts."""
    dataset = write_jsonl(tmp_path / "rows.jsonl", good_rows(300))
    tiny = ["--model", tiny_folder, "--device", "cpu", "--dtype", "float32", "--anchors", anchors_file]
    options = [*tiny, "--no-anchor-check", "--signals", "representation", "--out", tmp_path / "out", "--shard", "auto"]
    ripcurrent = Path(sys.executable).with_name("ripcurrent")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", 2, "--no-python", "--"]
    words = [str(word) for word in [*torchrun, ripcurrent, "scan", dataset, *options, "--quiet"]]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {path.stem for path in (tmp_path / "out" / "parts").glob("*.json")} == {"0-of-2", "1-of-2"}
    merged = command("merge", tmp_path / "out", "--json")
    assert (merged.code, merged.json["scored"]) == (0, 300)
