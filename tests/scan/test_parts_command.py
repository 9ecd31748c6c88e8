"""``scan --shard`` from the command line."""

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.cli.command import Command, judge
from tests.tiny_scan import good_rows, write_jsonl


def test_parts_by_a_slurm_array(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = write_jsonl(tmp_path / "rows.jsonl", good_rows(300))
    out = tmp_path / "out"
    cheap = ("--signals", "representation", "--json")
    for name, value in (("COUNT", "2"), ("MIN", "1"), ("MAX", "2")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    said = []
    for task in (1, 2):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(task))
        said.append(command.scan(dataset, "--out", out, "--shard", "auto", *cheap))
    assert [one.code for one in said] == [0, 0], said[0].err + said[1].err
    assert said[0].json == {"run": str(out), "part": "0/2", "rows_scored_in_this_call": 256}
    assert (said[1].json["scored"], said[1].json["rows"]) == (300, 300)
    assert command.scan(dataset, "--out", tmp_path / "alone", *cheap).code == 0
    one, other = (pq.read_table(folder / "scores.parquet") for folder in (out, tmp_path / "alone"))
    assert one.equals(other)
    assert (out / "report.html").is_file()


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


def test_a_part_says_what_it_did(command: Command, rows_file: Path, tmp_path: Path) -> None:
    said = command.scan(rows_file, "--out", tmp_path / "out", "--shard", "1/2", "--signals", "representation")
    assert said.code == 0
    # all twelve rows are one shard, and the other part has none
    assert "12 of 12 rows scored" in " ".join(said.out.split())


def test_options_that_make_no_sense(command: Command, rows_file: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    command.scan_fails(rows_file, *out, "--shard", "2/2", says=("no part 2 of 2", "0/2 to 1/2"))
    command.scan_fails(
        rows_file, *out, "--executor", "dask", says=("--executor dask is not possible", "'local' or 'ray'")
    )
    command.scan_fails(rows_file, *out, "--workers", "2", says=("--workers is an option of --executor ray",))
    command.scan_fails(rows_file, *out, "--ray-address", "auto", says=("--ray-address is an option",))
    command.scan_fails(
        rows_file, *out, "--shard", "0/2", "--tokens", "top:5", says=("--tokens does not go", "at the end")
    )
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
    assert pq.read_table(tmp_path / "out" / "scores.parquet").num_rows == 300
