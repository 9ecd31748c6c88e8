"""The run folder from the command line: unwritable, full, another run's, in use, stopped by Ctrl-C."""

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ripcurrent.runs import RunFolder
from tests.cli.command import Command
from tests.tiny_scan import good_rows, write_jsonl

SLOW = """
import signal, sys, time
from ripcurrent.cli import run
from ripcurrent.cli._output import TerminalProgress

class Slow(TerminalProgress):
    def rows(self, count):
        super().rows(count)
        time.sleep(0.3)

# a process started in the background of a script inherits that Ctrl-C is ignored
signal.signal(signal.SIGINT, signal.default_int_handler)
import ripcurrent.cli._output
ripcurrent.cli._output.TerminalProgress = Slow
sys.exit(run(sys.argv[1:]))
"""


def test_unwritable_out(command: Command, rows_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command.scan_fails(rows_file, "--out", tmp_path / "file", says=("file is a file, not a folder", "--out"))
    command.scan_fails(
        rows_file, "--out", tmp_path / "file" / "out", says=("cannot be written", "Not a directory", "--out")
    )
    if Path("/proc/self").exists():
        command.scan_fails(rows_file, "--out", "/proc/ripcurrent", says=("/proc/ripcurrent cannot be written",))


def test_out_that_holds_other_files_or_another_run(command: Command, rows_file: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    command.scan_fails(rows_file, "--out", tmp_path / "mine", says=("notes.txt", "no run of ripcurrent"))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    out = tmp_path / "out"
    assert command.scan(rows_file, "--out", out, "--quiet").code == 0
    before = (out / "scores.parquet").read_bytes()
    command.scan_fails(
        rows_file, "--out", out, "--position", "last_content",
        says=("holds another run", "its position is 'last', now 'last_content'", "--out"),
    )  # fmt: skip
    assert (out / "scores.parquet").read_bytes() == before


def test_two_scans_in_one_folder_at_once(command: Command, rows_file: Path, tmp_path: Path) -> None:
    with RunFolder(tmp_path / "out", {}):
        command.scan_fails(rows_file, "--out", tmp_path / "out", says=("Another run is at work", "Wait", "--out"))


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Writing past ``size`` bytes of a file fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_no_room_at_any_stage_is_told_and_the_same_command_goes_on_later(command: Command, tmp_path: Path) -> None:
    dataset = write_jsonl(tmp_path / "rows.jsonl", good_rows(60))
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert command.scan(dataset, "--out", whole, "--quiet").code == 0
    sizes = {path.name: path.stat().st_size for path in whole.rglob("*") if path.is_file()}
    written = ("config.yaml", "shard-00000.parquet", "scores.parquet", "manifest.json", "report.html")
    named = set()
    for size in sorted(sizes[name] * 9 // 10 for name in written):
        too_large = next(name for name in written if sizes[name] > size)
        with files_of_at_most(size):
            command.scan_fails(dataset, "--out", out, says=(str(out), too_large, "written", "File too large", "space"))
        named.add(too_large)
        assert not list(out.rglob("*.part"))
        assert not list(out.rglob(too_large))
    assert {"config.yaml", "shard-00000.parquet", "report.html"} <= named
    assert command.scan(dataset, "--out", out, "--quiet").code == 0
    assert (out / "scores.parquet").read_bytes() == (whole / "scores.parquet").read_bytes()


def test_no_room_for_the_directions(
    command: Command, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "cache"))
    with files_of_at_most(20_000):
        command.scan_fails(rows_file, "--out", tmp_path / "out", says=("directions", "RIPCURRENT_CACHE"))
    assert not list((tmp_path / "cache").rglob("*.part"))
    assert command.scan(rows_file, "--out", tmp_path / "out", "--quiet").code == 0


def test_ctrl_c_stops_with_130_and_the_same_command_goes_on(command: Command, tmp_path: Path) -> None:
    dataset = write_jsonl(tmp_path / "rows.jsonl", good_rows(40))
    out = tmp_path / "out"
    arguments = ["scan", str(dataset), "--out", str(out), "--shard-rows", "8", *command._tiny, *command._anchors]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 120
    while not (out / "signals" / "shard-00000.done").exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stdout == ""
    assert "Traceback" not in stderr
    assert stderr.strip().splitlines()[-2:] == [
        "Error: Stopped.", "What was finished is kept: give the same command again to go on.",
    ]  # fmt: skip
    assert not (out / "scores.parquet").exists()
    first = (out / "signals" / "shard-00000.parquet").stat().st_mtime_ns
    said = command(*arguments, "--json")
    assert (said.code, said.json["scored"]) == (0, 40)
    assert (out / "signals" / "shard-00000.parquet").stat().st_mtime_ns == first
